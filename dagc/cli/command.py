"""The command line: its words, and how a run of it ends. What each command does stands in a file of its own.

Exit codes: 0, all is well; 1, something is wrong or was refused; 2, the command line itself; 130, Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dagc.cli.bench import LONGEST, bench
from dagc.cli.doctor import doctor
from dagc.cli.explain import explain
from dagc.cli.failure import told
from dagc.cli.report import report
from dagc.cli.target import TargetError, call_target, load_target, parse_target
from dagc.cli.values import parse_input, parse_inputs, parse_option
from dagc.errors import DagcError
from dagc.report import check_suffix

__all__ = ["main"]

T = TypeVar("T")

_TARGET = """\
MODULE:FUNCTION   a module or a .py file, and in it a function that needs no arguments, makes actors, binds their
                  methods and returns the DAG: a node, or a MultiOutputNode. It must not compile the DAG.
"""
_EXPLAIN = f"""{_TARGET}
examples:
  dagc explain pipeline:build
  dagc explain pipelines/two.py:build -o max_inflight=4
  dagc explain pipeline:build --predict 0.01 --cores 8     every call takes 10 ms, on 8 cores
  dagc explain pipeline:build --predict costs.json         {{"Stage_0.forward": 0.012, ...}}, in seconds
  dagc explain pipeline:build --draw dag.svg
"""
_REPORT = f"""{_TARGET}
examples:
  dagc report pipeline:build --input 3 --out run.html
  dagc report pipeline:build --input '[1, 2]' --input mask=true --executions 1000
  dagc report pipeline:build --input-from pipeline:batch   whatever batch() returns
"""
_DOCTOR = """\
ok  it is there and works
--  it is not there, and dagc runs without it
!!  a problem: dagc does not run, or not well, until it is mended; the exit code is 1 then

examples:
  dagc doctor
  dagc doctor --json | jq '.[] | select(.status == "!!")'
"""
_BENCH = """\
Each figure stands beside a limit of this machine that was measured in turns with it. Compare ratios between machines,
not times. For runs side by side with Ray: benchmarks/ in the repository.

examples:
  dagc bench
  dagc bench --seconds 60 --json > bench.json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `dagc`; returns its exit code. A command line that cannot be read raises SystemExit(2)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if "input" in options:
        try:
            options.inputs = parse_inputs(options.input)
        except ValueError as error:
            parser.error(f"argument --input: {error}")
    try:
        code: int = options.run(options)
        sys.stdout.flush()  # here, where a reader that has gone away can still be told from a failure
        return code
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except TargetError as error:
        return _fail(options.command, str(error))
    except (DagcError, OSError) as error:
        return _fail(options.command, told(error))


def _fail(command: str, why: str) -> int:
    sys.stdout.flush()
    print(f"dagc {command}: {why}", file=sys.stderr)
    return 1


def _run_explain(given: argparse.Namespace) -> int:
    explain(given.target, dict(given.option), given.predict, given.cores, given.draw)
    return 0


def _run_report(given: argparse.Namespace) -> int:
    inputs = given.inputs
    if given.input_from is not None:
        inputs = ((call_target(given.input_from, load_target(given.input_from)),), {})
    report(given.target, dict(given.option), inputs, given.executions, given.out)
    return 0


def _run_doctor(given: argparse.Namespace) -> int:
    return doctor(given.json)


def _run_bench(given: argparse.Namespace) -> int:
    return bench(given.seconds, given.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dagc",
        description="Static graphs of actor calls: what one will do, what it did, and what this machine can.",
        epilog="dagc COMMAND --help says more, with examples. The exit code is 0, 1 if something is wrong, 2 for a "
        "command line that cannot be read.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = _command(commands, "explain", _run_explain, "print a DAG's graph and plan; nothing is started", _EXPLAIN)
    _add_target(command)
    command.add_argument(
        "--predict",
        metavar="COSTS",
        help="also what it would take: seconds of every call, or a JSON file {call: seconds}",
    )
    command.add_argument("--cores", type=_checked(_count), metavar="N", help="of the machine to predict (this one's)")
    command.add_argument(
        "--draw", "--svg", type=_checked(_file), metavar="FILE", help="draw the graph and the plan: .svg, .png or .dot"
    )

    command = _command(commands, "report", _run_report, "run a DAG, and write what it did as a page", _REPORT)
    _add_target(command)
    values = command.add_mutually_exclusive_group()
    values.add_argument(
        "--input",
        action="append",
        default=[],
        type=_checked(parse_input),
        metavar="[NAME=]VALUE",
        help="an argument of every execution, JSON or a Python literal; again for a second one",
    )
    values.add_argument(
        "--input-from",
        type=_checked(_target),
        metavar="MODULE:FUNCTION",
        help="the argument is what this function returns: for arrays and tensors",
    )
    command.add_argument("--executions", type=_checked(_count), default=100, metavar="N", help="how many (%(default)s)")
    command.add_argument(
        "--out",
        type=_checked(_page),
        default=Path("run.html"),
        metavar="FILE",
        help="where the page goes (%(default)s)",
    )

    command = _command(commands, "doctor", _run_doctor, "say what of this machine dagc can use", _DOCTOR)
    command.add_argument("--json", action="store_true", help="a list of objects: name, status, found, advice")

    command = _command(
        commands, "bench", _run_bench, "measure compiled graphs beside the limits of this machine", _BENCH
    )
    command.add_argument(
        "--seconds",
        type=_checked(_seconds),
        default=12.0,
        metavar="S",
        help=f"how long to measure, at most {LONGEST:g} (%(default)g); starting the processes takes some more",
    )
    command.add_argument("--json", action="store_true", help="every round, times in seconds")
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], short: str, examples: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=short,
        description=f"{short[0].upper()}{short[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", type=_checked(_target), metavar="MODULE:FUNCTION", help="what makes the DAG; see below"
    )
    parser.add_argument(
        "-o",
        "--option",
        action="append",
        default=[],
        type=_checked(parse_option),
        metavar="NAME=VALUE",
        help="an option of dagc.compile, as max_inflight=4; again for a second one",
    )


def _checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """For argparse, which hides the text of a ValueError."""

    def read(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _target(text: str) -> str:
    parse_target(text)
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r}; expected a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= LONGEST:
        raise ValueError(f"{text!r}; expected seconds, above 0 and at most {LONGEST:g}")
    return value


def _page(text: str) -> Path:
    check_suffix(text)
    return _file(text)


def _file(text: str) -> Path:
    """To be written: refused now where it cannot be, and not after the run."""
    path = Path(text)
    if not path.parent.is_dir():
        raise ValueError(f"{text!r}: there is no folder {path.parent}")
    if path.is_dir():
        raise ValueError(f"{text!r} is a folder; expected the name of a file")
    return path

"""The command line: what it reads, what it imports, and how it says what is wrong. No process is started."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from channels import RemoteTraceback
from dagc.cli import main
from dagc.cli.bench import ROWS, Row
from dagc.cli.failure import told
from dagc.cli.target import TargetError, call_target, load_target, parse_target
from dagc.cli.text import memory, rate, times
from dagc.cli.timing import Sample, latency, merged, throughput
from dagc.cli.values import parse_costs, parse_input, parse_inputs, parse_option
from dagc.errors import ActorDiedError, GraphError

ROOT = Path(__file__).parents[2]
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _imports_are_undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command changes sys.path, which is its process's own; here it is the tests'."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield
    for name in sys.modules.keys() - known:
        del sys.modules[name]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module of a name of its own into the current folder; returns the name."""
    monkeypatch.chdir(tmp_path)

    def write(source: str) -> str:
        name = f"user_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        return name

    return write


# ---- values ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_inflight=4", ("max_inflight", 4)),
        ("timeout=1.5", ("timeout", 1.5)),
        ("timeout=None", ("timeout", None)),
        ("spin=auto", ("spin", "auto")),
        ("name='a b'", ("name", "a b")),
        ("name=a=b", ("name", "a=b")),
        ("name=", ("name", "")),
    ],
)
def test_options(text: str, expected: tuple[str, Any]) -> None:
    assert parse_option(text) == expected


@pytest.mark.parametrize("text", ["max_inflight", "=4", "max-inflight=4", ""])
def test_what_is_no_option(text: str) -> None:
    with pytest.raises(ValueError, match="expected NAME=VALUE, as max_inflight=4"):
        parse_option(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", (None, 3)),
        ('{"a": [1, null, true]}', (None, {"a": [1, None, True]})),
        ("{'a': (1, None)}", (None, {"a": (1, None)})),
        ('"a=b"', (None, "a=b")),
        ("mask=[true]", ("mask", [True])),
        ("text='x'", ("text", "x")),
        ("b'\\x00'", (None, b"\0")),
    ],
)
def test_inputs(text: str, expected: tuple[str | None, Any]) -> None:
    assert parse_input(text) == expected


@pytest.mark.parametrize("text", ["hello", "mask=hello", "[1,", "", "f(3)"])
def test_what_is_no_input(text: str) -> None:
    with pytest.raises(ValueError, match="neither JSON nor a Python literal; a text needs quotes"):
        parse_input(text)


def test_several_inputs() -> None:
    assert parse_inputs([(None, 1), ("mask", 2), (None, 3)]) == ((1, 3), {"mask": 2})
    assert parse_inputs([]) == ((), {})
    with pytest.raises(ValueError, match="'mask' is given twice"):
        parse_inputs([("mask", 1), ("mask", 2)])


def test_costs(tmp_path: Path) -> None:
    assert parse_costs("0.01", ["A.f", "B.f"]) == {"A.f": 0.01, "B.f": 0.01}
    file = tmp_path / "costs.json"
    file.write_text('{"A.f": 1, "B.f": 0.5}')
    assert parse_costs(str(file), ["A.f", "B.f"]) == {"A.f": 1.0, "B.f": 0.5}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"A.f": 1}', "B.f: without a cost; the calls of the graph are: A.f, B.f"),
        ('{"A.f": 1, "B.f": 1, "C.f": 1}', "C.f: no such call; the calls of the graph are: A.f, B.f"),
        ('{"A.f": "1", "B.f": 1}', "A.f costs '1'; expected seconds"),
        ('{"A.f": true, "B.f": 1}', "A.f costs True; expected seconds"),
        ('{"A.f": NaN, "B.f": 1}', "A.f costs nan; expected seconds"),
        ("[1]", "a list; expected an object"),
        ("{", "Expecting property name"),
    ],
)
def test_what_are_no_costs(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "costs.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=reason):
        parse_costs(str(file), ["A.f", "B.f"])


def test_costs_that_are_neither_a_number_nor_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a number of seconds nor a file"):
        parse_costs(str(tmp_path / "none.json"), [])
    with pytest.raises(ValueError, match=r"every call costs -1\.0; expected seconds"):
        parse_costs("-1", ["A.f"])


# ---- what the user names ----


def test_targets_have_two_parts() -> None:
    assert parse_target("examples.hello:build") == ("examples.hello", "build")
    assert parse_target("./a:b/two.py:build") == ("./a:b/two.py", "build")
    for text in ("build", ":build", "a:", "a:b c", "a:b.c"):
        with pytest.raises(ValueError, match="expected MODULE:FUNCTION"):
            parse_target(text)


def test_a_module_of_the_current_folder(module: Callable[[str], str]) -> None:
    text = f"{module('def build(): return 7')}:build"
    assert call_target(text, load_target(text)) == 7


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "alone_here.py").write_text("def build(): return __name__")
    assert load_target(f"{tmp_path}/alone_here.py:build")() == "alone_here"


def test_a_file_of_a_package_is_imported_as_part_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "outer_one" / "inner"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").write_text("")
    (folder / "other.py").write_text("value = 5")
    (folder / "two.py").write_text("from outer_one.inner.other import value\ndef build(): return value, __name__")
    assert load_target(f"{folder}/two.py:build")() == (5, "outer_one.inner.two")
    (folder / "__init__.py").write_text("def build(): return __name__")
    del sys.modules["outer_one.inner"]
    assert load_target(f"{folder}/__init__.py:build")() == "outer_one.inner"


def refused(text: str) -> str:
    with pytest.raises(TargetError) as caught:
        call_target(text, load_target(text))
    return str(caught.value)


def test_a_file_whose_name_is_taken(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("def build(): ...")
    assert f"{tmp_path}/json.py would be the module 'json', but another one has that name" in refused(
        f"{tmp_path}/json.py:build"
    )


def test_what_is_not_there(module: Callable[[str], str], tmp_path: Path) -> None:
    assert "there is no module 'nowhere_1'; looked in" in refused("nowhere_1:build")
    assert "there is no module 'nowhere_1'; looked in" in refused("nowhere_1.sub:build")
    assert f"there is no file none.py; looked in {tmp_path}" in refused("none.py:build")
    name = module("def build_it(): ...\ndef _own(): ...\nvalue = 3\n")
    assert refused(f"{name}:build") == (
        f"module {name} ({tmp_path}/{name}.py) has no 'build'; did you mean build_it? Its functions are: build_it"
    )
    assert refused(f"{name}:zzz").endswith("has no 'zzz'. Its functions are: build_it")
    assert refused(f"{name}:value") == f"{name}:value is 3; expected a function that binds a DAG and returns it"


def test_a_function_that_needs_arguments(module: Callable[[str], str]) -> None:
    name = module("def build(stages, *, depth=2): ...")
    assert refused(f"{name}:build") == (
        f"{name}:build(stages, *, depth=2): missing a required argument: 'stages'; it is called without arguments: "
        "name a function that needs none, for example `def build(): return build(...)`"
    )


def test_the_user_sees_his_own_traceback_alone(module: Callable[[str], str], tmp_path: Path) -> None:
    name = module("def build():\n    return helper()\n\ndef helper():\n    return 1 / 0\n")
    said = refused(f"{name}:build")
    assert said.startswith(
        f'{name}:build raised this:\n\nTraceback (most recent call last):\n  File "{tmp_path}/{name}.py"'
    )
    assert said.endswith("ZeroDivisionError: division by zero")
    assert "line 2, in build" in said
    assert "line 5, in helper" in said
    assert str(ROOT) not in said


def test_an_import_that_raises(module: Callable[[str], str], tmp_path: Path) -> None:
    said = refused(f"{module('import nowhere_2')}:build")
    assert "ModuleNotFoundError: No module named 'nowhere_2'" in said
    assert "line 1, in <module>" in said
    assert "importlib" not in said
    assert str(ROOT) not in said
    name = module("def build(:")
    said = refused(f"{name}:build")
    assert "SyntaxError" in said
    assert f'File "{tmp_path}/{name}.py", line 1' in said
    assert str(ROOT) not in said


def test_a_module_that_ends_the_program(module: Callable[[str], str]) -> None:
    said = refused(f"{module('raise SystemExit(0)')}:build")
    assert "SystemExit(0); let what ends the program stand under `if __name__ == '__main__'`" in said


def test_what_dagc_raises_passes_and_is_told_with_the_users_line(module: Callable[[str], str], tmp_path: Path) -> None:
    name = module("import dagc\n\ndef build():\n    return dagc.remote(max_concurency=2)\n")
    with pytest.raises(GraphError) as caught:
        call_target(f"{name}:build", load_target(f"{name}:build"))
    said = told(caught.value).splitlines()
    assert said[0].startswith("GraphError: unknown ")
    assert said[1] == f"  at {tmp_path}/{name}.py:4, in build: return dagc.remote(max_concurency=2)"


# ---- explain ----

PIPELINE = """
import dagc

@dagc.remote
class Stage:
    def forward(self, x): ...

def build():
    first, second = Stage.remote(), Stage.remote()
    with dagc.InputNode() as x:
        return second.forward.bind(first.forward.bind(x))

def starts(): dagc.init()
def waits(): dagc.get(Stage.remote().forward.remote(1))
def typo(): return Stage.remote().forwrd.bind(1)
def nothing(): build()
def several(): return [build()]
def compiles(): return dagc.compile(build())
"""


def test_explain(module: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = module(PIPELINE)
    assert run("explain", f"{name}:build", "-o", "max_inflight=4", "-o", "name=two", "--draw", "dag.dot") == 0
    said = capsys.readouterr().out
    assert "Stage_1.forward = Stage_1.forward(Stage_0.forward)\n" in said
    assert "\nplan two: 4 in flight, bind order, 3 parties, 3 channels" in said
    assert said.endswith("\nThe picture is in dag.dot\n")
    assert "digraph" in (tmp_path / "dag.dot").read_text()


def test_explain_predicts(module: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = f"{module(PIPELINE)}:build"
    (tmp_path / "costs.json").write_text('{"Stage_0.forward": 0.5, "Stage_1.forward": 0.25}')
    assert run("explain", target, "--predict", "costs.json", "--cores", "7") == 0
    table = capsys.readouterr().out.partition("on 7 cores\n")[2]
    assert "Stage_0" in table
    assert "Stage_1" in table
    (tmp_path / "costs.json").write_text('{"Stage_0.forward": 0.5}')
    assert run("explain", target, "--predict", "costs.json") == 1
    assert "Stage_1.forward: without a cost" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("starts", "but not compile it, call dagc.init() or wait for a value."),
        ("waits", "but not compile it, call dagc.init() or wait for a value."),
        ("compiles", "cannot run a compiled graph on Stage("),
        ("typo", "dagc explain: NoSuchMethodError: actor Stage has no method 'forwrd'"),
        ("nothing", "returned None; expected a DAG that is not compiled"),
        ("several", "GraphError: the output is a list; for several results write MultiOutputNode"),
        ("absent", "has no 'absent'"),
    ],
)
def test_what_explain_refuses(
    function: str, said: str, module: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("explain", f"{module(PIPELINE)}:{function}") == 1
    heard = capsys.readouterr()
    assert said in heard.err
    assert (heard.out, "Traceback" in heard.err) == ("", False)


def test_explain_with_an_option_that_there_is_not(
    module: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("explain", f"{module(PIPELINE)}:build", "-o", "max_inflght=2") == 1
    assert "did you mean max_inflight?" in capsys.readouterr().err


# ---- failures ----


def test_a_remote_traceback_is_told_whole() -> None:
    error = ValueError("bad")
    error.__cause__ = RemoteTraceback("Traceback (most recent call last):\n  File x\nValueError: bad")
    assert told(error) == "ValueError: bad\n\nTraceback (most recent call last):\n  File x\nValueError: bad"


def test_a_cause_is_told() -> None:
    error = ActorDiedError("Stage(a)", 7, "its constructor raised: KeyError: 1")
    error.__cause__ = ValueError("bad")
    assert told(error) == f"ActorDiedError: {error}\n\nbecause of ValueError: bad"


# ---- the command line ----


def run(*arguments: str) -> int:
    """The exit code. argparse ends the process by itself, also after --help."""
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["explain"], "the following arguments are required: MODULE:FUNCTION"),
        (["explain", "pipeline"], "argument MODULE:FUNCTION: 'pipeline'; expected MODULE:FUNCTION, as examples.hello:"),
        (["explain", "a:b", "-o", "max_inflight"], "argument -o/--option: 'max_inflight'; expected NAME=VALUE"),
        (["explain", "a:b", "--cores", "0"], "argument --cores: '0'; expected a whole number of at least 1"),
        (["explain", "a:b", "--draw", "no/such/dag.svg"], "'no/such/dag.svg': there is no folder no/such"),
        (["report", "a:b", "--input", "hello"], "argument --input: 'hello' is neither JSON nor a Python literal"),
        (["report", "a:b", "--input", "x=1", "--input", "x=2"], "argument --input: the input 'x' is given twice"),
        (["report", "a:b", "--input", "1", "--input-from", "a:b"], "not allowed with argument"),
        (["report", "a:b", "--executions", "many"], "argument --executions: 'many'; expected a whole number"),
        (["report", "a:b", "--out", "run.pdf"], "argument --out: cannot write a report to 'run.pdf': it is a page"),
        (["report", "a:b", "--out", "."], "argument --out: '.' is a folder; expected the name of a file"),
        (["bench", "--seconds", "61"], "argument --seconds: '61'; expected seconds, above 0 and at most 60"),
        (["bench", "--seconds", "soon"], "argument --seconds: 'soon'; expected seconds"),
    ],
)
def test_a_command_line_that_cannot_be_read(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["explain"], ["report"], ["doctor"], ["bench"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command, "--help") == 0
    said = capsys.readouterr().out
    assert not command or "examples:\n  dagc " in said
    assert said.startswith(f"usage: dagc {' '.join(command)}".rstrip())


def test_help_imports_neither_torch_nor_numpys_friends() -> None:
    """What starts at every call of the command must be there at once."""
    program = "import sys; from dagc.cli import main; main(['doctor', '--help'])"
    check = "finally: print(sorted({'torch', 'ray', 'cupy', 'PIL', 'rich'} & set(sys.modules)), file=sys.stderr)"
    lines = f"import sys\ntry:\n    {program}\n{check}"
    done = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")


# ---- figures ----


def test_quantities() -> None:
    assert [memory(n) for n in (0, 1536, 2**20, 3.5 * 2**30)] == ["0 B", "1.5 KiB", "1 MiB", "3.5 GiB"]
    assert rate(136033.4) == "136,033 /s"
    assert [times(n) for n in (0.05, 9.994, 1234.5)] == ["0.05 x", "9.99 x", "1,234 x"]


def test_latency_counts_its_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0]
    monkeypatch.setattr("dagc.cli.timing.now", lambda: clock[0])

    def prepare() -> int:
        clock[0] += 1_000_000
        return 7

    def step(prepared: int) -> None:
        assert prepared == 7
        clock[0] += 2_000

    found = latency(step, 1.0, prepare)
    assert (found.p50, found.p99) == (2e-6, 2e-6)
    assert found.steps == 999  # of 1 ms and 2 us each, in a second that has begun before the first


def test_a_rate_is_that_of_slices_and_its_p99_a_low_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, flying, seen = [0], [0], [0]
    monkeypatch.setattr("dagc.cli.timing.now", lambda: clock[0])

    def submit() -> None:
        flying[0] += 1
        seen[0] = max(seen[0], flying[0])

    def collect(_: object) -> None:
        flying[0] -= 1
        clock[0] += 1_000 if clock[0] < 900_000_000 else 4_000

    found = throughput(submit, collect, depth=3, duration=1.0, steps=10)
    assert (found.p50, found.p99) == (1e6, 2.5e5)
    assert (flying[0], seen[0]) == (0, 3)
    assert found.steps % 10 == 0


def test_one_disturbed_round_does_not_count() -> None:
    assert merged([Sample(1, 4, 10), Sample(50, 60, 2), Sample(2, 5, 10)]) == Sample(2, 5, 22)


def test_ratios_say_how_much_longer_dagc_takes() -> None:
    found = {"a": Sample(6.0, 9.0, 1), "b": Sample(2.0, 9.0, 1)}
    assert Row("", "a", "b").ratio(found) == 3.0
    assert Row("", "b", "a", is_rate=True).ratio(found) == 3.0
    assert Row("", "a").ratio(found) is None
    assert len({row.title for row in ROWS}) == len(ROWS)

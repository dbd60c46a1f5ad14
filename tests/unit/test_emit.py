"""The source of an actor's loop, as text; that it does the right thing is for the tests of whole graphs."""

from __future__ import annotations

from typing import Any, NamedTuple

from dagc.emit import emit
from dagc.program import Invoke, Program, Recv, Run, Send, Slot, Step


class Point(NamedTuple):
    x: Any
    y: Any


def program(*steps: Step) -> Program:
    return Program("test", "Stage_0", steps, 9, {"input": 0}, ("Stage_0.forward",))


def run(*calls: Invoke) -> Run:
    return Run(calls)


def call_of(*args: Any, **kwargs: Any) -> tuple[str, dict[str, Any]]:
    """The call and the constants of one run."""
    source, constants = emit(program(run(Invoke("Stage_0.forward", "forward", args, kwargs, (8,)))))
    (line,) = (line for line in source.splitlines() if "call_0(" in line)
    return line.strip(), constants


def test_a_stage_of_a_pipeline() -> None:
    source, constants = emit(
        program(
            Recv("input", 0),
            Run((Invoke("Stage_0.forward", "forward", (Slot(0),), {}, (1,)),), last=(0,)),
            Send("Stage_0.forward", 1, last=(1,)),
        )
    )
    assert source == (
        "def loop(executions):\n"
        "    for n in executions:\n"
        "        v0 = recv_0(n)\n"
        "        if type(v0) is Failure:\n"
        "            v1 = v0\n"
        "        else:\n"
        "            try:\n"
        "                with turn:\n"
        "                    v1 = call_1(v0)\n"
        "            except BaseException as error:\n"
        "                v1 = fail_1(error, n)\n"
        "        v0 = None\n"
        "        try:\n"
        "            send_2(v1, n)\n"
        "        except Ended:\n"
        "            raise\n"
        "        except Exception as error:\n"
        "            send_2(unsent_2(error, n), n)\n"
        "        v1 = None\n"
    )
    assert constants == {}


def test_the_first_failure_among_the_arguments_passes_through_every_value() -> None:
    source, _ = emit(program(run(Invoke("s", "split", (Slot(2), [Slot(5)]), {"k": Slot(2)}, (6, 7), unpack=True))))
    assert "if type(v2) is Failure:\n            v6 = v7 = v2\n        elif type(v5) is Failure:" in source
    assert "v6, v7, = parts_0(call_0(v2, [v5], k=v2))" in source


def test_templates_are_written_out_and_the_rest_is_constants() -> None:
    whole = [1, {"a": 2}]
    line, constants = call_of(whole, [Slot(0), "x"], {"k": (Slot(1),)}, Point(Slot(0), 3), None, True, 7)
    assert line == "v8 = call_0(c0, [v0, c1], {c2: (v1,)}, c3((v0, 3,)), None, True, 7)"
    assert constants["c0"] is whole
    assert (constants["c1"], constants["c2"]) == ("x", "k")
    assert constants["c3"]((1, 2)) == Point(1, 2)


def test_a_keyword_that_is_no_name_is_passed_all_the_same() -> None:
    line, constants = call_of(**{"class": Slot(0), "a-b": 1, "fine": 2})
    assert line == "v8 = call_0(**{c0: v0}, **{c1: 1}, fine=2)"
    assert list(constants.values()) == ["class", "a-b"]


def test_a_call_without_values_is_made_without_a_look_at_any() -> None:
    source, _ = emit(program(run(Invoke("s", "constant", (), {}, (0,)))))
    assert "Failure" not in source
    assert "v0 = call_0()" in source

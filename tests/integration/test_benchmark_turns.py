"""Contestants that take turns: one that does not answer costs its row, not the run, and leaves no process behind."""

import sys
from pathlib import Path

import pytest

from benchmarks import peer, turns
from benchmarks.run import RAY_PYTHON
from benchmarks.turns import Contestant, Way, contestants, ray_contestant, take_turns

SILENT = "tests.silent_peer"


def children() -> set[str]:
    """Of this process: the pids of those that run the silent contestant."""

    def read(path: Path) -> str:
        try:
            return path.read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
            return ""

    pids = {pid for task in Path("/proc/self/task").iterdir() for pid in read(task / "children").split()}
    return {pid for pid in pids if SILENT in read(Path("/proc", pid, "cmdline"))}


def test_who_does_not_answer_is_ended_and_started_again_for_the_next_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "ASK_SECONDS", 2.0)
    with contestants(Contestant("a", SILENT), Contestant("b", SILENT)) as there:
        assert len(children()) == 2
        hang, answer = {"bench": "hang"}, {"bench": "answer"}
        first = take_turns([Way("hangs", there["a"], hang), Way("answers", there["b"], answer)], 3, 0.25)
        assert len(first["hangs"]) == 1, "it is not asked again in this row"
        assert first["hangs"][0]["error"].startswith("no answer within 2.25 s")
        assert first["answers"] == [{"p50_us": 0.25}] * 3
        assert len(children()) == 1

        second = take_turns([Way("answers", there["a"], answer), Way("hangs", there["a"], hang)], 1, 0.25)
        assert second["answers"] == [{"p50_us": 0.25}]
        third = take_turns([Way("answers", there["a"], answer)], 1, 0.25)
        assert third == {"answers": []}, "there is one second chance"
    assert not children()


def test_who_is_ended_by_an_exception_in_the_block_leaves_no_process() -> None:
    with pytest.raises(ZeroDivisionError), contestants(Contestant("a", SILENT)):
        raise ZeroDivisionError
    assert not children()


@pytest.mark.parametrize(
    ("python", "needs", "wanted", "reason"),
    [
        (
            None,
            ("torch",),
            True,
            f"not installed: install the extra ray, or set {RAY_PYTHON} to a Python with ray, torch",
        ),
        (sys.executable, ("no_such_module",), True, f"{sys.executable} lacks ray, no_such_module"),
        ("/no/such/python", (), True, f"{RAY_PYTHON}=/no/such/python does not run"),
        (sys.executable, (), False, "--no-ray"),
    ],
)
def test_without_ray_its_reason_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, python: str | None, needs: tuple[str, ...], wanted: bool, reason: str
) -> None:
    monkeypatch.setattr(turns, "find_spec", lambda _: None)
    if python is None:
        monkeypatch.delenv(RAY_PYTHON, raising=False)
    else:
        monkeypatch.setenv(RAY_PYTHON, python)
    found = ray_contestant(SILENT, needs, wanted)
    assert found.reason.startswith(reason)
    assert found.ask({"bench": "answer", "seconds": 0.0}) == {"error": found.reason}
    found.revive()
    assert not children()
    found.close()

"""Contestants in turns: round by round, so that whatever else the machine does meanwhile happens to all of them.

A contestant that does not answer in time is ended by its Peer, with whatever it started; it is started once more for
the next row, because one size that it cannot do says nothing about the others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from benchmarks.peer import Peer
from benchmarks.protocol import Answer
from benchmarks.ray_folder import ray_folder
from benchmarks.run import PAUSE_SECONDS, RAY_PYTHON

__all__ = ["Contestant", "Way", "contestants", "ray_contestant", "take_turns"]

#: How often a contestant is started anew after it had to be ended.
SECOND_CHANCES = 1
PROBE_SECONDS = 60.0
PROBE = "import importlib.util as u, sys; print(*[name for name in sys.argv[1:] if u.find_spec(name) is None])"


class _Peer(Peer):
    """Of Ray no file stays."""

    def close(self) -> None:
        process = self._process
        super().close()
        if process is not None:
            shutil.rmtree(ray_folder(process.pid), ignore_errors=True)


class Contestant:
    """A peer that may get a second chance. `reason` says why it takes no part, if it does not."""

    def __init__(self, name: str, module: str, python: str | None = sys.executable, reason: str = "") -> None:
        self.name = name
        self._module = module
        self._python = python
        self._chances = SECOND_CHANCES
        self._peer = _Peer(name, python, module, reason)

    @property
    def reason(self) -> str:
        return self._peer.reason

    @property
    def facts(self) -> Mapping[str, str]:
        return self._peer.facts

    def ask(self, question: Mapping[str, Any]) -> Answer:
        """The answer, or {"error": why there is none}."""
        return self._peer.ask(question)

    def revive(self) -> None:
        """Before a new row: start it again, if it was there and had to be ended."""
        if self._peer.reason and self._python is not None and self._chances:
            self._chances -= 1
            self._peer = _Peer(self.name, self._python, self._module)

    def close(self) -> None:
        self._peer.close()


@dataclass(frozen=True)
class Way:
    """One way to do what a row measures: whom to ask, and what."""

    name: str
    contestant: Contestant
    question: Mapping[str, Any]


def take_turns(ways: Sequence[Way], rounds: int, seconds: float) -> Mapping[str, Sequence[Answer]]:
    """Name of each way -> its answers, one a round; none of a contestant that takes no part.

    Who fails is not asked again in this row: a timeout takes long.
    """
    for contestant in {id(way.contestant): way.contestant for way in ways}.values():
        contestant.revive()
    found: dict[str, list[Answer]] = {way.name: [] for way in ways}
    asked = [way for way in ways if not way.contestant.reason]
    for _ in range(rounds):
        for way in asked:
            answers = found[way.name]
            if not answers or "error" not in answers[-1]:
                answers.append(way.contestant.ask({**way.question, "seconds": seconds}))
                time.sleep(PAUSE_SECONDS)
    return found


@contextmanager
def contestants(*started: Iterator[Contestant] | Contestant) -> Iterator[dict[str, Contestant]]:
    """By name; all of them are ended when the block is left, however it is left."""
    with ExitStack() as ends:
        found: dict[str, Contestant] = {}
        for source in started:
            for contestant in [source] if isinstance(source, Contestant) else source:
                ends.callback(contestant.close)
                found[contestant.name] = contestant
                if contestant.reason:
                    print(f"no figures of {contestant.name}: {contestant.reason}")
        yield found


def ray_contestant(module: str, needs: Sequence[str], wanted: bool) -> Contestant:
    """Ray, run by this Python if it has it, else by the one that DAGC_BENCH_RAY_PYTHON names, which need not have dagc.

    `needs`: the modules that it must have beside ray.
    """
    if not wanted:
        return Contestant("Ray", module, None, "--no-ray")
    python = sys.executable if find_spec("ray") else os.environ.get(RAY_PYTHON)
    if not python:
        reason = (
            f"not installed: install the extra ray, or set {RAY_PYTHON} to a Python with {', '.join(('ray', *needs))}"
        )
        return Contestant("Ray", module, None, reason)
    try:
        probe = [python, "-c", PROBE, "ray", *needs]
        lacking = subprocess.run(
            probe, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True
        ).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        return Contestant("Ray", module, None, f"{RAY_PYTHON}={python} does not run: {error}")
    if lacking:
        reason = f"{python} lacks {', '.join(lacking)}: {python} -m pip install {' '.join(lacking)}"
        return Contestant("Ray", module, None, reason)
    return Contestant("Ray", module, python)

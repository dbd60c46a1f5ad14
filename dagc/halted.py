"""Halted: whether the process of an actor is stopped, by a signal or a debugger, which looks as if it computed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from runtime.calls import ActorHandle
from runtime.engine import Engine

__all__ = ["Halted", "halt_of"]

#: By the state of a process in /proc, see proc_pid_stat(5).
_HALTS: Mapping[str, str] = {
    "T": "is stopped (SIGCONT lets it go on)",
    "t": "is held by a debugger or tracer",
}


def halt_of(pid: int) -> str:
    """What keeps a process of this machine from running, in words; nothing if it may run, or is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state = stat.rpartition(")")[2].split()[0]  # the name before it may hold anything
    return f"its process {pid} {_HALTS[state]}" if state in _HALTS else ""


class Halted:
    """Of the actors of one graph, by their names in it."""

    def __init__(self, handles: Mapping[str, ActorHandle], engine: Engine) -> None:
        self._handles = handles
        self._engine = engine

    def __call__(self, actor: str) -> str:
        """What keeps its process from running, in words; nothing if it may run or is on another machine."""
        return halt_of(self._pids[actor]) if actor in self._pids else ""

    @cached_property
    def _pids(self) -> Mapping[str, int]:
        # Asked when the first timeout wants to know: it is a round trip, and who polls with timeouts does it often.
        here = self._engine.here()
        infos = self._engine.describe(list(self._handles.values()))
        return {name: info.pid for name, info in zip(self._handles, infos, strict=True) if info.node == here}

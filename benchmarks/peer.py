"""The driving side of a contestant: its process, asked line by line, ended at the end. See protocol.py."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.protocol import Answer

__all__ = ["Peer"]

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 90.0
ASK_SECONDS = 60.0
END_SECONDS = 30.0


class Peer:
    """A contestant. `reason` says why its column stays empty, if it does; `facts` what it says of itself."""

    def __init__(self, name: str, python: str | None, module: str, reason: str = "") -> None:
        """Without a `python` there is no process, only the reason."""
        self.name = name
        self.reason = reason
        self.facts: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
        self._started: set[int] = set()
        if python is None:
            return
        self._process = subprocess.Popen(
            [python, "-m", module], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=0
        )
        hello = self._reply(START_SECONDS)
        self.facts = hello.get("ready", {})
        if "ready" not in hello:
            self._give_up(hello.get("refused") or hello["error"])

    def ask(self, question: Mapping[str, Any]) -> Answer:
        """The answer, or {"error": why there is none}. A contestant that does not answer is ended."""
        if self._process is None:
            return {"error": self.reason}
        assert self._process.stdin is not None, "it was asked for"
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            answer = self._reply(ASK_SECONDS + question["seconds"])
        except BrokenPipeError:
            answer = {"error": f"its process ended; {self._last_words()}", "fatal": True}
        if answer.get("fatal"):
            self._give_up(answer["error"])
        return answer

    def close(self) -> None:
        """End the contestant, and whatever it started and did not end itself."""
        process = self._process
        if process is None:
            self._log.close()
            return
        self._process = None
        assert process.stdin is not None, "it was asked for"
        self._started |= _descendants(process.pid)
        process.stdin.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in self._started:
            if _parent(pid) is not None:
                os.kill(pid, signal.SIGKILL)
        assert process.stdout is not None, "it was asked for"
        process.stdout.close()
        self._log.close()

    def _reply(self, seconds: float) -> Answer:
        assert self._process is not None, "the caller has looked"
        assert self._process.stdout is not None, "it was asked for"
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                return {"error": f"no answer within {seconds:g} s; {self._last_words()}", "fatal": True}
        line = self._process.stdout.readline()
        if not line:
            return {"error": f"its process ended; {self._last_words()}", "fatal": True}
        answer: Answer = json.loads(line)
        return answer

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        process = self._process
        assert process is not None, "it has just answered, or failed to"
        self._started |= _descendants(process.pid)
        process.kill()
        self.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"it last said: {lines[-1]}" if lines else "it said nothing"


def _descendants(pid: int) -> set[int]:
    """Of a process, through /proc: its children, theirs, and so on."""
    parents = {int(entry.name): _parent(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found and child not in found}:
        found |= more
    return found - {pid}


def _parent(pid: int) -> int | None:
    """None if there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None

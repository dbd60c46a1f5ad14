"""Plain processes that are ranks of a gloo group, each with a pipe to the contestant that started them.

>  ("name", {arguments})
<  (result, "")  or  (None, "ValueError: ...")
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch.distributed as dist

__all__ = ["RankProcesses"]

END_SECONDS = 10.0


class RankProcesses:
    """`make(rank)` in each of `ranks` processes, whose methods `all` calls."""

    def __init__(self, make: Callable[[int], Any], ranks: int) -> None:
        """`make` is pickled: it is a class, or a function of a module."""
        spawn = multiprocessing.get_context("spawn")
        # A file for the store: no port is opened but gloo's own, between the ranks.
        self._folder = tempfile.TemporaryDirectory()
        self._pipes: list[Connection] = []
        self._processes = []
        store = str(Path(self._folder.name, "store"))
        for rank in range(ranks):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_rank, args=(theirs, make, rank, ranks, store), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def all(self, name: str, **arguments: Any) -> list[Any]:
        """What the method returns on each rank; all of them make it at once. Raises RuntimeError if it raises."""
        for pipe in self._pipes:
            pipe.send((name, arguments))
        replies = [pipe.recv() for pipe in self._pipes]
        for rank, (_, error) in enumerate(replies):
            if error:
                raise RuntimeError(f"rank {rank}: {error}")
        return [result for result, _ in replies]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(END_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        self._folder.cleanup()


def _rank(pipe: Connection, make: Callable[[int], Any], rank: int, ranks: int, store: str) -> None:
    # Standard output may be the pipe on which the contestant replies, and gloo prints.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # gloo asks for the address of the host's name otherwise, which need not be there.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    made = make(rank)
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            dist.destroy_process_group()
            return
        try:
            reply = getattr(made, name)(**arguments), ""
        except Exception as error:  # noqa: BLE001 - how a contestant fails is a result
            reply = None, f"{type(error).__name__}: {error}"
        pipe.send(reply)

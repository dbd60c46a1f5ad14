"""What a check of `channels.testing_communicators` gets, and what its ranks need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from channels.base import Failure
from channels.communicators.base import Communicator, GroupHandle, Transport
from channels.errors import ChannelBroken
from channels.testing_ranks import WATCHDOG, Party

__all__ = ["Members", "Subject", "caught"]

#: The communicators of this process, by group and rank: they stay between the calls of a party.
_joined: dict[tuple[bytes, int], Communicator] = {}


@dataclass(frozen=True)
class Members:
    """A group whose ranks have joined, each in its party."""

    handle: GroupHandle
    parties: Sequence[Party]

    def start(self, rank: int, function: Callable[..., Any], *args: Any) -> None:
        """Begin `function(communicator, *args)` on that rank."""
        self.parties[rank].start(_call, self.handle.id, rank, function, args)

    def outcome(self, rank: int) -> Any:
        """What the rank's call returned. Raises what it raised."""
        outcome = self.parties[rank].outcome()
        if isinstance(outcome, Failure):
            raise outcome.unwrap()
        return outcome

    def all(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """The call on every rank, and what each returned. Raises what the rank raised at which it began to go wrong."""
        for rank in range(len(self.parties)):
            self.start(rank, function, *args)
        outcomes = [party.outcome() for party in self.parties]
        failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        # One that fails stops the others: their errors tell less.
        for failure in sorted(failures, key=lambda failure: isinstance(failure.error, ChannelBroken)):
            raise failure.unwrap()
        return outcomes


@dataclass(frozen=True)
class Subject:
    """How to make what is checked, and where its ranks are."""

    transport: Transport
    parties: Sequence[Party]

    @contextmanager
    def group(self, world_size: int, parties: Sequence[Party] | None = None) -> Iterator[Members]:
        """A new group that all ranks have joined. At the end whoever is still at work is stopped."""
        handle = self.transport.create(world_size, "checked")
        members = Members(handle, (parties or self.parties)[:world_size])
        try:
            for rank, party in enumerate(members.parties):
                party.start(_join, self.transport, handle.id, rank, world_size)
            for rank in range(world_size):
                members.outcome(rank)
            yield members
        finally:
            handle.destroy()
            for rank, party in enumerate(members.parties):
                party.settle()
                party.start(_part, handle.id, rank)
            for party in members.parties:
                party.settle()

    def run(self, world_size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What `function(communicator, *args)` returned on each rank of a new group."""
        with self.group(world_size) as members:
            return members.all(function, *args)

    @property
    def world_sizes(self) -> tuple[int, ...]:
        """A pair, an odd number, and as many as there may be."""
        return tuple(dict.fromkeys((2, min(3, len(self.parties)), len(self.parties))))


def caught(kind: type[BaseException], call: Callable[..., Any], *args: Any) -> str:
    """The text of the error of that kind that the call raises."""
    try:
        value = call(*args)
    except kind as error:
        return str(error)
    raise AssertionError(f"expected {kind.__name__}, got {value!r}")


def _join(transport: Transport, group_id: bytes, rank: int, world_size: int) -> None:
    _joined[group_id, rank] = transport.join(group_id, rank, world_size, WATCHDOG)


def _call(group_id: bytes, rank: int, function: Callable[..., Any], args: Sequence[Any]) -> Any:
    communicator = _joined[group_id, rank]
    try:
        return function(communicator, *args)
    except BaseException as error:
        communicator.abort(f"rank {rank} failed: {error!r}")  # or the others would wait for it
        raise


def _part(group_id: bytes, rank: int) -> None:
    communicator = _joined.pop((group_id, rank), None)
    if communicator is not None:
        communicator.destroy()

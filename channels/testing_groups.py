"""The checks of groups: abort, timeouts, destroy. `channels.testing_communicators` runs them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from channels.base import Failure
from channels.communicators.base import Communicator, Transport
from channels.communicators.tensors import ReduceOp, TensorSpec
from channels.errors import ChannelBroken, ChannelClosed, ChannelTimeout
from channels.testing_group_subject import Members, Subject, caught
from channels.testing_ranks import WATCHDOG, ProcessParty

#: Seconds that a rank waits for one that never comes.
_SHORT = 0.05

Operation = tuple[str, tuple[Any, ...]]


def perform(communicator: Communicator, operation: Operation, timeout: float | None = WATCHDOG) -> Any:
    """The operation; of a pair, with the other rank of the first two."""
    name, shape = operation
    kind, _, variant = name.partition("_")
    tensor = np.ones(shape, variant if variant == "int32" else np.float32)
    if kind in ("allreduce", "reducescatter"):
        op = ReduceOp.MAX if variant == "max" else ReduceOp.SUM
        return getattr(communicator, kind)(tensor, op, timeout=timeout)
    if kind == "allgather":
        return communicator.allgather(tensor, timeout=timeout)
    if kind == "broadcast":
        return communicator.broadcast(tensor, int(variant), timeout)
    return getattr(communicator, kind)(tensor, 1 - communicator.rank, timeout)


def sum_of_ranks(communicator: Communicator) -> float:
    """All is well: something small, something large and something between two."""
    rank, n = communicator.rank, communicator.world_size
    large = communicator.allreduce(np.full(100_000, rank, np.float32), timeout=WATCHDOG)
    assert large.min() == large.max() == n * (n - 1) / 2
    if rank == 0:
        communicator.send(np.arange(3.0), 1, WATCHDOG)
    elif rank == 1:
        assert communicator.recv(TensorSpec((3,), "float64"), 0, WATCHDOG).tolist() == [0.0, 1.0, 2.0]
    return float(communicator.allreduce(np.array([rank], np.float64), timeout=WATCHDOG)[0])


def broken(communicator: Communicator, operation: Operation) -> str:
    return caught(ChannelBroken, perform, communicator, operation)


# ---- abort ----


def abort_of_a_member_reaches_every_rank_with_its_reason(subject: Subject) -> None:
    for n in subject.world_sizes:
        for operation in (("allreduce", (4,)), ("allreduce", (100_000,)), ("broadcast_0", (4,))):
            with subject.group(n) as members:
                for rank in range(n - 1):
                    members.start(rank, broken, operation)
                members.start(n - 1, _abort, "the optimizer diverged")
                members.outcome(n - 1)
                for rank in range(n - 1):
                    assert "the optimizer diverged" in members.outcome(rank)
                _stays_broken(members, "the optimizer diverged")
    with subject.group(2) as members:  # who waits for a partner
        members.start(0, broken, ("recv", (4,)))
        members.start(1, _abort, "no partner")
        members.outcome(1)
        assert "no partner" in members.outcome(0)


def _abort(communicator: Communicator, reason: str) -> None:
    communicator.abort(reason)


def _stays_broken(members: Members, reason: str) -> None:
    for operation in (("allreduce", (4,)), ("allgather", (0,)), ("send", (4,)), ("recv", (100_000,))):
        for rank in range(2):
            members.start(rank, broken, operation)
            assert reason in members.outcome(rank)


def abort_of_the_creator_reaches_every_rank_also_when_members_have_died(subject: Subject) -> None:
    n = len(subject.parties)
    with subject.group(n) as members:
        for rank in range(1, n):
            members.start(rank, broken, ("allreduce", (4,)))
        members.handle.abort("the driver is leaving")
        for rank in range(1, n):
            assert "the driver is leaving" in members.outcome(rank)
        _stays_broken(members, "the driver is leaving")
    victim = ProcessParty()
    waiting = {0: ("recv", (4,)), 2: ("allreduce", (4,))} if n > 2 else {0: ("recv", (4,))}
    parties = [subject.parties[0], victim, *subject.parties[2:3]]
    try:
        with subject.group(len(parties), parties) as members:
            for rank, operation in waiting.items():
                members.start(rank, broken, operation)
            victim.kill()
            members.handle.abort("the driver saw it die")
            for rank in waiting:
                told = members.outcome(rank)
                assert "the driver saw it die" in told or "rank 1" in told, told
    finally:
        victim.close()


def check_tells_what_has_gone_wrong_with_what_runs_on_its_own(subject: Subject) -> None:
    with subject.group(2) as members:
        members.all(_check)
        members.handle.abort("seen by a check")
        for rank in range(2):
            members.start(rank, _check_broken)
            members.outcome(rank)


def _check(communicator: Communicator) -> None:
    communicator.check()


def _check_broken(communicator: Communicator) -> None:
    if communicator.asynchronous:
        assert "seen by a check" in caught(ChannelBroken, communicator.check)
    else:
        communicator.check()
        assert "seen by a check" in broken(communicator, ("allreduce", (4,)))


def abort_from_another_thread_ends_the_wait(subject: Subject) -> None:
    with subject.group(2) as members:
        members.start(0, _abort_beside)
        assert "changed my mind" in members.outcome(0)
        members.start(1, broken, ("allreduce", (4,)))
        assert "changed my mind" in members.outcome(1)


def _abort_beside(communicator: Communicator) -> str:
    aborter = threading.Timer(_SHORT, communicator.abort, ("changed my mind",))
    aborter.start()
    text = caught(ChannelBroken, communicator.allreduce, np.ones(4))
    aborter.join()
    return text


# ---- timeouts ----


def a_rank_that_does_not_come_breaks_the_group(subject: Subject) -> None:
    for operation in (
        ("allreduce", (4,)),
        ("allreduce", (100_000,)),
        ("allgather", (4,)),
        ("recv", (4,)),
        ("send", (4,)),
    ):
        for timeout in (0, _SHORT):
            with subject.group(2) as members:
                members.start(0, _timed_out, operation, timeout)
                assert "rank 1" in members.outcome(0)
                _stays_broken(members, "rank 1")
    n = len(subject.parties)
    if n > 2:
        with subject.group(n) as members:
            members.start(1, _timed_out, ("allreduce", (4,)), _SHORT)
            for rank in range(2, n):
                members.start(rank, broken, ("allreduce", (4,)))
            assert _names_rank_0(members.outcome(1))
            for rank in range(2, n):
                told = members.outcome(rank)
                assert "rank 1" in told, told
                assert _names_rank_0(told), told


def _names_rank_0(told: str) -> bool:
    """Alone, or as the first of those who had not come yet: the others may be slow."""
    return "rank 0" in told or "ranks 0," in told


def _timed_out(communicator: Communicator, operation: Operation, timeout: float) -> str:
    return caught(ChannelTimeout, perform, communicator, operation, timeout)


def a_rank_that_does_not_join_breaks_the_group(subject: Subject) -> None:
    handle = subject.transport.create(2, "lonely")
    try:
        subject.parties[0].start(_join_in_vain, subject.transport, handle.id, _SHORT, ChannelTimeout)
        assert_text(subject.parties[0].outcome(), "rank 1")
        subject.parties[1].start(_join_late, subject.transport, handle.id)
        assert_text(subject.parties[1].outcome(), "rank 1")
    finally:
        handle.destroy()
        for party in subject.parties[:2]:
            party.settle()


def _join_in_vain(transport: Transport, group_id: bytes, timeout: float, kind: type[BaseException]) -> str:
    return caught(kind, transport.join, group_id, 0, 2, timeout)


def _join_late(transport: Transport, group_id: bytes) -> str:
    return caught(ChannelBroken, transport.join, group_id, 1, 2, WATCHDOG)


def assert_text(outcome: Any, text: str) -> None:
    if isinstance(outcome, Failure):
        raise outcome.unwrap()
    assert text in outcome, f"expected {text!r} in {outcome!r}"


# ---- the end ----


def whoever_waits_for_a_rank_that_left_is_told(subject: Subject) -> None:
    n = subject.world_sizes[1]
    for operation in (("allreduce", (4,)), ("allreduce", (100_000,)), ("recv", (4,)), ("send", (4,))):
        with subject.group(n) as members:
            pair = operation[0] in ("send", "recv")
            waiting = [0] if pair else [rank for rank in range(n) if rank != 1]
            for rank in waiting:
                members.start(rank, _closed, operation)
            members.start(1, _leave)
            members.outcome(1)
            for rank in waiting:
                assert "rank 1" in members.outcome(rank)
            members.start(1, _closed, ("allreduce", (4,)))
            assert members.outcome(1)


def _closed(communicator: Communicator, operation: Operation) -> str:
    return caught(ChannelClosed, perform, communicator, operation)


def _leave(communicator: Communicator) -> None:
    communicator.destroy()


def destroy_disturbs_nobody_who_is_still_busy(subject: Subject) -> None:
    for _ in range(5):
        with subject.group(subject.world_sizes[1]) as members:
            assert len(set(members.all(_last_operation))) == 1


def _last_operation(communicator: Communicator) -> float:
    total = communicator.allreduce(np.full(200_000, communicator.rank + 1.0))
    communicator.destroy()
    assert total.min() == total.max()
    return float(total[0])


def destroying_and_aborting_twice_is_allowed(subject: Subject) -> None:
    with subject.group(2) as members:
        members.all(_leave)
        members.all(_leave)
        members.all(_abort, "too late to matter")
        members.handle.abort("whatever")
        members.handle.abort("again")
        members.handle.destroy()
        members.handle.destroy()
        members.handle.abort("after the end")


def an_end_of_the_creators_handle_breaks_the_group(subject: Subject) -> None:
    with subject.group(2) as members:
        members.start(0, broken, ("allreduce", (4,)))
        members.handle.destroy()
        assert "destroyed" in members.outcome(0)
        members.start(1, broken, ("allreduce", (4,)))
        assert "destroyed" in members.outcome(1)


def wrong_ids_ranks_and_sizes_are_refused(subject: Subject) -> None:
    transport = subject.transport
    for world_size in (0, -1):
        caught(ValueError, transport.create, world_size)
    with subject.group(2) as members:
        for rank, size in ((2, 2), (-1, 2), (0, 3)):
            caught(ValueError, transport.join, members.handle.id, rank, size, WATCHDOG)
        caught(ValueError, transport.join, b"", 0, 2, WATCHDOG)
        caught(ValueError, transport.join, b"garbage" * 20, 0, 2, WATCHDOG)
        assert "joined" in caught(ChannelBroken, transport.join, members.handle.id, 0, 2, WATCHDOG)
        assert members.all(sum_of_ranks) == [1.0, 1.0]
        gone = members.handle.id
    caught(ChannelBroken, transport.join, gone, 0, 2, WATCHDOG)


def groups_do_not_disturb_each_other(subject: Subject) -> None:
    with subject.group(2) as one, subject.group(2) as other:
        for _ in range(3):
            assert one.all(sum_of_ranks) == [1.0, 1.0]
            assert other.all(sum_of_ranks) == [1.0, 1.0]
        one.handle.abort("this one alone")
        assert other.all(sum_of_ranks) == [1.0, 1.0]
        _stays_broken(one, "this one alone")

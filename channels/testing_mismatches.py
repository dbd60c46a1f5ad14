"""The checks of what ranks ask for: mismatches, and what is refused. `channels.testing_communicators` runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from channels.communicators.base import Communicator
from channels.communicators.tensors import TensorSpec
from channels.errors import MismatchError
from channels.testing_group_subject import Members, Subject, caught
from channels.testing_groups import Operation, broken, perform, sum_of_ranks
from channels.testing_ranks import WATCHDOG

# What two ranks ask for at once, and what must stand in the error. "floats": a tensor of that many float32.
_MISMATCHES: tuple[tuple[Operation, Operation, str, str], ...] = (
    (("allreduce", (4,)), ("allreduce", (5,)), "allreduce sum of float32 (4,)", "allreduce sum of float32 (5,)"),
    (("allreduce", (50_000,)), ("allreduce", (4,)), "float32 (50000,)", "float32 (4,)"),
    (("allreduce", (2, 3)), ("allreduce", (3, 2)), "(2, 3)", "(3, 2)"),
    (("allreduce", (6,)), ("allreduce", (6, 1)), "(6,)", "(6, 1)"),
    (("allreduce", (4,)), ("allreduce_int32", (4,)), "float32 (4,)", "int32 (4,)"),
    (("allreduce", (4,)), ("allreduce_max", (4,)), "allreduce sum", "allreduce max"),
    (("allreduce", (4,)), ("allgather", (4,)), "allreduce", "allgather"),
    (("reducescatter", (4,)), ("reducescatter", (5,)), "reducescatter sum of float32 (4,)", "(5,)"),
    (("broadcast_0", (4,)), ("broadcast_1", (4,)), "from rank 0", "from rank 1"),
    (("broadcast_0", (4,)), ("broadcast_0", (40_000,)), "float32 (4,)", "float32 (40000,)"),
    (("send", (4,)), ("recv", (5,)), "send of float32 (4,) to rank 1", "recv of float32 (5,) from rank 0"),
    (("send", (100_000,)), ("recv", (5,)), "send of float32 (100000,)", "recv of float32 (5,)"),
    (("send", (4,)), ("send", (4,)), "to rank 1", "to rank 0"),
    (("recv", (4,)), ("recv", (4,)), "from rank 1", "from rank 0"),
    (("allreduce", (4,)), ("send", (4,)), "allreduce sum", "send of float32 (4,) to rank 0"),
    (("recv", (50_000,)), ("allgather", (4,)), "recv of float32 (50000,) from rank 1", "allgather of float32 (4,)"),
)


def every_mismatch_is_told_to_every_rank_and_changes_nothing(subject: Subject) -> None:
    with subject.group(2) as members:
        if not all(members.all(_checks_requests)):
            return
        for one, other, of_one, of_other in _MISMATCHES:
            for first, second, texts in ((one, other, (of_one, of_other)), (other, one, ())):
                members.start(0, _mismatched, first)
                members.start(1, _mismatched, second)
                told, told_too = members.outcome(0), members.outcome(1)
                assert told == told_too, f"{told!r} and {told_too!r}: expected the same on both ranks"
                assert all(text in told for text in texts), f"expected {texts} in {told!r}"
                assert members.all(sum_of_ranks) == [1.0, 1.0], f"after {one} against {other}"
    if len(subject.parties) > 2:
        _among_many(subject)


def _among_many(subject: Subject) -> None:
    n = len(subject.parties)
    with subject.group(n) as members:
        for odd_one in (0, n - 1):
            for rank in range(n):
                members.start(rank, _mismatched, ("allreduce", (5 if rank == odd_one else 4,)))
            told = {members.outcome(rank) for rank in range(n)}
            assert len(told) == 1, f"{told}: expected the same on all ranks"
            assert "(5,)" in told.pop()
            assert members.all(sum_of_ranks) == [n * (n - 1) / 2] * n
        # Two of them are busy with each other, and not with what the others do.
        for rank in range(n):
            members.start(rank, _mismatched, ("allreduce", (4,)) if rank != 1 else ("recv", (4,)))
        assert all("recv of float32 (4,) from rank 0" in members.outcome(rank) for rank in range(n))
        assert members.all(sum_of_ranks) == [n * (n - 1) / 2] * n


def a_mismatch_among_several_tensors_is_told_to_both(subject: Subject) -> None:
    with subject.group(2) as members:
        if not all(members.all(_checks_requests)):
            return
        for one, other in (((4,), (5,)), ((5,), (4,)), ((50_000,), (5,))):
            members.start(0, _sends_several, [(3,), one])
            members.start(1, _receives_several, [(3,), other])
            told, told_too = members.outcome(0), members.outcome(1)
            assert told == told_too, f"{told!r} and {told_too!r}: expected the same on both ranks"
            assert f"({one[0]},)" in told, told
            assert members.all(sum_of_ranks) == [1.0, 1.0]


def _sends_several(communicator: Communicator, shapes: list[tuple[int, ...]]) -> str:
    tensors = [np.ones(shape, np.float32) for shape in shapes]
    return caught(MismatchError, lambda: communicator.isend(tensors, [1], WATCHDOG).wait())


def _receives_several(communicator: Communicator, shapes: list[tuple[int, ...]]) -> str:
    specs = [TensorSpec(shape, "float32") for shape in shapes]
    return caught(MismatchError, lambda: communicator.irecv(specs, 0, WATCHDOG).wait())


def a_rank_that_declines_is_told_to_all(subject: Subject) -> None:
    n = subject.world_sizes[1]
    with subject.group(n) as members:
        checks = all(members.all(_checks_requests))
        for operation in (("allreduce", (4,)), ("allgather", (100_000,)), ("broadcast_0", (4,))):
            for rank in range(n - 1):
                members.start(rank, _mismatched if checks else broken, operation)
            members.start(n - 1, _declined if checks else _decline)
            told = [members.outcome(rank) for rank in range(n)]
            assert all("declined" in text for text in told[: n if checks else n - 1]), told
            if not checks:
                return
            assert members.all(_decline) == [None] * n
            assert members.all(sum_of_ranks) == [n * (n - 1) / 2] * n


def _declined(communicator: Communicator) -> str:
    return caught(MismatchError, communicator.decline, WATCHDOG)


def _decline(communicator: Communicator) -> None:
    communicator.decline(WATCHDOG)


#: As short as can be, of no whole number of words, in one message with what it belongs to, and of many tiles.
_CAUSES = (b"", b"x", b"why?\0", bytes(range(256)) * 3, b"long" * 300_000 + b"!")


def every_rank_hears_why_one_declined(subject: Subject) -> None:
    for n in subject.world_sizes:
        with subject.group(n) as members:
            if not all(members.all(_checks_requests)):
                return
            for cause in _CAUSES:
                _hear(members, {n - 1: cause}, ("allreduce", (4,)))
            _hear(members, {0: b"the first"}, ("broadcast_0", (50_000,)))
            if n > 2:  # the lowest of several says it, also if it has nothing to say
                _hear(members, {1: b"the second", n - 1: b"the last"}, ("allgather", (4,)))
                _hear(members, {0: b"", 1: b"the second"}, ("allreduce", (100_000,)))
            assert members.all(_declines, b"all of them") == [None] * n
            for pair in (("send", (4,)), ("recv", (50_000,))):  # of rank 0 with rank 1, which declines
                for rank in range(n):
                    asked = pair if rank == 0 else ("allreduce", (4,))
                    members.start(rank, *((_declines, b"no partner") if rank == 1 else (_asks, asked)))
                assert [members.outcome(rank) for rank in range(n)] == [((1,), b"no partner")] * n
            for rank in range(n):  # nobody declines
                members.start(rank, _asks, ("allreduce", (4 + (rank == 0),)))
            assert [members.outcome(rank) for rank in range(n)] == [((), b"")] * n
            assert members.all(sum_of_ranks) == [n * (n - 1) / 2] * n


def _hear(members: Members, causes: Mapping[int, bytes], operation: Operation) -> None:
    n = len(members.parties)
    for rank in range(n):
        members.start(rank, *((_declines, causes[rank]) if rank in causes else (_asks, operation)))
    expected = tuple(sorted(causes)), causes[min(causes)]
    for rank in range(n):
        found = members.outcome(rank)
        assert found == expected, f"rank {rank} heard {found!r:.200}; expected {expected!r:.200}"
    assert members.all(sum_of_ranks) == [n * (n - 1) / 2] * n


def _asks(communicator: Communicator, operation: Operation) -> tuple[tuple[int, ...], bytes]:
    """Who declined, and why, as the error of the operation says."""
    try:
        value = perform(communicator, operation)
    except MismatchError as error:
        return error.declined, error.cause
    raise AssertionError(f"expected MismatchError, got {value!r}")


def _declines(communicator: Communicator, cause: bytes) -> tuple[tuple[int, ...], bytes] | None:
    """The same of a rank that declines; None if all have."""
    try:
        communicator.decline(WATCHDOG, cause)
    except MismatchError as error:
        return error.declined, error.cause
    return None


def _mismatched(communicator: Communicator, operation: Operation) -> str:
    return caught(MismatchError, perform, communicator, operation)


def _checks_requests(communicator: Communicator) -> bool:
    return communicator.checks_requests


def what_no_rank_can_do_is_refused_before_anybody_hears_of_it(subject: Subject) -> None:
    with subject.group(2) as members:
        members.start(0, _refused)
        assert members.outcome(0) is None
        assert members.all(sum_of_ranks) == [1.0, 1.0]


def _refused(communicator: Communicator) -> None:
    floats = np.ones(4, np.float32)
    wrong: tuple[tuple[type[Exception], Callable[[], Any]], ...] = (
        (TypeError, lambda: communicator.allreduce([1.0, 2.0])),
        (TypeError, lambda: communicator.allreduce(np.ones(4, np.complex64))),
        (TypeError, lambda: communicator.allreduce(np.ones(4, np.dtype(np.float32).newbyteorder()))),
        (TypeError, lambda: communicator.broadcast(TensorSpec((4,), "float32"), 0)),
        (TypeError, lambda: communicator.send(None, 1)),
        (ValueError, lambda: communicator.allreduce(floats, "mean")),
        (ValueError, lambda: communicator.allreduce(floats, out=np.ones(5, np.float32))),
        (ValueError, lambda: communicator.allreduce(floats, out=np.ones(4, np.float64))),
        (ValueError, lambda: communicator.allgather(floats, out=np.ones(4, np.float32))),
        (ValueError, lambda: communicator.reducescatter(floats, out=np.ones(4, np.float32))),
        (ValueError, lambda: communicator.broadcast(floats, 2)),
        (ValueError, lambda: communicator.broadcast(floats, -1)),
        (ValueError, lambda: communicator.send(floats, 0)),
        (ValueError, lambda: communicator.recv(floats, 2)),
        (ValueError, lambda: communicator.allreduce(floats, timeout=-1)),
    )
    for kind, call in wrong:
        caught(kind, call)


def a_first_dimension_that_cannot_be_divided_is_refused_on_every_rank(subject: Subject) -> None:
    with subject.group(2) as members:
        for shape in ((3,), (), (100_001, 2)):
            texts = members.all(_indivisible, shape)
            assert all("2" in text for text in texts), texts
        assert members.all(sum_of_ranks) == [1.0, 1.0]


def _indivisible(communicator: Communicator, shape: tuple[int, ...]) -> str:
    return caught(ValueError, perform, communicator, ("reducescatter", shape))

"""An actor's part in a collective when it has no tensor, and what can go wrong while it says why."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from channels import Failure
from channels.communicators import AgreedTransport, Communicator, ShmTransport, Transport, declines
from channels.communicators.gloo import GlooTransport
from channels.communicators.tensors import TensorSpec
from channels.errors import ChannelBroken, ChannelTimeout, MismatchError, SerializationError
from channels.testing_communicators import WATCHDOG, Subject, ThreadParty
from channels.testing_group_subject import Members, caught
from dagc.joining import joiner
from dagc.program import Join

STEP = Join("sums", "", "allreduce", "sum", 0, 0, 0)
TRANSPORTS: dict[str, Callable[[], Transport]] = {
    "shm": ShmTransport,
    "gloo": GlooTransport,
    "agreed": lambda: AgreedTransport(ShmTransport()),
}


@pytest.fixture(params=TRANSPORTS)
def pair(request: pytest.FixtureRequest) -> Iterator[Members]:
    if request.param == "gloo":
        pytest.importorskip("torch")
    with Subject(TRANSPORTS[request.param](), [ThreadParty(), ThreadParty()]).group(2) as members:
        yield members


def report(error: BaseException, execution: int) -> Failure:
    return Failure(error, f"the traceback of execution {execution}")


def join(communicator: Communicator, value: Any) -> Any:
    return joiner(STEP, communicator, report)(value, 7)


def joined(members: Members, *values: Any) -> list[Failure]:
    for rank, value in enumerate(values):
        members.start(rank, join, value)
    # Not members.outcome: it raises Failures.
    return [members.parties[rank].outcome() for rank in range(len(values))]


ONES = np.ones(3)


def test_the_failure_of_one_rank_is_that_of_all(pair: Members) -> None:
    given = Failure(KeyError("the cause"), "its traceback")
    heard, own = joined(pair, ONES, given)
    assert own is given
    for failure in (heard, own):
        assert (type(failure.error), failure.error.args, failure.traceback) == (
            KeyError,
            ("the cause",),
            "its traceback",
        )
        note = "kept sums from running on any rank, execution 7: rank 1 declined"
        assert failure.error.__notes__ == [note]  # type: ignore[attr-defined]
    assert heard.error is not own.error
    assert [value.tolist() for value in joined(pair, ONES, ONES)] == [[2.0] * 3] * 2  # type: ignore[attr-defined]


def test_if_all_fail_each_keeps_its_own(pair: Members) -> None:
    given = Failure(KeyError("one")), Failure(KeyError("other"))
    assert joined(pair, *given) == list(given)
    assert not any(hasattr(failure.error, "__notes__") for failure in given)


def test_what_is_no_tensor_is_an_error_of_all(pair: Members) -> None:
    for failure in joined(pair, [1.0], ONES):
        assert type(failure.error) is TypeError
        assert "found list" in str(failure.error)
        assert failure.traceback == "the traceback of execution 7"


def test_shapes_that_differ_are_a_mismatch(pair: Members) -> None:
    for failure in joined(pair, ONES, np.ones(4)):
        assert type(failure.error) is MismatchError
        assert failure.error.declined == ()


class _Unreadable(Exception):
    """Pickled where it was raised, but not unpickled elsewhere."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (threading.get_ident(),)


def _unpickle(raised_in: int) -> Exception:
    if threading.get_ident() == raised_in:
        return _Unreadable()
    raise ImportError("no such package here")


def test_an_exception_that_another_rank_cannot_unpickle_keeps_its_text(pair: Members) -> None:
    given = Failure(_Unreadable("the cause"), "Traceback: _Unreadable: the cause")
    given.error.__notes__ = ["raised by E.p as E_1.p"]  # type: ignore[attr-defined]
    heard, own = joined(pair, ONES, given)
    assert own is given
    assert type(heard.error) is SerializationError
    assert "_Unreadable: the cause" in str(heard.error)
    assert heard.traceback == "Traceback: _Unreadable: the cause"
    assert "raised by E.p as E_1.p" in heard.error.__notes__  # type: ignore[attr-defined]


def test_where_ranks_cannot_tell_each_other_the_reason_of_the_abort_says_it() -> None:
    class Mute(Communicator):
        """Compares nothing."""

        checks_requests = False
        transport = "mute"
        rank, world_size, name = 1, 2, "mute"
        reason = ""

        def abort(self, reason: str) -> None:
            self.reason = reason

        def allreduce(self, *_: Any, **__: Any) -> Any:
            raise AssertionError

        send = recv = allgather = reducescatter = broadcast = destroy = allreduce

    mute = Mute()
    given = Failure(KeyError("the cause" * 1000), "")
    assert join(mute, given) is given
    assert "rank 1 had nothing for sums, execution 7, and mute has no way to tell the others: KeyError" in mute.reason
    assert len(mute.reason) < 1200


def test_the_error_is_gone_with_its_last_reference(pair: Members) -> None:
    """With it the frames that hold the communicator: their memory shall not wait for the garbage collector."""

    def dropped(communicator: Communicator) -> bool:
        try:
            decline(communicator) if communicator.rank else allreduce(communicator)
        except MismatchError as error:
            seen = weakref.ref(error)
        return seen() is None

    gc.disable()
    try:
        assert pair.all(dropped) == [True, True]
    finally:
        gc.enable()


# ---- what goes wrong in the answer ----


def decline(communicator: Communicator) -> None:
    communicator.decline(WATCHDOG, b"a reason" * 100_000)


def allreduce(communicator: Communicator) -> None:
    communicator.allreduce(ONES, timeout=WATCHDOG)


def stays_broken(members: Members, text: str) -> None:
    for rank in range(2):
        members.start(rank, lambda communicator: caught(ChannelBroken, allreduce, communicator))
        assert text in members.outcome(rank)


def test_a_rank_that_cannot_hear_the_cause_breaks_the_group(pair: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    def spec(shape: tuple[int, ...], dtype: str) -> TensorSpec:
        if dtype == "int32":  # of the cause itself; the others are on their way to it
            raise MemoryError("not that much")
        return TensorSpec(shape, dtype)

    monkeypatch.setattr(declines, "TensorSpec", spec)
    pair.start(0, lambda communicator: caught(MemoryError, allreduce, communicator))
    pair.start(1, lambda communicator: caught(ChannelBroken, decline, communicator))
    assert pair.outcome(0) == "not that much"
    assert "rank 0 failed while rank 1 said why it declined: MemoryError('not that much')" in pair.outcome(1)
    stays_broken(pair, "not that much")
    for rank in range(2):  # also what does not carry the answer: operations may run there
        pair.start(rank, lambda it: caught(ChannelBroken, allreduce, it._inner if hasattr(it, "_inner") else it))
        assert "not that much" in pair.outcome(rank)


def test_an_abort_ends_the_answer(pair: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    def spec(shape: tuple[int, ...], dtype: str) -> TensorSpec:
        pair.handle.abort("the driver is leaving")
        return TensorSpec(shape, dtype)

    monkeypatch.setattr(declines, "TensorSpec", spec)
    pair.start(0, lambda communicator: caught(ChannelBroken, allreduce, communicator))
    pair.start(1, lambda communicator: caught(ChannelBroken, decline, communicator))
    assert all("the driver is leaving" in pair.outcome(rank) for rank in range(2))
    stays_broken(pair, "the driver is leaving")


def test_a_rank_that_does_not_come_to_the_answer_breaks_the_group(
    pair: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    gave_up = threading.Event()

    def spec(shape: tuple[int, ...], dtype: str) -> TensorSpec:
        assert gave_up.wait(WATCHDOG)
        return TensorSpec(shape, dtype)

    def declined_in_vain(communicator: Communicator) -> str:
        try:
            return caught(ChannelTimeout, decline, communicator)
        finally:
            gave_up.set()

    monkeypatch.setattr(declines, "TensorSpec", spec)
    monkeypatch.setattr(declines, "_ANSWER_S", 0.05)
    pair.start(0, lambda communicator: caught(ChannelBroken, allreduce, communicator))
    pair.start(1, declined_in_vain)
    assert "rank 0" in pair.outcome(1)
    assert "rank 1" in pair.outcome(0)


def test_the_answer_has_time_of_its_own(pair: Members) -> None:
    """An operation whose ranks are all there in no time has none left."""
    met = threading.Barrier(2)

    def at_once(communicator: Communicator) -> bytes:
        met.wait(WATCHDOG)
        try:
            if communicator.rank:
                communicator.decline(1.0, b"a reason" * 100_000)
            else:
                communicator.allreduce(ONES, timeout=1.0)
        except MismatchError as error:
            return error.cause
        raise AssertionError

    assert pair.all(at_once) == [b"a reason" * 100_000] * 2

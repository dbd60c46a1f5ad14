"""NCCL keeps every rule of `channels.communicators.base`, on a fake of CuPy's binding and of torch's streams."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

pytest.importorskip("torch")

from channels.base import Failure
from channels.communicators import AgreedTransport
from channels.errors import ChannelBroken, ChannelTimeout
from channels.testing_communicators import CHECKS, WATCHDOG, Party, ProcessParty, Subject, ThreadParty
from tests import fakes_nccl, nccl_ranks, ranks
from tests.fakes_nccl.bridge import FakeNcclTransport

#: As many as show what more than two ranks do; each is a process that imports torch.
RANKS = 4


@pytest.fixture(autouse=True)
def fake() -> Iterator[None]:
    """In this process, which makes the groups. Nothing was done that a real device would not forgive."""
    fakes_nccl.install()
    yield
    fakes_nccl.faults.inject(may_init=True, may_end=True, may_run=True)
    for thread in threading.enumerate():  # communicators end on their own after `destroy`
        if thread.name.startswith(("dagc-watchdog-", "dagc-nccl-")):
            thread.join(WATCHDOG)
    violations = list(fakes_nccl.violations)
    fakes_nccl.uninstall()
    assert violations == []


@pytest.fixture(scope="module")
def parties() -> Iterator[Sequence[Party]]:
    """Where the ranks are; they stay for all tests. None of these may have done what a device would not forgive."""
    made = [ProcessParty() for _ in range(RANKS)]
    yield made
    found = []
    for party in made:
        party.start(nccl_ranks.violations)
        found.append(party.outcome())
        party.close()
    assert found == [[]] * RANKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_rule(check: Callable[[Subject], None], parties: Sequence[Party]) -> None:
    check(Subject(FakeNcclTransport(), parties))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_rule_in_threads(check: Callable[[Subject], None]) -> None:
    """A process may have several devices, each with a communicator of its own."""
    check(Subject(FakeNcclTransport(), [ThreadParty() for _ in range(3)]))


@pytest.mark.parametrize("check", [check for check in CHECKS if check.__module__ == "channels.testing_mismatches"])
def test_rule_where_the_ranks_agree_on_the_host(check: Callable[[Subject], None], parties: Sequence[Party]) -> None:
    """As in a graph: NCCL itself finds no mismatch, and has no way to decline."""
    check(Subject(AgreedTransport(FakeNcclTransport()), parties))


# ---- streams ----


@pytest.mark.parametrize(("first", "second"), [("isend", "irecv"), ("irecv", "isend")])
def test_the_current_stream_goes_on_while_tensors_move(first: str, second: str, parties: Sequence[Party]) -> None:
    with Subject(FakeNcclTransport(), parties).group(2) as members:
        members.start(0, nccl_ranks.begin_and_compute, first)
        assert members.outcome(0) == (True, False), "computed, while the other side had not come"
        members.start(1, nccl_ranks.begin_and_compute, second)
        members.outcome(1)
        assert members.all(nccl_ranks.finish) == [[5.0, 5.0], [5.0, 5.0]]


def test_wait_orders_the_stream_and_does_not_wait_on_the_host(parties: Sequence[Party]) -> None:
    with Subject(FakeNcclTransport(), parties).group(2) as members:
        members.start(1, nccl_ranks.send_ones)
        members.start(0, nccl_ranks.wait_orders_the_stream_and_not_the_host)
        assert members.outcome(0) == [False, True]
        members.outcome(1)


def test_what_is_sent_may_be_dropped_at_once(parties: Sequence[Party]) -> None:
    """Its memory is not given to another tensor before it was sent."""
    with Subject(FakeNcclTransport(), parties).group(2) as members:
        members.start(0, nccl_ranks.send_and_forget, True)
        assert members.outcome(0) == []
        members.start(1, nccl_ranks.receive)
        assert members.outcome(1) == [5.0, 5.0]


def test_the_fake_sees_a_tensor_that_was_not_marked(parties: Sequence[Party]) -> None:
    """Or the test above would show nothing."""
    with Subject(FakeNcclTransport(), parties).group(2) as members:
        members.start(0, nccl_ranks.send_and_forget, False)
        assert set(members.outcome(0)) == {"memory was freed while send used it; record_stream was not called"}
        members.start(1, nccl_ranks.receive)
        assert members.outcome(1) != [5.0, 5.0]


def test_several_tensors_are_one_group_of_calls(parties: Sequence[Party]) -> None:
    calls = Subject(FakeNcclTransport(), parties).run(3, nccl_ranks.calls_of_several)
    (stream,) = {number for name, _, number in calls[0] if name == "send"}
    assert calls[0] == [("send", 3, stream), ("send", 5, stream)] * 2 + [("group", 4, 0)]
    for rank in (1, 2):
        (own,) = {number for name, _, number in calls[rank] if name == "recv"}
        assert calls[rank] == [("recv", 3, own), ("recv", 5, own), ("group", 2, 0)]
        assert own != stream


def test_what_is_sent_cannot_be_received_into(parties: Sequence[Party]) -> None:
    for said in Subject(FakeNcclTransport(), parties).run(2, nccl_ranks.exchange_in_place):
        assert "expected none in common" in said


def test_every_rank_of_a_ring_sends_and_receives_at_once(parties: Sequence[Party]) -> None:
    assert Subject(FakeNcclTransport(), parties).run(3, nccl_ranks.exchange) == [2.0, 0.0, 1.0]


def test_two_ranks_that_both_send_first_wait_until_somebodys_timeout(parties: Sequence[Party]) -> None:
    """Whatever their streams: the reason why there is `exchange`."""
    with Subject(FakeNcclTransport(), parties).group(2) as members:
        for rank in range(2):
            members.start(rank, nccl_ranks.send_first if rank == 0 else nccl_ranks.begin_and_compute, *["isend"] * rank)
        assert "rank 0 waited 0.2 s for rank 1 to come to this send of float32 (4,)" in members.outcome(0)
        members.outcome(1)
        members.start(1, nccl_ranks.wait_for_a_work)
        assert "rank 0 waited 0.2 s for rank 1" in members.outcome(1)


def test_a_tensor_of_another_device_is_refused(parties: Sequence[Party]) -> None:
    with Subject(FakeNcclTransport(), parties).group(2) as members:
        members.start(0, nccl_ranks.on_another_device)
        assert "expected a dense one on cuda:0, the device of this communicator" in members.outcome(0)
        assert members.all(ranks.sum_of_ranks) == [1.0, 1.0]


# ---- deaths, hangs, timeouts ----


def test_a_timeout_is_raised_by_whoever_looks_next(parties: Sequence[Party]) -> None:
    with Subject(FakeNcclTransport(), parties).group(2) as members:
        members.start(0, nccl_ranks.launch_in_vain)
        waited = "rank 0 waited 0.05 s for its operation 1, allreduce sum of float32 (3,): rank 1 has begun 0"
        assert all(waited in text for text in members.outcome(0))
        members.start(1, ranks.broken, "allreduce", 0)
        assert waited in members.outcome(1)


def test_a_device_that_hangs_is_aborted_on_every_rank(parties: Sequence[Party]) -> None:
    with Subject(FakeNcclTransport(), parties).group(3) as members:
        members.start(1, nccl_ranks.inject, {"may_run": False})
        members.outcome(1)
        for rank in range(3):
            members.start(rank, nccl_ranks.wait_on_the_device)
        members.handle.abort("nothing has moved for a minute")
        assert all("nothing has moved for a minute" in members.outcome(rank) for rank in range(3))
        members.start(1, nccl_ranks.inject, {"may_run": True})
        members.outcome(1)


@pytest.mark.parametrize("notices", [False, True], ids=["over NVLink", "over a network"])
def test_a_killed_rank_ends_what_waits_for_it(notices: bool, parties: Sequence[Party]) -> None:
    """NCCL notices the death over a network alone; elsewhere the coordinator does."""
    victim = ProcessParty()
    try:
        with Subject(FakeNcclTransport(), parties).group(2, [parties[0], victim]) as members:
            members.start(0, nccl_ranks.inject, {"notices_deaths": notices})
            members.outcome(0)
            members.start(0, nccl_ranks.wait_on_the_device)
            victim.kill()
            told = members.outcome(0)
            assert f"rank 1 (process {victim.process.pid} on " in told or (
                notices and "NCCL_ERROR_REMOTE_ERROR" in told
            )
            members.start(0, nccl_ranks.inject, {"notices_deaths": False})
            members.outcome(0)
    finally:
        victim.close()


def test_an_error_of_the_device_breaks_the_group_on_every_rank(parties: Sequence[Party]) -> None:
    with Subject(FakeNcclTransport(), parties).group(2) as members:
        members.start(0, nccl_ranks.inject, {"async_error": 6})
        members.outcome(0)
        members.start(0, nccl_ranks.wait_on_the_device)
        assert "remote process exited" in members.outcome(0)
        members.start(1, ranks.broken, "allreduce", 0)
        assert "rank 0: NCCL_ERROR_REMOTE_ERROR" in members.outcome(1)
        members.start(0, nccl_ranks.inject, {"async_error": 0})
        members.outcome(0)


def test_an_error_of_cuda_breaks_the_group_on_every_rank(parties: Sequence[Party]) -> None:
    victim = ProcessParty()  # an error of CUDA stays for the rest of the process
    try:
        with Subject(FakeNcclTransport(), parties).group(2, [victim, parties[0]]) as members:
            members.start(0, nccl_ranks.fail_on_the_device)
            assert "rank 0: CUDA error: an illegal memory access was encountered" in members.outcome(0)
            members.start(1, ranks.broken, "allreduce", 0)
            assert "rank 0: CUDA error" in members.outcome(1)
    finally:
        victim.close()


def test_a_call_that_nccl_refuses_breaks_the_group(parties: Sequence[Party]) -> None:
    with Subject(FakeNcclTransport(), parties).group(2) as members:
        members.start(0, nccl_ranks.inject, {"refuses": {"allReduce": 3}})
        members.outcome(0)
        members.start(0, ranks.broken, "allreduce", 1)
        assert "rank 0 in allreduce sum of float32 (4,): NCCL_ERROR_INTERNAL_ERROR" in members.outcome(0)
        members.start(1, ranks.broken, "allreduce", 0)
        assert "NCCL_ERROR_INTERNAL_ERROR" in members.outcome(1)


def test_a_communicator_that_does_not_end_is_said_to_be_stuck(parties: Sequence[Party]) -> None:
    with Subject(FakeNcclTransport(), parties).group(2) as members:
        members.start(0, nccl_ranks.inject, {"may_end": False})
        members.outcome(0)
        for rank, seconds in enumerate((0.05, WATCHDOG)):
            members.start(rank, nccl_ranks.end_and_look, seconds)
        assert members.outcome(0) is True
        members.start(0, nccl_ranks.inject, {"may_end": True})
        members.outcome(0)
        assert members.outcome(1) is False
        members.start(0, nccl_ranks.is_stuck)
        assert members.outcome(0) is False


def test_ctrl_c_on_a_host_that_waits_for_the_device_breaks_the_group(parties: Sequence[Party]) -> None:
    with Subject(FakeNcclTransport(), parties).group(2) as members:
        members.start(0, ranks.interrupted, "allreduce")
        assert members.outcome(0) == "interrupted"
        members.start(1, ranks.broken, "allreduce", 0)
        assert "rank 0 was interrupted while it waited for the device" in members.outcome(1)


def test_a_forked_child_cannot_use_the_communicator(parties: Sequence[Party]) -> None:
    with Subject(FakeNcclTransport(), parties).group(2) as members:
        members.start(0, nccl_ranks.use_in_a_child)
        assert "was made before a fork" in members.outcome(0)
        assert members.all(ranks.sum_of_ranks) == [1.0, 1.0]


def test_a_dropped_communicator_has_left(parties: Sequence[Party]) -> None:
    with Subject(FakeNcclTransport(), parties).group(2) as members:
        members.start(0, ranks.drop, members.handle.id, 0)
        members.outcome(0)
        members.start(1, ranks.closed, "allreduce")
        assert "rank 0" in members.outcome(1)


# ---- other versions, other ways to join ----


@pytest.mark.parametrize(
    "environment",
    [{"FAKE_CUPY": "13"}, {"NCCL_COMM_BLOCKING": "0"}, {"FAKE_NCCL_CONFIG": "1"}],
    ids=["CuPy 13", "non-blocking by the environment", "non-blocking by a config"],
)
def test_every_binding_works(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    fakes_nccl.uninstall()
    fakes_nccl.install()
    subject = Subject(FakeNcclTransport(), [ThreadParty() for _ in range(3)])
    for check in CHECKS:
        if check.__name__ in ("any_sequence_of_operations_is_right", "several_tensors_move_as_one"):
            check(subject)


def test_peers_that_were_not_connected_before_meet_when_they_send() -> None:
    parties = [ThreadParty() for _ in range(2)]
    assert Subject(FakeNcclTransport(connect_peers=False), parties).run(2, ranks.send_and_receive_of_two) == [1.0, 0.0]


def test_two_ranks_on_one_device_are_refused() -> None:
    group = FakeNcclTransport().create(2)
    parties = [ThreadParty() for _ in range(2)]
    for rank, party in enumerate(parties):
        party.start(FakeNcclTransport(device=0).join, group.id, rank, 2, WATCHDOG)
    for party in parties:
        outcome = party.outcome()
        assert isinstance(outcome, Failure)
        assert isinstance(outcome.error, ChannelBroken)
        assert "are two ranks on one GPU?" in str(outcome.error)
    group.destroy()


def test_a_join_that_waits_in_nccl_ends_with_its_timeout() -> None:
    """ncclCommInitRank waits for ever; it is left behind in its thread until the others come, or the process ends."""
    fakes_nccl.faults.inject(may_init=False)
    group = FakeNcclTransport().create(2)
    parties = [ThreadParty() for _ in range(2)]
    for rank, (party, timeout) in enumerate(zip(parties, (0.1, WATCHDOG), strict=True)):
        party.start(FakeNcclTransport().join, group.id, rank, 2, timeout)
    for party, kind in zip(parties, (ChannelTimeout, ChannelBroken), strict=True):
        outcome = party.outcome()
        assert isinstance(outcome, Failure)
        assert isinstance(outcome.error, kind)
        assert "ncclCommInitRank" in str(outcome.error)
    group.destroy()

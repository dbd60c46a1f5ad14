"""NCCL on real GPUs: the rules of every communicator, and what only a device can show.

    make gpu

runs this on a machine with two GPUs or more; it installs CuPy. Elsewhere every test says why it skips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from channels.testing_communicators import CHECKS, WORLD_SIZE, Party, ProcessParty, Subject
from tests.gpu.needs import missing

WHY_NOT = missing(2)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
    pytest.mark.timeout(300),  # the first use of a device in a process takes seconds
]

if not WHY_NOT:
    import torch

    from tests.gpu import ranks
    from tests.host_nccl import HostNcclTransport

#: What stands in the reason of a killed rank: who it was.
_NAMED = "rank 1 (process {pid} on "


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> None:
    """Not here: libnccl keeps sockets of its own in a process that has made groups."""


@pytest.fixture(scope="module")
def parties() -> Iterator[Sequence[Party]]:
    """A process for each GPU; they stay for all tests."""
    made = [ProcessParty() for _ in range(min(WORLD_SIZE, torch.cuda.device_count()))]
    yield made
    for party in made:
        party.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_rule(check: Callable[[Subject], None], parties: Sequence[Party]) -> None:
    check(Subject(HostNcclTransport(), parties))


# ---- streams ----


def test_the_current_stream_computes_while_a_tensor_is_sent(parties: Sequence[Party]) -> None:
    """The other side receives only after the sender has computed, so this cannot pass by being quick."""
    with Subject(HostNcclTransport(), parties).group(2) as members:
        members.start(0, ranks.send_and_compute)
        computed, over = members.outcome(0)
        assert (computed, over) == (True, False)
        members.start(1, ranks.receive_and_look)
        assert members.outcome(1) == [5.0, 5.0]
        members.start(0, ranks.finish)
        assert members.outcome(0) is True


def test_a_result_is_there_in_the_order_of_the_stream(parties: Sequence[Party]) -> None:
    """Nothing is synchronised between a slow computation, an operation, and what is computed from its result."""
    assert Subject(HostNcclTransport(), parties).run(2, ranks.chain, 20) == [ranks.CHAIN_OF_20] * 2


def test_what_is_sent_may_be_dropped_at_once(parties: Sequence[Party]) -> None:
    with Subject(HostNcclTransport(), parties).group(2) as members:
        members.start(0, ranks.send_and_forget, 20)
        members.start(1, ranks.receive_all, 20)
        members.outcome(0)
        assert members.outcome(1) == [float(number) for number in range(20)]


def test_every_rank_of_a_ring_sends_and_receives_at_once(parties: Sequence[Party]) -> None:
    n = len(parties)
    assert Subject(HostNcclTransport(), parties).run(n, ranks.exchange) == [float((rank - 1) % n) for rank in range(n)]


# ---- deaths and hangs ----


def test_a_killed_rank_ends_what_waits_for_it_and_the_device_is_usable_again(parties: Sequence[Party]) -> None:
    for operation in ("allreduce", "recv"):
        victim = ProcessParty()
        try:
            with Subject(HostNcclTransport(), parties).group(2, [parties[0], victim]) as members:
                members.start(0, ranks.wait_on_the_device, operation)
                victim.kill()
                told, stuck = members.outcome(0)
                assert _NAMED.format(pid=victim.process.pid) in told
                assert not stuck
        finally:
            victim.close()
        assert Subject(HostNcclTransport(), parties).run(2, ranks.sum_of_ranks) == [1.0, 1.0]


def test_a_rank_that_does_not_come_is_waited_for_no_longer_than_the_timeout(parties: Sequence[Party]) -> None:
    with Subject(HostNcclTransport(), parties).group(2) as members:
        members.start(0, ranks.timed_out)
        assert "rank 1 has begun 0" in members.outcome(0)
    assert Subject(HostNcclTransport(), parties).run(2, ranks.sum_of_ranks) == [1.0, 1.0]


def test_abort_ends_a_kernel_that_waits(parties: Sequence[Party]) -> None:
    with Subject(HostNcclTransport(), parties).group(2) as members:
        members.start(0, ranks.wait_on_the_device, "allreduce")
        members.handle.abort("changed my mind")
        told, stuck = members.outcome(0)
        assert "changed my mind" in told
        assert not stuck
    assert Subject(HostNcclTransport(), parties).run(2, ranks.sum_of_ranks) == [1.0, 1.0]


def test_groups_come_and_go_without_eating_memory(parties: Sequence[Party]) -> None:
    """NCCL's memory is given back with a communicator: the second half of many groups needs no more than the first."""
    free = [Subject(HostNcclTransport(), parties).run(2, ranks.free_bytes)[0] for _ in range(20)]
    assert min(free[10:]) >= min(free[:10]) - (64 << 20), [size >> 20 for size in free]

"""gloo keeps every rule of `channels.communicators.base`, and what only processes and connections can show."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from channels.communicators import TensorSpec
from channels.communicators.gloo import GlooTransport
from channels.errors import ChannelBroken
from channels.testing_communicators import CHECKS, WATCHDOG, Party, ProcessParty, Subject
from channels.testing_group_subject import caught
from tests import ranks
from tests.stopping import stopped

pytest.importorskip("torch")

#: As many as show what more than two ranks do; each is a process that imports torch.
RANKS = 4
#: Checks that are made again over TCP: something of everything.
OVER_TCP = (
    "any_sequence_of_operations_is_right",
    "every_mismatch_is_told_to_every_rank_and_changes_nothing",
    "abort_of_a_member_reaches_every_rank_with_its_reason",
    "whoever_waits_for_a_rank_that_left_is_told",
)


@pytest.fixture(scope="module")
def parties() -> Iterator[Sequence[Party]]:
    """Where the ranks are; they stay for all tests."""
    made = [ProcessParty() for _ in range(RANKS)]
    yield made
    for party in made:
        party.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_communicator(check: Callable[[Subject], None], parties: Sequence[Party]) -> None:
    check(Subject(GlooTransport(), parties))


@pytest.mark.parametrize(
    "check", [check for check in CHECKS if check.__name__ in OVER_TCP], ids=lambda check: check.__name__
)
def test_communicator_between_machines(check: Callable[[Subject], None], parties: Sequence[Party]) -> None:
    check(Subject(GlooTransport(host="127.0.0.1"), parties))


def test_tensors_of_many_tiles_are_right(parties: Sequence[Party]) -> None:
    """Several tiles, three ranks, and parts that no tile divides."""
    assert Subject(GlooTransport(), parties).run(3, ranks.many_tiles, 3_000_001) == [None] * 3


def test_a_program_may_have_its_own_process_group(parties: Sequence[Party]) -> None:
    with Subject(GlooTransport(), parties).group(2) as members:
        assert members.all(ranks.beside_torch_distributed, sys.platform) == [3.0, 3.0]


# ---- deaths, signals, forks ----


@pytest.mark.parametrize("operation", ["allreduce", "recv", "large allreduce"])
def test_a_killed_rank_is_named(operation: str, parties: Sequence[Party]) -> None:
    victim = ProcessParty()
    try:
        with Subject(GlooTransport(), parties).group(3, [*parties[:2], victim]) as members:
            members.start(0, ranks.broken, operation, 2)
            members.start(1, ranks.broken, operation, 2)
            victim.kill()
            for rank in range(2):
                assert f"rank 2 (process {victim.process.pid} on " in members.outcome(rank)
    finally:
        victim.close()


def test_the_end_of_the_process_that_made_the_group_breaks_it(parties: Sequence[Party]) -> None:
    driver = ProcessParty()
    try:
        driver.start(ranks.make_group, GlooTransport(), 2)
        group_id = driver.outcome()
        for rank in range(2):
            parties[rank].start(ranks.join, GlooTransport(), group_id, rank)
        assert [parties[rank].outcome() for rank in range(2)] == [None, None]
        parties[0].start(ranks.wait_in_vain)
        driver.kill()
        assert f"the process that made the group ({driver.process.pid}) has ended" in parties[0].outcome()
        parties[1].start(ranks.wait_in_vain)
        assert "the process that made the group" in parties[1].outcome()
    finally:
        driver.close()


def test_ctrl_c_ends_a_wait_and_breaks_the_group(parties: Sequence[Party]) -> None:
    with Subject(GlooTransport(), parties).group(2) as members:
        members.start(0, ranks.interrupted, "allreduce")
        assert members.outcome(0) == "interrupted"
        members.start(1, ranks.broken, "allreduce", 0)
        assert "rank 0 was interrupted in allreduce" in members.outcome(1)


def test_a_stopped_rank_is_waited_for_no_longer_than_the_timeout(parties: Sequence[Party]) -> None:
    victim = ProcessParty()
    try:
        with Subject(GlooTransport(), parties).group(2, [parties[0], victim]) as members:
            with stopped(victim.process.pid):
                members.start(0, ranks.timed_out, "allreduce", 0.1)
                assert "rank 0 waited 0.1 s for rank 1 to come to this allreduce" in members.outcome(0)
            members.start(1, ranks.broken, "allreduce", 0)
            assert "rank 0 waited 0.1 s for rank 1" in members.outcome(1)
    finally:
        victim.close()


def test_a_forked_child_does_not_hide_the_death_of_its_parent(parties: Sequence[Party]) -> None:
    victim = ProcessParty()
    child = 0
    try:
        with Subject(GlooTransport(), parties).group(2, [parties[0], victim]) as members:
            members.start(1, ranks.fork_and_stay)
            child = members.outcome(1)
            members.start(0, ranks.broken, "allreduce", 0)
            victim.kill()
            assert "rank 1" in members.outcome(0)
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
        victim.close()  # waits for the end of its output, which the child has, too


def test_a_forked_child_cannot_use_the_communicator(parties: Sequence[Party]) -> None:
    with Subject(GlooTransport(), parties).group(2) as members:
        members.start(0, ranks.use_in_a_child)
        assert "was made before a fork" in members.outcome(0)
        assert members.all(ranks.sum_of_ranks) == [1.0, 1.0]


# ---- who leaves ----


def test_the_others_go_on_in_pairs_after_a_rank_has_left(parties: Sequence[Party]) -> None:
    """An operation of all that was given up has left requests behind, which a later one must not take for its own."""
    with Subject(GlooTransport(), parties).group(3) as members:
        members.start(0, ranks.closed, "allreduce")
        members.start(2, ranks.closed, "allreduce")
        members.start(1, ranks.leave)
        for rank in range(3):
            members.outcome(rank)
        members.start(0, ranks.closed, "allgather")
        members.start(2, ranks.send_and_receive, 0)
        members.outcome(0)
        members.start(0, ranks.send_and_receive, 2)
        assert [members.outcome(0), members.outcome(2)] == [2.0, 0.0]


def test_destroy_from_another_thread_ends_a_wait(parties: Sequence[Party]) -> None:
    with Subject(GlooTransport(), parties).group(2) as members:
        members.start(0, ranks.destroyed_beside)
        assert "this rank has destroyed it" in members.outcome(0)
        members.start(1, ranks.closed, "allreduce")
        assert "rank 0" in members.outcome(1)


def test_a_dropped_communicator_has_left(parties: Sequence[Party]) -> None:
    with Subject(GlooTransport(), parties).group(2) as members:
        members.start(0, ranks.drop, members.handle.id, 0)
        members.outcome(0)
        members.start(1, ranks.closed, "allreduce")
        assert "rank 0" in members.outcome(1)


# ---- in this process ----


def test_a_group_of_one_needs_no_connections_and_leaves_nothing_behind() -> None:
    transport = GlooTransport()
    group = transport.create(1)
    communicator = transport.join(group.id, 0, 1, WATCHDOG)
    assert communicator.allreduce(np.arange(3.0)).tolist() == [0.0, 1.0, 2.0]
    assert repr(communicator) == "<GlooCommunicator group, rank 0 of 1>"
    group.abort("that was all")
    assert "that was all" in caught(ChannelBroken, communicator.allreduce, np.ones(1))
    communicator.destroy()
    group.destroy()


def test_what_is_wrong_with_arguments_is_said() -> None:
    with pytest.raises(ValueError, match="expected 1 to 128"):
        GlooTransport().create(129)
    group = GlooTransport().create(1)
    communicator = GlooTransport().join(group.id, 0, 1)
    with pytest.raises(ValueError, match="timeout=nan"):
        communicator.allreduce(np.ones(1), timeout=float("nan"))
    with pytest.raises(TypeError, match="expected a numpy array or a torch CPU tensor, found TensorSpec"):
        communicator.broadcast(TensorSpec((1,), "float32"), 0)
    communicator.destroy()
    group.destroy()


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, channels.communicators.gloo, channels.communicators.nccl; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=WATCHDOG)

"""Groups of real processes: deaths, stops, interrupts, forks, sleep, and what is left when they have gone."""

from __future__ import annotations

import gc
import random
import signal
import threading
from collections.abc import Callable, Iterator

import psutil
import pytest

from channels import _ring
from channels.base import Failure
from channels.communicators import ShmTransport
from channels.communicators.shm import ShmGroup
from channels.errors import ChannelBroken, ChannelClosed, ChannelTimeout
from channels.shm import memory
from channels.testing_group_subject import Members, Subject
from channels.testing_ranks import ProcessParty
from tests import group_ranks as ranks
from tests.stopping import stopped
from tests.waiting import wait_until

#: Elements that take some milliseconds to reduce: a kill mostly comes while they move.
LARGE = 1 << 20


@pytest.fixture
def start() -> Iterator[Callable[[int], Subject]]:
    """A subject with that many processes."""
    parties: list[ProcessParty] = []

    def start_some(number: int) -> Subject:
        parties.extend(ProcessParty() for _ in range(number))
        return Subject(ShmTransport(), parties[-number:])

    yield start_some
    for party in parties:
        party.close()
    _ring.collect()


def until_asleep(members: Members, waits: dict[int, int]) -> None:
    """Return once exactly those ranks sleep for those others."""
    group = members.handle
    assert isinstance(group, ShmGroup)
    wait_until(lambda: group.waits() == waits)


def process_of(members: Members, rank: int) -> ProcessParty:
    party = members.parties[rank]
    assert isinstance(party, ProcessParty)
    return party


def error_of(members: Members, rank: int) -> BaseException:
    """What the rank's call raised."""
    outcome = members.parties[rank].outcome()
    assert isinstance(outcome, Failure), f"rank {rank} returned {outcome!r}"
    return outcome.error


# ---- deaths ----


@pytest.mark.parametrize("work", [ranks.reduce_for_ever, ranks.mixed_for_ever], ids=["reduce", "mixed"])
def test_a_kill_at_any_moment_is_told_to_the_others_and_they_go_on_in_a_new_group(
    work: Callable[..., None], start: Callable[[int], Subject]
) -> None:
    subject, seed = start(2), random.Random(work.__name__)
    for _ in range(4):
        (victim,) = start(1).parties
        assert isinstance(victim, ProcessParty)
        place = seed.randrange(3)
        parties = list(subject.parties)
        parties.insert(place, victim)
        with subject.group(3, parties) as members:
            for rank in range(3):
                members.start(rank, work, LARGE)
            threading.Event().wait(seed.random() / 20)  # the moment of the kill, not a synchronisation
            victim.kill()
            for rank in {0, 1, 2} - {place}:
                error = error_of(members, rank)
                assert type(error) is ChannelBroken
                assert f"rank {place} is gone: its process {victim.process.pid} has ended" in str(error)
        assert subject.run(2, ranks.sum_once) == [1.0, 1.0]


def test_the_creator_may_end_the_wait_for_a_dead_rank_at_once(start: Callable[[int], Subject]) -> None:
    with start(3).group(3) as members:
        members.start(0, ranks.sum_once)
        members.start(2, ranks.receive, 1)
        until_asleep(members, {0: 1, 2: 1})
        victim = process_of(members, 1)
        victim.kill()
        members.handle.abort("Stage_1 died: SIGKILL")
        # Ranks look for themselves, too, ten times a second: whoever is first gives the reason, and it is everybody's.
        seen = f"rank 1 is gone: its process {victim.process.pid} has ended"
        told = {str(error_of(members, rank)) for rank in (0, 2)}
        assert told in ({"communicator checked: Stage_1 died: SIGKILL"}, {f"communicator checked: {seen}"})


def test_members_outlive_the_creator_of_their_group(start: Callable[[int], Subject]) -> None:
    creator, one, other = start(3).parties
    assert isinstance(creator, ProcessParty)
    creator.start(ranks.create, 2)
    group_id = creator.outcome()
    for rank, party in enumerate((one, other)):
        party.start(ranks.join_and_hold, group_id, rank, 2)
    for party in (one, other):
        assert party.outcome() is None
    creator.kill()
    for party in (one, other):
        party.start(ranks.sum_held, 1000)
    assert [party.outcome() for party in (one, other)] == [1000.0, 1000.0]


def test_a_rank_that_died_when_others_joined_is_missed_in_the_first_operation(start: Callable[[int], Subject]) -> None:
    victim, one, other = start(3).parties
    assert isinstance(victim, ProcessParty)
    group = ShmTransport().create(3, "early")
    victim.start(ranks.join_and_hold, group.id, 0, 3)
    wait_until(lambda: 0 in group.waits())
    victim.kill()
    for rank, party in ((1, one), (2, other)):
        party.start(ranks.join_and_sum, group.id, rank, 3)
    for party in (one, other):
        outcome = party.outcome()
        assert isinstance(outcome, Failure)
        assert type(outcome.error) is ChannelBroken
        assert "rank 0 is gone" in str(outcome.error)
    group.destroy()


def test_a_stopped_rank_is_a_timeout_and_finds_the_group_broken_when_it_goes_on(
    start: Callable[[int], Subject],
) -> None:
    with start(2).group(2) as members:
        assert members.all(ranks.sum_once) == [1.0, 1.0]
        with stopped(process_of(members, 1).process.pid):
            members.start(1, ranks.sum_once)
            members.start(0, ranks.sum_once, 4, 0.05)
            assert type(error_of(members, 0)) is ChannelTimeout
        error = error_of(members, 1)
        assert type(error) is ChannelBroken
        assert "rank 0 gave up allreduce: rank 1 did not come in time" in str(error)


# ---- whoever sleeps is woken ----


def test_ranks_that_sleep_are_woken_by_abort_destroy_and_the_last_to_come(start: Callable[[int], Subject]) -> None:
    subject = start(3)
    with subject.group(3) as members:
        for _ in range(3):
            members.start(0, ranks.sum_once)
            members.start(1, ranks.sum_once)
            until_asleep(members, {0: 2, 1: 2})
            members.start(2, ranks.sum_once)
            assert [members.outcome(rank) for rank in range(3)] == [3.0, 3.0, 3.0]
        members.start(0, ranks.receive, 1)
        members.start(1, ranks.receive, 2)
        members.start(2, ranks.receive, 0)
        until_asleep(members, {0: 1, 1: 2, 2: 0})  # a circle: nobody can see that from its place
        members.handle.abort("they wait for each other")
        for rank in range(3):
            assert "they wait for each other" in str(error_of(members, rank))
    with subject.group(3) as members:
        members.start(0, ranks.sum_once)
        until_asleep(members, {0: 1})
        members.start(1, ranks.destroy)
        assert type(error_of(members, 0)) is ChannelClosed
    with subject.group(3) as members:
        members.start(0, ranks.sum_once)
        until_asleep(members, {0: 1})
        members.start(2, ranks.abort, "no more of this")
        assert "no more of this" in str(error_of(members, 0))


def test_a_pair_that_sleeps_is_woken_by_what_its_partner_does_with_all(start: Callable[[int], Subject]) -> None:
    with start(2).group(2) as members:
        members.start(0, ranks.receive, 1)
        until_asleep(members, {0: 1})
        members.start(1, ranks.sum_once)
        text = str(error_of(members, 1))
        assert "rank 0: recv of float32 (4,) from rank 1; rank 1: allreduce sum of float64 (4,)" in text
        assert str(error_of(members, 0)) == text


def test_whoever_waits_sleeps_and_holds_no_lock(start: Callable[[int], Subject]) -> None:
    with start(2).group(2) as members:
        members.start(0, ranks.sum_and_cpu_seconds)
        until_asleep(members, {0: 1})
        threading.Event().wait(0.5)  # what is measured, not a synchronisation
        members.start(1, ranks.sum_once)
        assert members.outcome(0) < 0.25
        members.outcome(1)
        members.start(0, ranks.sum_while_counting)
        until_asleep(members, {0: 1})
        counting = psutil.Process(process_of(members, 0).process.pid)
        before = counting.cpu_times().user
        wait_until(lambda: counting.cpu_times().user >= before + 0.05)  # another thread counts: no lock is held
        members.start(1, ranks.sum_once)
        assert members.outcome(0) > 1000
        members.outcome(1)


# ---- signals, threads, forks ----


def test_ctrl_c_ends_a_wait_and_breaks_the_group(start: Callable[[int], Subject]) -> None:
    with start(2).group(2) as members:
        members.start(0, ranks.sum_once)
        until_asleep(members, {0: 1})
        process_of(members, 0).process.send_signal(signal.SIGINT)
        assert type(error_of(members, 0)) is KeyboardInterrupt
        members.start(1, ranks.sum_once)
        assert "rank 0 was interrupted in allreduce" in str(error_of(members, 1))


def test_a_signal_whose_handler_returns_is_no_end_and_what_a_handler_raises_is_raised(
    start: Callable[[int], Subject],
) -> None:
    with start(2).group(2) as members:
        members.start(0, ranks.interrupted_by_itself)
        assert members.outcome(0) == "the handler's own"
        members.start(1, ranks.sum_once)
        assert "rank 0 was interrupted in allreduce" in str(error_of(members, 1))


def test_a_communicator_belongs_to_one_thread_at_a_time(start: Callable[[int], Subject]) -> None:
    with start(2).group(2) as members:
        members.start(0, ranks.sum_in_two_threads)
        assert "in use by another call; it belongs to one thread at a time" in members.outcome(0)


def test_a_forked_child_has_no_communicator_and_disturbs_nobody(start: Callable[[int], Subject]) -> None:
    with start(2).group(2) as members:
        members.start(0, ranks.sum_in_a_fork)
        members.start(1, ranks.sum_once)
        assert members.outcome(0) == (1.0, 7)
        assert members.outcome(1) == 1.0
        assert members.all(ranks.sum_once) == [1.0, 1.0]


# ---- what is left ----


def test_groups_leave_nothing_behind(start: Callable[[int], Subject]) -> None:
    subject = start(2)
    assert subject.run(2, ranks.sum_once, LARGE) == [1.0, 1.0]

    def left() -> list[object]:
        gc.collect()  # what earlier tests have left in cycles is not counted
        for party in subject.parties:
            party.start(ranks.belongings)
        return [memory()["live_blocks"], *(party.outcome() for party in subject.parties)]

    before = left()
    for _ in range(100):
        assert subject.run(2, ranks.sum_once) == [1.0, 1.0]
    assert left() == before


def test_rounds_are_counted_on_when_their_numbers_wrap_around(start: Callable[[int], Subject]) -> None:
    subject = start(3)
    group = ShmTransport().create(3, "wrapping")
    group.destroy()
    near = _ring.Group(3, 4096, 4096, 2**32 - 50)
    group = ShmGroup(near, 3, "wrapping")
    for rank, party in enumerate(subject.parties):
        party.start(ranks.join_and_work, group.id, rank, 3, 40)
    assert [party.outcome() for party in subject.parties] == [None] * 3
    group.destroy()


@pytest.mark.slow
def test_two_of_five_are_killed_at_many_moments(start: Callable[[int], Subject]) -> None:
    subject, seed = start(3), random.Random(2026)
    for _ in range(15):
        victims = start(2).parties
        parties = [*subject.parties, *victims]
        seed.shuffle(parties)
        size = 1 << seed.randrange(4, 21)
        with subject.group(5, parties) as members:
            for rank in range(5):
                members.start(rank, ranks.mixed_for_ever, size)
            threading.Event().wait(seed.random() / 50)
            for victim in victims:
                assert isinstance(victim, ProcessParty)
                victim.kill()
            for rank in range(5):
                if parties[rank] not in victims:
                    assert type(error_of(members, rank)) is ChannelBroken
        assert subject.run(3, ranks.sum_often, 10) == [30.0] * 3

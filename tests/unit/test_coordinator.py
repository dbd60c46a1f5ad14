"""A coordinator and its members, all in this process: who hears what, and who is not let in."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from channels.communicators.coordination import coordinator as coordinators
from channels.communicators.coordination.coordinator import CoordinatedGroup, Coordinator
from channels.communicators.coordination.membership import Membership
from channels.communicators.coordination.wire import GroupId, answer, encode
from channels.errors import ChannelBroken, ChannelTimeout

WATCHDOG = 10.0


class Group:
    """A coordinator, and the members that are connected to it."""

    def __init__(self, size: int, host: str | None) -> None:
        self.coordinator = Coordinator("test", "g", size, host, b"extra")
        self.id = GroupId.decode(self.coordinator.id.encode(), "test")
        self.members: list[Membership] = []
        self.ends = ExitStack()
        self.ends.callback(self.coordinator.close)

    def connect(self, rank: int) -> Membership:
        member = Membership(self.id, rank)
        self.ends.callback(member.close)
        self.members.append(member)
        return member

    def complete(self) -> list[Membership]:
        for rank in range(self.id.world_size):
            self.connect(rank)
        for member in self.members:
            member.join(WATCHDOG)
        return self.members


@pytest.fixture(params=[None, "127.0.0.1"], ids=["unix", "tcp"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    made = Group(3, request.param)
    with made.ends:
        yield made


def test_all_join_and_know_nothing_bad(group: Group) -> None:
    for member in group.complete():
        member.check()
        assert member.group.extra == b"extra"
        assert (member.address is None) == bool(group.id.path)


def test_who_joins_waits_for_the_last_one(group: Group) -> None:
    joined = threading.Event()
    first = group.connect(0)
    waiting = threading.Thread(target=lambda: (first.join(WATCHDOG), joined.set()))
    waiting.start()
    group.connect(1)
    assert not joined.is_set()
    group.connect(2)
    waiting.join(WATCHDOG)
    assert joined.is_set()


def test_a_rank_that_does_not_join_breaks_the_group_for_all(group: Group) -> None:
    first, second = group.connect(0), group.connect(1)
    with pytest.raises(
        ChannelTimeout, match=r"communicator g: rank 0 waited 0 s for rank 2 to join; the group is broken"
    ):
        first.join(0)
    with pytest.raises(ChannelBroken, match="rank 0 waited 0 s for rank 2 to join"):
        second.join(WATCHDOG)
    with pytest.raises(ChannelBroken, match="rank 0 waited"):
        first.check()  # a timeout is raised once
    with pytest.raises(ChannelBroken, match="rank 0 waited"):
        group.connect(2).join(WATCHDOG)


def test_a_rank_joins_once(group: Group) -> None:
    group.connect(1)
    with pytest.raises(ChannelBroken, match="rank 1 has joined already, as process"):
        group.connect(1).join(WATCHDOG)


def test_an_abort_of_the_creator_is_known_to_all_when_it_returns(group: Group) -> None:
    members = group.complete()
    group.coordinator.abort("the driver is leaving")
    for member in members:
        assert member.verdict is not None
        assert (member.verdict.reason, member.verdict.by) == ("the driver is leaving", None)


def test_a_member_that_breaks_the_group_hears_the_reason_that_counts(group: Group) -> None:
    first, second, third = group.complete()
    first.break_("mine")
    assert third.verdict is not None, "known to all when it returns"
    second.break_("another")
    assert {member.verdict.reason for member in (first, second, third) if member.verdict} == {"mine"}


def test_a_member_whose_connection_ends_is_lost(group: Group) -> None:
    members = group.complete()
    members[1].close()
    for member in (members[0], members[2]):
        assert member.settle(lambda: False, WATCHDOG)
        with pytest.raises(ChannelBroken, match=r"rank 1 \(process \d+ on .*\) has ended"):
            member.check()


def test_leaving_is_no_loss_and_tells_what_was_done(group: Group) -> None:
    members = group.complete()
    members[1].leave({"collectives": 4})
    members[1].close()
    assert members[0].settle(lambda: 1 in members[0].left, WATCHDOG)
    members[0].check()
    assert members[0].left == {1: {"collectives": 4}}
    members[0].leave()
    members[2].leave()
    assert members[2].settle(lambda: members[2].over is not None, WATCHDOG)
    assert members[2].over is False, "one of them was not there any more"


def test_the_end_of_the_coordinator_breaks_the_group(group: Group) -> None:
    members = group.complete()
    group.coordinator.close()
    group.coordinator.close()
    for member in members:
        assert member.settle(lambda: False, WATCHDOG)
        with pytest.raises(ChannelBroken, match="destroyed by whoever made it"):
            member.check()
    with pytest.raises(ChannelBroken, match="cannot be reached"):
        Membership(group.id, 0)


def test_a_handle_that_is_dropped_ends_its_coordinator() -> None:
    made = Group(1, None)
    with made.ends:
        handle = CoordinatedGroup(made.coordinator)
        (member,) = made.complete()
        del handle
        gc.collect()
        assert member.settle(lambda: False, WATCHDOG)


def test_changes_are_told_to_the_transport(group: Group) -> None:
    members = group.complete()
    changed = threading.Event()
    members[0].on_change = changed.set
    members[1].leave()
    assert changed.wait(WATCHDOG)


def test_values_are_there_for_all(group: Group) -> None:
    members = group.complete()
    members[0].put("0/0", b"\x00\xff")
    assert members[2].get("0/0", WATCHDOG) == b"\x00\xff"
    with pytest.raises(ChannelTimeout, match="no rank has sent '0/9'"):
        members[2].get("0/9", 0)
    members[1].break_("over")
    with pytest.raises(ChannelBroken, match="over"):
        members[2].get("0/9", WATCHDOG)


def test_a_rank_that_waits_too_long_hears_who_is_behind(group: Group) -> None:
    members = group.complete()
    members[1].progress = lambda: (2, "allgather of int32 (1,)")
    members[2].progress = lambda: (1, "allreduce sum of int32 (1,)")
    members[0].late("allgather of int32 (1,)", [], 0.25, 2)
    expected = (
        "communicator g: rank 0 waited 0.25 s for its operation 2, allgather of int32 (1,): rank 2 has begun 1, the "
        "last of them allreduce sum of int32 (1,)"
    )
    for member, kind in zip(members, (ChannelTimeout, ChannelBroken, ChannelBroken), strict=True):
        assert member.settle(lambda: False, WATCHDOG)
        error = member.error()
        assert type(error) is kind
        assert str(error).startswith(expected)


# ---- who is not let in ----


def raw(group: GroupId) -> socket.socket:
    if not group.path:
        return socket.create_connection((group.host, group.port), WATCHDOG)
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(WATCHDOG)
    made.connect("\0" + group.path)
    return made


def ended(connection: socket.socket) -> bool:
    """The other side has closed it."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        return True
    return True


def test_who_does_not_know_the_secret_is_not_let_in_and_disturbs_nobody(group: Group) -> None:
    with pytest.raises(ChannelBroken, match="ended before it was known"):
        Membership(replace(group.id, secret=b"x" * 32), 0)
    for garbage in (b"GET / HTTP/1.1\r\n" * 8, encode({"is": "hello", "rank": 0, "who": "me"}) * 3):
        with raw(group.id) as connection:
            connection.sendall(garbage)
            assert ended(connection)
    for member in group.complete():
        member.check()


@pytest.mark.parametrize(
    "message",
    [{"is": "break", "reason": "x"}, {"is": "hello", "rank": 9, "who": "x"}, {"is": "hello", "rank": "0", "who": "x"}],
    ids=str,
)
def test_who_says_nothing_sensible_first_is_not_let_in(group: Group, message: dict[str, Any]) -> None:
    with raw(group.id) as connection:
        answer(connection, group.id.secret)
        connection.sendall(encode(message))
        assert ended(connection)
    for member in group.complete():
        member.check()


def test_a_member_that_goes_mad_is_lost(group: Group) -> None:
    members = group.complete()
    members[0]._send({"is": "dance"})
    for member in members:
        assert member.settle(lambda: False, WATCHDOG)
    with pytest.raises(ChannelBroken, match=r"rank 0 .* has ended"):
        members[1].check()


def test_strangers_are_counted_and_do_not_stay(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinators, "_STRANGERS", 2)
    silent = [raw(group.id) for _ in range(2)]
    for connection in silent:
        assert connection.recv(4096), "the challenge"
    for member in group.complete():
        member.check()
    assert ended(silent[0])
    for connection in silent:
        connection.close()


def test_a_stranger_has_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinators, "HANDSHAKE_S", 0.05)
    made = Group(1, None)
    with made.ends, raw(made.id) as connection:
        assert ended(connection)


def test_a_port_on_every_address_is_refused() -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(ValueError, match="on every address of this machine"):
            Coordinator("test", "g", 2, host)


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(OSError, match="assign"):
        Coordinator("test", "g", 2, "192.0.2.1")

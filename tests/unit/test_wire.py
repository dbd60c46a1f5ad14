"""Ids, frames and proofs of groups."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from channels.communicators.coordination.wire import (
    MAX_FRAME,
    Challenge,
    GroupId,
    Unreadable,
    answer,
    decode,
    encode,
    open_process,
    peer_process,
    reason_of,
)
from channels.communicators.requests import PACKED, Kind, Request, mismatch

ID = GroupId("gloo", "tensor parallel", 4, "dagc-group-1", "", 0, b"s" * 32, b"\x00\xff")


def test_an_id_survives_its_journey_and_does_not_show_its_secret() -> None:
    assert GroupId.decode(ID.encode(), "gloo") == ID
    assert "s" * 32 not in repr(ID)
    assert (b"s" * 32).hex() not in repr(ID)


@pytest.mark.parametrize(
    "data", [b"", b"garbage" * 9, ID.encode()[:-1], b"dagc group {}", b"dagc group 7", b"dagc group []"]
)
def test_what_is_no_id_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="is not the id of a group of gloo"):
        GroupId.decode(data, "gloo")


def test_an_id_of_another_transport_is_refused() -> None:
    with pytest.raises(ValueError, match="the transport gloo; expected one of nccl"):
        GroupId.decode(ID.encode(), "nccl")


def test_ranks_and_sizes_that_do_not_fit_are_refused() -> None:
    ID.check(3, 4)
    with pytest.raises(ValueError, match="world_size=5, but the group was made for 4 ranks"):
        ID.check(0, 5)
    with pytest.raises(ValueError, match="rank=4; expected 0 to 3"):
        ID.check(4, 4)


def test_frames_are_cut_where_they_end_wherever_they_were_torn() -> None:
    messages = [{"is": "break", "reason": "ä" * 50}, {"is": "leave"}, {"is": "put", "key": "k", "value": ""}]
    stream = b"".join(encode(message) for message in messages)
    buffer, found = bytearray(), []
    for byte in stream:
        buffer.append(byte)
        found += decode(buffer)
    assert found == messages
    assert not buffer


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x03abc", b"\x00\x00\x00\x02[]", b"\x00\x00\x00\x02{}"]
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(bytearray(data))


def test_a_message_that_is_too_long_is_refused_where_it_is_sent() -> None:
    with pytest.raises(ValueError, match="expected at most"):
        encode({"is": "put", "key": "k", "value": "x" * MAX_FRAME})


def test_every_reason_can_be_told() -> None:
    assert reason_of("") == "it was aborted"
    assert reason_of("caf\udce9") == "caf?"
    assert len(encode({"is": "break", "reason": reason_of("\N{SNOWMAN}" * 10_000)})) < MAX_FRAME


# ---- the proof ----


def meet(secret: bytes, other: bytes) -> tuple[BaseException | None, BaseException | None]:
    """What the coordinator and the member raise who know these secrets."""
    ours, theirs = socket.socketpair()
    errors: list[BaseException | None] = [None, None]

    def member() -> None:
        try:
            answer(theirs, other)
        except Unreadable as error:
            errors[1] = error

    thread = threading.Thread(target=member)
    thread.start()
    challenge = Challenge(secret)
    try:
        ours.sendall(challenge.hello)
        ours.sendall(challenge.check(ours.recv(Challenge.length, socket.MSG_WAITALL)))
    except Unreadable as error:
        errors[0] = error
    ours.close()
    thread.join()
    theirs.close()
    return errors[0], errors[1]


def test_who_knows_the_secret_gets_in() -> None:
    assert meet(b"a" * 32, b"a" * 32) == (None, None)


def test_who_does_not_know_it_is_not_told_anything() -> None:
    refused, told = meet(b"a" * 32, b"b" * 32)
    assert "does not know the secret" in str(refused)
    assert "ended before" in str(told)


def test_a_coordinator_that_does_not_know_the_secret_is_refused_too() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(Challenge(b"a" * 32).hello + b"x" * 32)
    with pytest.raises(Unreadable, match="what listens there does not know the secret"):
        answer(theirs, b"a" * 32)
    ours.close()
    theirs.close()


def test_what_listens_but_is_no_coordinator_is_refused() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 99)
    with pytest.raises(Unreadable, match="not the coordinator of a group"):
        answer(theirs, b"a" * 32)
    ours.close()
    theirs.close()


def test_the_process_at_the_other_end_is_known_and_watched() -> None:
    ours, theirs = socket.socketpair()
    assert peer_process(ours) == os.getpid()
    watched = open_process(os.getpid())
    assert watched is not None
    os.close(watched)
    ours.close()
    theirs.close()


def test_over_tcp_and_for_a_process_that_ended_there_is_only_the_connection() -> None:
    with socket.socket() as tcp:
        assert peer_process(tcp) is None
    assert open_process(None) is None
    assert open_process(2**30) is None


# ---- requests ----


def test_a_request_survives_its_journey() -> None:
    for request in (
        Request(Kind.ALLREDUCE, 2, (3, 4), 4),
        Request(Kind.SEND, 0, (), peer=7),
        Request(Kind.BROADCAST, 1, tuple(range(1, 12)), peer=0),
    ):
        assert len(request.pack()) == PACKED
        assert Request.unpack(request.pack()) == request


def test_requests_of_many_dimensions_differ_where_the_last_one_does() -> None:
    one, other = (Request(Kind.ALLGATHER, 2, (1,) * 9 + (last,)) for last in (2, 3))
    assert Request.unpack(one.pack()) != Request.unpack(other.pack())
    assert str(one) == "allgather of float32 (1, 1, 1, 1, 1, 1, 1, 1, ...)"


def test_a_send_meets_its_recv_and_nothing_else() -> None:
    send = Request(Kind.SEND, 2, (4,), peer=1)
    assert send.meets(0, Request(Kind.RECV, 2, (4,), peer=0), 1)
    assert not send.meets(0, Request(Kind.RECV, 2, (2, 2), peer=0), 1)
    assert not send.meets(0, Request(Kind.RECV, 3, (4,), peer=0), 1)
    assert not send.meets(0, Request(Kind.RECV, 2, (4,), peer=2), 1)
    assert not send.meets(0, Request(Kind.SEND, 2, (4,), peer=0), 1)


def test_a_peer_of_another_version_is_not_believed() -> None:
    with pytest.raises(ValueError, match="is the other rank another version"):
        Request.unpack(b"\x01\x40" + bytes(PACKED - 2))


def test_a_mismatch_says_who_asked_for_what() -> None:
    error = mismatch("tp", {1: Request(Kind.DECLINE, 0, ()), 0: Request(Kind.RECV, 2, (4,), peer=1)})
    assert str(error) == (
        "communicator tp: the ranks asked for different things at once: rank 0: recv of float32 (4,) from rank 1; "
        "rank 1: nothing: it declined"
    )
    assert error.asked[1] == "nothing: it declined"

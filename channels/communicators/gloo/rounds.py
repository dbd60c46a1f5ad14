"""How an operation begins: each rank tells each rank that takes part what it asks for, with a small tensor along.

An envelope is a request and as many bytes of a tensor as `inline_bytes` says. A receive for the next envelope of each
peer is posted at all times, so an envelope travels at once, and an operation on small tensors is one message in each
direction.

Everybody who takes part has the same requests before it afterwards, so all agree on whether they fit together. A rank
in a pair (a send or a recv) may find that its partner is busy with others: in an operation of all, or in the same
search. Then it tells all the others what it asked for, and hears what they did. So those who wait in the operation of
all do not wait for it for ever, and everybody raises the same MismatchError.

Operations of all are numbered. Whoever gives one up, because a rank has left, tells those who are still there, and
leaves their envelopes of it unread; later they are recognised by their number and dropped.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from channels.communicators.gloo.links import Late, Links, Lost, Transfer
from channels.communicators.memory import copy
from channels.communicators.requests import PACKED, PAIRED, Kind, Request, mismatch
from channels.errors import MismatchError

if TYPE_CHECKING:
    import torch

__all__ = ["Answer", "NotThere", "Rounds", "inline_bytes"]

_NUMBER = struct.Struct("<Q")
#: Bytes before the tensor: the request, the number of the operation of all, and what aligns the tensor.
_HEAD = 128
_TAG = 0


class NotThere(Exception):
    """These ranks did not come before the deadline."""

    def __init__(self, ranks: list[int]) -> None:
        super().__init__(ranks)
        self.ranks = ranks


@dataclass(frozen=True)
class Answer:
    """What a rank asked for, and the bytes that came along: valid until the next operation but one with it."""

    request: Request
    payload: torch.Tensor


@dataclass(frozen=True)
class _Buffer:
    tensor: torch.Tensor
    #: The same bytes; quicker to look at.
    view: memoryview


class _Inbox:
    """The envelopes from one rank: two buffers in turn, and a receive into one of them."""

    def __init__(self, links: Links, peer: int, inline: int) -> None:
        self._links = links
        self.peer = peer
        self._buffers = [_buffer(inline), _buffer(inline)]
        self._turn = 0
        self._posted = self._post()

    @property
    def come(self) -> bool:
        """Whether an envelope has arrived, or begun to."""
        return bool(self._buffers[self._turn].view[0])

    def take(self, deadline: float | None) -> tuple[bytes, torch.Tensor]:
        """The head and the payload of the next envelope. Raises Late and Lost."""
        if isinstance(self._posted, Lost):
            raise self._posted
        self._links.finish([self._posted], deadline)
        found = self._buffers[self._turn]
        self._turn = 1 - self._turn
        self._posted = self._post()
        return bytes(found.view[:_HEAD]), found.tensor[_HEAD:]

    def _post(self) -> Transfer | Lost:
        buffer = self._buffers[self._turn]
        buffer.view[0] = 0
        try:
            return self._links.receive(buffer.tensor, self.peer, _TAG)
        except Lost as lost:  # it may have left after the envelope that was just taken; the next one will miss it
            return lost


class Rounds:
    """The envelopes of one rank."""

    def __init__(self, links: Links, name: str, rank: int, size: int) -> None:
        self._links = links
        self._name = name
        self._rank = rank
        self._others = [(rank + step) % size for step in range(1, size)]
        self.inline = inline_bytes(size)
        self._inboxes = {peer: _Inbox(links, peer, self.inline) for peer in self._others}
        self._outboxes = {peer: _buffer(self.inline) for peer in self._others}
        #: What is on its way from an outbox, which must not be written meanwhile.
        self._sent: dict[int, Transfer] = {}
        #: What `give_up` has sent.
        self._farewells: list[tuple[_Buffer, Transfer]] = []
        #: How many operations of all this rank has begun.
        self._number = 0

    def close(self) -> None:
        """Let go of what is under way; the connections end when nothing holds them."""
        self._inboxes.clear()
        self._sent.clear()
        self._farewells.clear()

    def give_up(self, left: Mapping[int, Any], reason: int) -> None:
        """Take no part in the next operation of all, because rank `reason` has left, and tell those who have not."""
        self._number += 1
        head = self._head(Request(Kind.GIVEN_UP, 0, (), peer=reason), self._number)
        for peer in self._others:
            if peer not in left:  # in a buffer of its own: nothing is waited for here
                buffer = _buffer(0)
                buffer.view[:] = head
                with suppress(Lost):  # it is leaving, too
                    self._farewells.append((buffer, self._links.send(buffer.tensor, peer, _TAG)))

    def all(self, request: Request, payloads: Mapping[int, torch.Tensor], deadline: float | None) -> dict[int, Answer]:
        """Begin an operation of all ranks. `payloads` has what goes to each of them, if something does.

        Raises MismatchError, NotThere and Lost.
        """
        self._number += 1
        answers = self._exchange(request, payloads, self._others, self._number, deadline)
        if any(answer.request != request for answer in answers.values()):
            raise self._mismatch(request, answers)
        return answers

    def pair(self, request: Request, payload: torch.Tensor | None, deadline: float | None) -> Answer:
        """Begin a send or a recv. Raises MismatchError, NotThere and Lost."""
        peer = request.peer
        payloads = {} if payload is None else {peer: payload}
        answers = self._exchange(request, payloads, [peer], self._number + 1, deadline)
        theirs = answers[peer].request
        if request.meets(self._rank, theirs, peer):
            return answers[peer]
        if theirs.kind not in PAIRED or theirs.peer != self._rank:
            self._number += 1
            rest = [other for other in self._others if other != peer]
            answers |= self._exchange(request, {}, rest, self._number, deadline)
        raise self._mismatch(request, answers)

    def _exchange(
        self,
        request: Request,
        payloads: Mapping[int, torch.Tensor],
        peers: list[int],
        number: int,
        deadline: float | None,
    ) -> dict[int, Answer]:
        head = self._head(request, number)
        failed: Lost | None = None
        for peer in peers:
            try:
                self._send(head, payloads.get(peer), peer, deadline)
            except Lost as lost:  # the others are told all the same: they wait for it
                failed = failed or lost
        if failed is not None:
            raise failed
        answers: dict[int, Answer] = {}
        for peer in peers:
            try:
                answers[peer] = self._take(peer, request, number, deadline)
            except Late as late:
                raise NotThere([one for one in peers if one not in answers and not self._inboxes[one].come]) from late
        for peer in peers:
            self._settle(peer, deadline)
        return answers

    def _send(self, head: bytes, payload: torch.Tensor | None, peer: int, deadline: float | None) -> None:
        self._settle(peer, deadline)  # from an operation that was given up
        outbox, size = self._outboxes[peer], _HEAD
        outbox.view[:_HEAD] = head
        if payload is not None:
            size += payload.numel()
            copy(outbox.tensor[_HEAD:size], payload)
        self._sent[peer] = self._links.send(outbox.tensor[:size], peer, _TAG)

    def _take(self, peer: int, ours: Request, number: int, deadline: float | None) -> Answer:
        """The next envelope that is not of an operation of all that either has given up.

        Raises Lost, of the rank that has left, if the peer has given up this very operation.
        """
        while True:
            head, payload = self._inboxes[peer].take(deadline)
            request = Request.unpack(head[:PACKED])
            (theirs,) = _NUMBER.unpack_from(head, PACKED)
            if request.kind is not Kind.GIVEN_UP:
                if request.kind in PAIRED or theirs >= number:
                    return Answer(request, payload)
            elif ours.kind not in PAIRED and theirs >= number:
                raise Lost(request.peer, f"rank {peer} says that it has left")

    def _head(self, request: Request, number: int) -> bytes:
        return (request.pack() + _NUMBER.pack(number)).ljust(_HEAD, b"\0")

    def _settle(self, peer: int, deadline: float | None) -> None:
        if peer in self._sent:
            self._links.finish([self._sent[peer]], deadline)
            del self._sent[peer]

    def _mismatch(self, request: Request, answers: Mapping[int, Answer]) -> MismatchError:
        return mismatch(self._name, {self._rank: request, **{rank: one.request for rank, one in answers.items()}})


def inline_bytes(size: int) -> int:
    """The most bytes of a tensor that travel with the request, in a group of that size.

    Measured with two ranks of one machine: a message more costs as much as 64 KiB more in a message. With more ranks
    each has that much more to read and to keep.
    """
    return max(4096, min(65536, 131072 // size))


def _buffer(inline: int) -> _Buffer:
    library: Any = importlib.import_module("torch")
    tensor: torch.Tensor = library.empty(_HEAD + inline, dtype=library.uint8)
    view: Any = tensor.numpy()
    return _Buffer(tensor, memoryview(view))

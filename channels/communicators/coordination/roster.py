"""Who is in a group, and what each of them is told: the coordinator without its sockets.

Every method takes what has happened and returns what is to be sent. So the rules can be read, and tested, in one place:

* when the last rank has joined, everybody hears `complete`;
* the first reason for which the group broke is the reason, and everybody hears it; whoever comes later hears it, too;
  when all have said that they heard it, who broke the group is told, so that its abort may return;
* a rank that leaves in an orderly way is told to the others; when the last one has left, everybody hears `over`;
* a rank that is lost (its process has ended) breaks the group, unless it had left;
* a rank that waited too long breaks the group. If it cannot tell whom it waited for, because nothing tells it, the
  others are asked how far they are, and the reason says who has not come.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from channels.communicators.coordination.wire import Message, Unreadable, reason_of

__all__ = ["ANSWER_S", "Post", "Refused", "Roster"]

#: Seconds in which a rank that is asked how far it is has to answer; whoever does not is named for it.
ANSWER_S = 1.0


class Refused(Exception):
    """This rank cannot join; the text says why."""


@dataclass(frozen=True)
class Post:
    """A message for a rank."""

    rank: int
    message: Message


@dataclass(frozen=True)
class _Question:
    """A rank waited too long, and the others were asked how far they are."""

    rank: int
    doing: str
    waited: float
    begun: int
    deadline: float
    answers: dict[int, tuple[int, str]] = field(default_factory=dict)


class Roster:
    """The state of a group. For one thread."""

    def __init__(self, name: str, world_size: int) -> None:
        self.name = name
        self.world_size = world_size
        #: Rank -> who it is, in words.
        self.joined: dict[int, str] = {}
        self.left: set[int] = set()
        #: Those whose connection has ended.
        self.gone: set[int] = set()
        #: Those that know that the group is broken.
        self.heard: set[int] = set()
        #: Why the group is broken.
        self.broken: str | None = None
        self._verdict: Message | None = None
        self._values: dict[str, str] = {}
        self._question: _Question | None = None

    def join(self, rank: int, who: str) -> list[Post]:
        """A rank has come. Raises Refused."""
        if self.broken is not None:
            raise Refused(self.broken)
        if rank in self.joined:
            raise Refused(f"rank {rank} has joined already, as {self.joined[rank]}")
        self.joined[rank] = who
        posts = [Post(rank, _put(key, value)) for key, value in self._values.items()]
        if len(self.joined) == self.world_size:
            posts += self._everybody({"is": "complete"})
        return posts

    def lost(self, rank: int) -> list[Post]:
        """The connection of a rank has ended, or its process."""
        self.gone.add(rank)
        if rank in self.left or self.broken is not None:
            return self._if_all_heard()
        return self.break_(f"rank {rank} ({self.joined[rank]}) has ended")

    def receive(self, rank: int, message: Message, now: float) -> list[Post]:
        """A rank has sent a message. Raises Unreadable."""
        kind = message["is"]
        try:
            if kind == "put":
                key, value = _text(message, "key"), _text(message, "value")
                bytes.fromhex(value)  # else every other rank would be told what none of them can read
                self._values[key] = value
                return self._everybody(_put(key, value))
            if kind == "break":
                return self.break_(_text(message, "reason"), rank)
            if kind == "heard":
                self.heard.add(rank)
                return self._if_all_heard()
            if kind == "leave":
                return self._leave(rank, message.get("counts"))
            if kind == "late":
                return self._late(rank, message, now)
            if kind == "progress":
                return self._progress(rank, int(message["begun"]), _text(message, "doing"))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise Unreadable(f"rank {rank} sent {message!r}: {error!r}") from error
        raise Unreadable(f"rank {rank} sent a message of the unknown kind {kind!r}")

    def break_(self, reason: str, by: int | None = None, *, late: bool = False) -> list[Post]:
        """Break the group, if it is not broken yet. `late`: because rank `by` waited too long."""
        if self.broken is not None:
            return []
        self.broken = reason_of(reason)
        self._question = None
        self._verdict = {"is": "broken", "reason": self.broken, "by": by, "late": late}
        return self._everybody(self._verdict)

    @property
    def all_heard(self) -> bool:
        """The group is broken, and every rank that is still there knows it."""
        return self.broken is not None and set(self.joined) <= self.gone | self.heard

    @property
    def deadline(self) -> float | None:
        """When `tick` is to be called."""
        return None if self._question is None else self._question.deadline

    def tick(self, now: float) -> list[Post]:
        if self._question is None or now < self._question.deadline:
            return []
        return self._answered(self._question)

    # ---- what ranks say ----

    def _if_all_heard(self) -> list[Post]:
        by = None if self._verdict is None else self._verdict["by"]
        return [Post(by, {"is": "heard"})] if self.all_heard and by is not None and by not in self.gone else []

    def _leave(self, rank: int, counts: Any) -> list[Post]:
        if rank in self.left:
            return []
        self.left.add(rank)
        left = {"is": "left", "rank": rank, "counts": counts}
        posts = [post for post in self._everybody(left) if post.rank != rank]
        if len(self.left) == self.world_size:
            posts += self._everybody({"is": "over", "all_here": not self.gone})
        if self._question is not None:
            posts += self._if_answered(self._question)
        return posts

    def _late(self, rank: int, message: Message, now: float) -> list[Post]:
        waited, doing = float(message["waited"]), _text(message, "doing")
        awaited = [int(one) for one in message["awaited"]]
        if missing := sorted(set(range(self.world_size)) - set(self.joined)):
            awaited, doing = missing, "join"
        if awaited:
            return self.break_(f"rank {rank} waited {waited:g} s for {_ranks(awaited)} to {doing}", rank, late=True)
        if self.broken is not None or self._question is not None:
            return []  # whoever asked first decides
        self._question = _Question(rank, doing, waited, int(message["begun"]), now + ANSWER_S)
        asked = [Post(other, {"is": "report"}) for other in self._asked(rank)]
        return asked or self._answered(self._question)

    def _progress(self, rank: int, begun: int, doing: str) -> list[Post]:
        if self._question is None:
            return []
        self._question.answers[rank] = (begun, doing)
        return self._if_answered(self._question)

    def _if_answered(self, question: _Question) -> list[Post]:
        return self._answered(question) if set(self._asked(question.rank)) <= set(question.answers) else []

    def _asked(self, rank: int) -> list[int]:
        return [other for other in self.joined if other != rank and other not in self.left]

    def _answered(self, question: _Question) -> list[Post]:
        behind = [
            f"rank {rank} has begun {begun}{f', the last of them {doing}' if doing else ''}"
            for rank, (begun, doing) in sorted(question.answers.items())
            if begun < question.begun
        ]
        silent = [rank for rank in self._asked(question.rank) if rank not in question.answers]
        behind += [f"rank {rank} does not answer" for rank in silent]
        behind += [f"rank {rank} has left" for rank in sorted(self.left)]
        why = "; ".join(behind) or "every rank has begun it: the devices or the network do not get on"
        what = f"rank {question.rank} waited {question.waited:g} s for its operation {question.begun}"
        reason = f"{what}, {question.doing}: {why}"
        return self.break_(reason, question.rank, late=True)

    def _everybody(self, message: Message) -> list[Post]:
        return [Post(rank, message) for rank in self.joined if rank not in self.gone]


def _put(key: str, value: str) -> Message:
    return {"is": "put", "key": key, "value": value}


def _text(message: Message, key: str) -> str:
    value = message[key]
    if not isinstance(value, str):
        raise TypeError(f"{key!r} is {value!r}; expected a string")
    return value


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"

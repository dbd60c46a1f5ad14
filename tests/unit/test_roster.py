"""Who is in a group and what each is told: strings in, messages out."""

from __future__ import annotations

import pytest

from channels.communicators.coordination.roster import ANSWER_S, Post, Refused, Roster
from channels.communicators.coordination.wire import Unreadable


def full(size: int = 3) -> Roster:
    """All have joined."""
    roster = Roster("g", size)
    for rank in range(size):
        roster.join(rank, f"process {100 + rank}")
    return roster


def told(posts: list[Post], kind: str) -> dict[int, str]:
    """Rank -> the reason, or whatever there is, of the messages of a kind."""
    return {post.rank: str(post.message.get("reason", "")) for post in posts if post.message["is"] == kind}


def test_everybody_hears_that_all_have_joined_when_the_last_one_does() -> None:
    roster = Roster("g", 3)
    assert roster.join(2, "c") == []
    assert roster.join(0, "a") == []
    assert roster.join(1, "b") == [Post(rank, {"is": "complete"}) for rank in (2, 0, 1)]


def test_a_rank_joins_once_and_not_after_the_end() -> None:
    roster = Roster("g", 2)
    roster.join(0, "process 7")
    with pytest.raises(Refused, match="rank 0 has joined already, as process 7"):
        roster.join(0, "process 8")
    roster.break_("enough")
    with pytest.raises(Refused, match="enough"):
        roster.join(1, "process 9")


def test_the_first_reason_is_the_reason() -> None:
    roster = full()
    assert told(roster.receive(1, {"is": "break", "reason": "mine"}, 0.0), "broken") == dict.fromkeys(range(3), "mine")
    assert roster.break_("too late") == []
    assert roster.broken == "mine"


def test_who_broke_the_group_is_told_when_all_know_it() -> None:
    roster = full()
    roster.receive(1, {"is": "break", "reason": "mine"}, 0.0)
    assert roster.receive(0, {"is": "heard"}, 0.0) == []
    assert roster.receive(1, {"is": "heard"}, 0.0) == []
    assert not roster.all_heard
    assert roster.lost(2) == [Post(1, {"is": "heard"})]
    assert roster.all_heard


def test_nobody_is_told_that_all_know_what_the_creator_did() -> None:
    roster = full(1)
    roster.break_("enough")
    assert roster.receive(0, {"is": "heard"}, 0.0) == []
    assert roster.all_heard


def test_a_rank_that_is_lost_breaks_the_group_unless_it_had_left() -> None:
    roster = full()
    roster.receive(2, {"is": "leave", "counts": None}, 0.0)
    assert roster.lost(2) == []
    assert told(roster.lost(1), "broken")[0] == "rank 1 (process 101) has ended"
    assert 2 not in told(roster.break_("again"), "broken")


def test_leaving_is_told_to_the_others_and_the_last_one_ends_it() -> None:
    roster = full(2)
    counts = {"collectives": 3, "pairs": {}}
    assert roster.receive(0, {"is": "leave", "counts": counts}, 0.0) == [
        Post(1, {"is": "left", "rank": 0, "counts": counts})
    ]
    assert roster.receive(0, {"is": "leave", "counts": counts}, 0.0) == []
    posts = roster.receive(1, {"is": "leave", "counts": None}, 0.0)
    assert [post.message for post in posts if post.message["is"] == "over"] == [{"is": "over", "all_here": True}] * 2


def test_the_end_says_whether_all_are_still_there_to_take_part_in_it() -> None:
    roster = full(2)
    roster.receive(0, {"is": "leave", "counts": None}, 0.0)
    roster.lost(0)
    assert roster.receive(1, {"is": "leave", "counts": None}, 0.0) == [Post(1, {"is": "over", "all_here": False})]


def test_values_reach_those_who_joined_and_those_who_will() -> None:
    roster = Roster("g", 2)
    roster.join(0, "a")
    put = {"is": "put", "key": "k", "value": "00"}
    assert roster.receive(0, put, 0.0) == [Post(0, put)]
    assert roster.join(1, "b")[0] == Post(1, put)


# ---- who waited for whom ----


def late(awaited: list[int], begun: int = 0, doing: str = "come to this allreduce") -> dict[str, object]:
    return {"is": "late", "doing": doing, "awaited": awaited, "waited": 0.5, "begun": begun}


def test_who_waits_in_vain_for_ranks_to_join_names_them() -> None:
    roster = Roster("g", 4)
    roster.join(1, "a")
    roster.join(3, "b")
    assert told(roster.receive(3, late([]), 0.0), "broken")[1] == "rank 3 waited 0.5 s for ranks 0, 2 to join"


def test_who_knows_for_whom_it_waited_names_them() -> None:
    posts = full().receive(0, late([1, 2]), 0.0)
    assert told(posts, "broken")[2] == "rank 0 waited 0.5 s for ranks 1, 2 to come to this allreduce"
    assert {(post.message["by"], post.message["late"]) for post in posts} == {(0, True)}


def test_who_does_not_know_it_lets_the_others_be_asked_and_those_behind_are_named() -> None:
    roster = full(4)
    asked = roster.receive(0, late([], 7, "allreduce sum of float32 (4,)"), 10.0)
    assert asked == [Post(rank, {"is": "report"}) for rank in (1, 2, 3)]
    assert roster.deadline == 10.0 + ANSWER_S
    assert roster.receive(1, {"is": "progress", "begun": 7, "doing": "x"}, 10.1) == []
    assert roster.receive(2, {"is": "progress", "begun": 6, "doing": "allgather of int32 (1,)"}, 10.1) == []
    assert roster.tick(10.9) == []
    reason = told(roster.tick(11.0), "broken")[0]
    assert reason == (
        "rank 0 waited 0.5 s for its operation 7, allreduce sum of float32 (4,): rank 2 has begun 6, the last of them "
        "allgather of int32 (1,); rank 3 does not answer"
    )
    assert roster.deadline is None


def test_the_answer_is_given_as_soon_as_all_have_answered_also_by_leaving() -> None:
    roster = full(3)
    roster.receive(0, late([], 2, "allgather"), 0.0)
    roster.receive(1, {"is": "progress", "begun": 2, "doing": "allgather"}, 0.0)
    posts = roster.receive(2, {"is": "leave", "counts": None}, 0.0)
    assert told(posts, "broken")[0].endswith("operation 2, allgather: rank 2 has left")


def test_where_all_have_begun_it_the_devices_are_blamed() -> None:
    roster = full(2)
    roster.receive(0, late([], 2), 0.0)
    posts = roster.receive(1, {"is": "progress", "begun": 2, "doing": ""}, 0.0)
    assert "every rank has begun it" in told(posts, "broken")[1]


def test_only_the_first_question_is_asked() -> None:
    roster = full(3)
    assert roster.receive(0, late([], 2), 0.0)
    assert roster.receive(1, late([], 2), 0.0) == []
    assert roster.receive(2, {"is": "progress", "begun": 9, "doing": ""}, 0.0) == []


def test_an_answer_that_nobody_waits_for_is_ignored() -> None:
    assert full().receive(1, {"is": "progress", "begun": 1, "doing": ""}, 0.0) == []


@pytest.mark.parametrize(
    "message",
    [
        {"is": "break"},
        {"is": "break", "reason": 5},
        {"is": "late", "doing": "x", "awaited": "no", "waited": 1, "begun": 0},
        {"is": "late", "doing": "x", "awaited": [], "waited": "soon", "begun": 0},
        {"is": "progress", "begun": None, "doing": ""},
        {"is": "put", "key": [], "value": ""},
        {"is": "dance"},
    ],
    ids=str,
)
def test_what_cannot_be_understood_is_refused(message: dict[str, object]) -> None:
    with pytest.raises(Unreadable, match="rank 1 sent"):
        full().receive(1, message, 0.0)

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagc.bind import InputNode
from dagc.errors import GraphError
from dagc.plan import Channel, Group, Op, OpKind, Plan, grid
from tests.fakes import actors, plan_of

TEXT = """\
plan test: 8 in flight, bind order, 3 parties, 3 channels, 8 ops, 96 KiB of slots

channels:
  input            driver   ->  Stage_0  shm  8 x 4096
  Stage_0.forward  Stage_0  ->  Stage_1  shm  8 x 4096
  Stage_1.forward  Stage_1  ->  driver   shm  8 x 4096

driver:
  send input
  recv Stage_1.forward

Stage_0:
  recv input
  run  Stage_0.forward
  send Stage_0.forward

Stage_1:
  recv Stage_0.forward
  run  Stage_1.forward
  send Stage_1.forward
"""


def test_a_plan_is_text() -> None:
    first, second = actors(2)
    plan = plan_of(second.forward.bind(first.forward.bind(InputNode())))
    assert str(plan) == TEXT
    assert Plan.parse(TEXT) == plan


words = st.text(string.ascii_letters + string.digits + "._[]#-", min_size=1, max_size=8)
parties = st.sampled_from(["driver", "A_0", "B_0", "channels", "plan"])
channels = st.builds(
    Channel,
    words,
    parties,
    st.lists(parties, min_size=1, max_size=3, unique=True).map(tuple),
    st.sampled_from(["local", "shm", "nccl"]),
    st.integers(0, 64),
    st.integers(64, 2**20),
    st.sampled_from(["", "float32[8,4096]", "@cuda", "bfloat16[]@cpu"]),
)
ops = st.builds(Op, st.sampled_from(OpKind), words)
groups = st.builds(
    Group, words, st.sampled_from(["allreduce", "allgather"]), st.lists(parties, min_size=1, max_size=3).map(tuple)
)
plans = st.builds(
    Plan,
    words,
    st.lists(channels, max_size=4).map(tuple),
    st.dictionaries(parties, st.lists(ops, max_size=4).map(tuple), max_size=4),
    st.lists(groups, max_size=2).map(tuple),
    st.integers(1, 64),
    st.sampled_from(["bind", "free"]),
)


@given(plans)
@settings(derandomize=True, max_examples=100, deadline=None)
def test_every_plan_parses_back(plan: Plan) -> None:
    parsed = Plan.parse(str(plan))
    assert parsed == plan
    assert list(parsed.schedule) == list(plan.schedule)


@given(ops, channels, groups)
@settings(derandomize=True, max_examples=50, deadline=None)
def test_ops_and_channels_parse_back(op: Op, channel: Channel, group: Group) -> None:
    assert Op.parse(str(op)) == op
    assert Channel.parse(str(channel)) == channel
    assert Group.parse(str(group)) == group


def test_a_fused_op_names_its_calls() -> None:
    assert Op.parse("run a+b").calls == ("a", "b")
    assert Op.parse("recv a").calls == ()


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (1, "plan", "expected the first line to be for example 'plan pipeline: 8 in flight, bind order'"),
        (3, "driver:", "expected 'channels:' before the first party"),
        (3, "  input driver -> A shm 8 x 64", "stands under no heading"),
        (4, "  input driver A shm 8 x 64", "expected for example 'input  driver  ->  Stage_0, Stage_1  shm  8 x 4096'"),
        (9, "  sned input", "expected for example 'recv input' or 'run Stage_0.forward'"),
        (12, "Stage 0:", "expected a heading, as 'Stage_0:'"),
        (12, "driver:", "party 'driver' stands twice"),
    ],
)
def test_a_failed_parse_says_the_line_and_what_is_expected(line: int, text: str, message: str) -> None:
    lines = TEXT.splitlines()
    lines[line - 1] = text
    with pytest.raises(GraphError) as caught:
        Plan.parse("\n".join(lines))
    assert str(caught.value).startswith(f"line {line} of the plan: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "plan x: 1 in flight, bind order, 1 party\n"])
def test_a_plan_that_ends_too_early_is_refused(text: str) -> None:
    with pytest.raises(GraphError, match="the plan ends too early; expected 'plan NAME"):
        Plan.parse(text)


@pytest.mark.parametrize(
    ("slots", "size", "shown"), [(2, 64, "128 B"), (8, 4096, "32 KiB"), (8, 2**20, "8 MiB"), (8, 2**30, "8 GiB")]
)
def test_the_memory_is_counted(slots: int, size: int, shown: str) -> None:
    channels = (Channel("a", "A", ("B",), "shm", slots, size), Channel("b", "A", ("B",), "local", slots, size))
    plan = Plan("p", channels, {})
    assert plan.slot_bytes == slots * size
    assert f", {shown} of slots\n" in str(plan)


def test_a_grid_is_a_table_with_marks() -> None:
    schedule = {"A": (Op.parse("recv x"), Op.parse("run f")), "B": (Op.parse("send x"),)}
    assert grid(schedule) == "step  A       B\n0     recv x  send x\n1     run f"
    assert grid(schedule, {"A": 1, "B": 1}).splitlines()[2] == "1     run f  <-- stuck"


def test_a_long_grid_is_cut_around_the_marks() -> None:
    table = grid({"A": tuple(Op(OpKind.RUN, f"f{i}") for i in range(100))}, {"A": 50})
    assert [line.split()[0] for line in table.splitlines()] == ["step", "...", *map(str, range(46, 55)), "..."]
    assert grid({}) == "step"

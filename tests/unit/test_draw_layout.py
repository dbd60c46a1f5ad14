"""The geometry of drawings: dagc/draw/layers.py and what it is made of, and compose.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagc.draw.columns import distance, place_columns
from dagc.draw.compose import make_scene
from dagc.draw.layers import Layout, Net, lay_out
from dagc.draw.order import count_crossings, order_ranks
from dagc.draw.picture import Box, BoxKind, Picture, Style, Wire
from dagc.draw.scene import Point, Scene, Text
from dagc.draw.slide import slide_blocks

#: A rectangle: left, top, right, bottom.
Area = tuple[float, float, float, float]


@st.composite
def nets_of(draw: st.DrawFn, most: int = 14) -> tuple[int, list[Net]]:
    """Nodes, and nets whose sources come before their targets."""
    count = draw(st.integers(1, most))
    nets = []
    for _ in range(draw(st.integers(0, 2 * count)) if count > 1 else 0):
        source = draw(st.integers(0, count - 2))
        targets = draw(st.lists(st.integers(source + 1, count - 1), min_size=1, max_size=4, unique=True))
        nets.append(Net(source, tuple(targets)))
    return count, nets


def vertices_by_rank(layout: Layout) -> list[list[int]]:
    """The vertices of each rank from left to right."""
    rows: list[list[int]] = [[] for _ in range(max(layout.ranks) + 1)]
    for vertex in sorted(range(len(layout.ranks)), key=lambda v: layout.xs[v]):
        rows[layout.ranks[vertex]].append(vertex)
    return rows


@given(nets_of(), st.data())
@settings(derandomize=True, max_examples=150, deadline=None)
def test_a_layout_has_room_for_everything(graph: tuple[int, list[Net]], data: st.DataObject) -> None:
    count, nets = graph
    widths = data.draw(st.lists(st.sampled_from([40.0, 90.0, 200.0]), min_size=count, max_size=count))
    layout = lay_out(widths, nets)
    assert layout == lay_out(widths, nets), "the same graph gives the same drawing"
    assert layout.ranks[count - 1] == max(layout.ranks), "the output is at the bottom"
    for row in vertices_by_rank(layout):
        for a, b in pairwise(row):
            assert layout.xs[b] - layout.xs[a] >= distance(a, b, widths) - 1e-6
    assert min(x - w / 2 for x, w in zip(layout.xs, [*widths, *[0.0] * len(layout.xs)], strict=False)) == pytest.approx(
        0
    )
    for net, pieces in zip(nets, layout.pieces, strict=True):
        assert pieces is not None
        assert all(layout.ranks[b] == layout.ranks[a] + 1 for a, b in pieces), "from each rank to the next"
        reached = {net.source}
        for a, b in pieces:
            assert a in reached, "a net is one tree"
            reached.add(b)
        assert {vertex for vertex in reached if vertex < count} == {net.source, *net.targets}


def test_a_source_is_right_above_the_first_that_needs_it() -> None:
    # 0 -> 1 -> 2 -> 4, and 3, which only 4 needs.
    layout = lay_out([10.0] * 5, [Net(0, (1,)), Net(1, (2,)), Net(2, (4,)), Net(3, (4,))])
    assert layout.ranks == (0, 1, 2, 2, 3)


def test_a_chain_is_straight_and_what_goes_past_it_stands_beside_it() -> None:
    layout = lay_out([100.0] * 5, [Net(0, (1, 4)), Net(1, (2,)), Net(2, (3,)), Net(3, (4,))])
    assert len(set(layout.xs[:5])) == 1
    bends = layout.xs[5:]
    assert len(bends) == 3, "one for each rank between"
    assert len(set(bends)) == 1
    assert abs(bends[0] - layout.xs[0]) > 50


def test_equals_stand_in_the_order_of_the_program_and_around_their_source() -> None:
    layout = lay_out([100.0] * 6, [Net(0, (1, 2, 3, 4)), *(Net(i, (5,)) for i in range(1, 5))])
    left = layout.xs[1]
    assert layout.xs[1:5] == pytest.approx([left, left + 128, left + 256, left + 384])
    assert layout.xs[0] == layout.xs[5] == pytest.approx(left + 192)


def test_crossings_are_removed_where_they_can_be() -> None:
    # Pairs that are numbered crosswise: 0-5, 1-4, 2-3, under a top and over a bottom.
    nets = [Net(0, (1, 2, 3)), Net(1, (6,)), Net(2, (5,)), Net(3, (4,)), Net(4, (7,)), Net(5, (7,)), Net(6, (7,))]
    layout = lay_out([50.0] * 8, nets)
    assert layout.xs[1] < layout.xs[2] < layout.xs[3]
    assert layout.xs[6] < layout.xs[5] < layout.xs[4]


def test_a_drawing_is_not_the_mirror_image_of_the_program() -> None:
    # Depth first, 0 and 2 come before 1, which goes down beside 2.
    layout = lay_out([50.0] * 5, [Net(0, (2,)), Net(1, (3,)), Net(2, (3,)), Net(3, (4,))])
    assert layout.ranks == (0, 1, 1, 2, 3)
    assert layout.xs[1] < layout.xs[2]


def test_a_long_wire_is_straight_before_anything_slides_though_it_branches() -> None:
    # Three layers of four workers each; all of them use what node 0 gives, and the bends of that net are 17 to 20.
    above: list[list[int]] = [[] for _ in range(21)]
    for layer in range(3):
        start, workers, end = 1 + 5 * layer, range(2 + 5 * layer, 6 + 5 * layer), 6 + 5 * layer
        common = [0, 18, 20][layer]
        for worker in workers:
            above[worker] = sorted([start, common])
        above[end] = list(workers)
    above[17], above[18], above[19], above[20] = [0], [17], [18], [19]
    below = [[b for b in range(21) if a in above[b]] for a in range(21)]
    rows = [[1, 0], [2, 3, 4, 5], [6], [7, 8, 9, 10], [11], [12, 13, 14, 15], [16]]
    for row, bend in zip(rows[1:5], range(17, 21), strict=True):
        row.append(bend)
    xs = place_columns(rows, above, below, [100.0] * 17)
    assert xs[17:] == pytest.approx([xs[17]] * 4)


@given(nets_of(8))
@settings(derandomize=True, max_examples=150, deadline=None)
def test_crossings_are_counted(graph: tuple[int, list[Net]]) -> None:
    count, nets = graph
    rows = [list(range(count)), list(range(count, 2 * count))]
    edges = sorted({(net.source, count + target) for net in nets for target in net.targets})
    below: list[list[int]] = [[b for a, b in edges if a == vertex] for vertex in range(2 * count)]
    slow = sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(edges, 2))
    assert count_crossings(rows, below) == slow


@given(nets_of())
@settings(derandomize=True, max_examples=100, deadline=None)
def test_sliding_makes_no_drawing_longer(graph: tuple[int, list[Net]]) -> None:
    count, nets = graph
    ranks = list(range(count))  # each node on a rank of its own, and everything else is bends
    pieces: set[tuple[int, int]] = set()
    for net in nets:
        before = net.source
        for rank in range(net.source + 1, max(net.targets)):
            ranks.append(rank)
            pieces.add((before, len(ranks) - 1))
            before = len(ranks) - 1
        pieces.add((before, max(net.targets)))
    above: list[list[int]] = [[a for a, b in sorted(pieces) if b == vertex] for vertex in range(len(ranks))]
    below: list[list[int]] = [[b for a, b in sorted(pieces) if a == vertex] for vertex in range(len(ranks))]
    rows = order_ranks(ranks, above, below, count)
    widths = [80.0] * count
    xs = place_columns(rows, above, below, widths)
    slid = slide_blocks(xs, rows, above, below, widths)

    def length(places: Sequence[float]) -> float:
        weights = (3, 1, 6)
        return sum(weights[(a >= count) + (b >= count)] * abs(places[a] - places[b]) for a, b in pieces)

    assert length(slid) <= length(xs) + 1e-6
    for row in rows:
        for a, b in pairwise(row):
            assert slid[b] - slid[a] >= distance(a, b, widths) - 1e-6


def test_the_longest_nets_go_without_bends_when_there_are_too_many() -> None:
    nets = [Net(0, (4,)), Net(0, (1,)), Net(1, (2,)), Net(2, (3,)), Net(3, (4,)), Net(1, (3,))]
    layout = lay_out([10.0] * 5, nets, most_bends=1)
    assert layout.pieces[0] is None
    assert layout.pieces[5] is not None
    assert len(layout.xs) == 6


def test_a_net_that_goes_back_is_refused() -> None:
    with pytest.raises(ValueError, match="a source that comes before its targets"):
        lay_out([1.0, 1.0], [Net(1, (0,))])


# What is drawn.


def measure(text: str, size: float) -> float:
    return len(text) * size * 0.6


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    """Boxes with names and details of all lengths, a value of which may be used in several styles."""
    count, nets = draw(nets_of(10))
    boxes = []
    for i in range(count):
        kind = BoxKind.OUTPUT if i == count - 1 else draw(st.sampled_from([BoxKind.CALL, BoxKind.CALL, BoxKind.INPUT]))
        lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=2))
        detail = "d" * draw(st.sampled_from([0, 0, 8, 30]))
        actor = draw(st.integers(0, 20)) if kind is BoxKind.CALL else None
        boxes.append(Box(f"b{i}", kind, tuple("n" * length for length in lengths), detail, "about", actor))
    wires = []
    for i, (source, targets) in enumerate(nets):
        label = draw(st.sampled_from(["", "shm", "[0] shm", "[12] nccl"]))
        style = draw(st.sampled_from(Style))
        wires.append(Wire(f"v{i}", source, targets, style, label, "about"))
        if draw(st.booleans()):
            other = draw(st.sampled_from([found for found in Style if found is not style]))
            wires.append(Wire(f"v{i}", source, targets[:1], other, label, "about"))
    return Picture(
        "p" * 30, ", ".join(["8 in flight"] * 6), tuple(boxes), tuple(wires), tuple(f"A{i}" for i in range(21))
    )


def inked(stroke: Sequence[Point]) -> Iterator[Point]:
    """Points of a stroke, close to each other; the curves as `Line` defines them."""
    for (x, y), (to_x, to_y) in pairwise(stroke):
        for i in range(65):
            t = i / 64
            half = (y + to_y) / 2
            shares = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            xs, ys = (x, x, to_x, to_x), (y, half, half, to_y)
            yield sum(map(float.__mul__, shares, xs)), sum(map(float.__mul__, shares, ys))


def area_of(text: Text) -> Area:
    width = measure(text.text, text.size)
    left = text.x - width / 2 if text.centred else text.x
    return left, text.y - 0.75 * text.size, left + width, text.y + 0.2 * text.size


def texts_of(scene: Scene) -> list[Text]:
    labels = [line.label for line in scene.lines if line.label is not None]
    details = [frame.detail for frame in scene.frames if frame.detail is not None]
    names = [name for frame in scene.frames for name in frame.names]
    return [scene.title, *scene.notes, *(key.text for key in scene.keys), *names, *details, *labels]


def frames_of(scene: Scene) -> list[Area]:
    borders = [frame.shapes[0] for frame in scene.frames]
    return [(b.x, b.y, b.x + b.width, b.y + b.height) for b in borders]


def overlap(a: Area, b: Area) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def check_scene(scene: Scene) -> None:
    """Nothing lies over anything else, and everything on the paper."""
    texts, frames = [area_of(text) for text in texts_of(scene)], frames_of(scene)
    labels = [area_of(line.label) for line in scene.lines if line.label is not None]
    paper = (0.0, 0.0, scene.width, scene.height)
    for left, top, right, bottom in [*texts, *frames]:
        assert paper[0] <= left <= right <= paper[2]
        assert paper[1] <= top <= bottom <= paper[3]
    assert not [pair for pair in combinations(texts, 2) if overlap(*pair)]
    assert not [pair for pair in combinations(frames, 2) if overlap(*pair)]
    assert not [(label, frame) for label in labels for frame in frames if overlap(label, frame)]
    for frame, area in zip(scene.frames, frames, strict=True):
        for text in (*frame.names, *([frame.detail] if frame.detail else [])):
            inside = area_of(text)
            assert area[0] + 6 < inside[0]
            assert area[1] < inside[1]
            assert inside[2] < area[2] - 6
            assert inside[3] < area[3]
    for line in scene.lines:
        assert [tip in [stroke_end(s) for s in line.strokes] for tip in line.arrows] == [True] * len(line.wire.targets)
        for target, (x, y) in zip(line.wire.targets, line.arrows, strict=True):
            left, top, right, _ = frames[target]
            assert left < x < right
            assert y == pytest.approx(top)
        for stroke in line.strokes:
            for x, y in inked(stroke):
                assert 0 <= x <= scene.width
                for left, top, right, bottom in [*frames, *labels]:
                    assert not (left + 0.1 < x < right - 0.1 and top + 0.1 < y < bottom - 0.1)


def stroke_end(stroke: Sequence[Point]) -> Point:
    """Where the arrow head's tip is, a little below the end of the stroke."""
    x, y = stroke[-1]
    return x, y + 6


@given(pictures())
@settings(derandomize=True, max_examples=120, deadline=None)
def test_no_wire_runs_through_a_box_and_no_text_over_another(picture: Picture) -> None:
    check_scene(make_scene(picture, measure))


def a_call(name: str, **kwargs: Any) -> Box:
    return Box(name, BoxKind.CALL, (name,), "", name, **{"actor": 0, **kwargs})


def test_the_label_of_a_value_is_written_once_and_by_the_heaviest_of_its_wires() -> None:
    boxes = (a_call("A"), a_call("B"), a_call("C"))
    wires = (Wire("A", 0, (1,), Style.NEAR, "shm", ""), Wire("A", 0, (2,), Style.CROSS, "shm", ""))
    scene = make_scene(Picture("p", "", boxes, wires, ("X",)), measure)
    assert [(line.wire.style, line.label is not None, line.cased) for line in scene.lines] == [
        (Style.CROSS, True, True),
        (Style.NEAR, False, False),
    ]


def test_values_of_a_call_leave_it_side_by_side_in_the_order_of_their_goals() -> None:
    boxes = (a_call("A"), a_call("B"), a_call("C"))
    wires = (Wire("A[0]", 0, (1,), Style.CROSS, "[0] shm", ""), Wire("A[1]", 0, (2,), Style.CROSS, "[1] shm", ""))
    first, second = make_scene(Picture("p", "", boxes, wires, ("X",)), measure).lines
    assert first.strokes[0][0][0] + 40 < second.strokes[0][0][0]
    assert first.arrows[0][0] < second.arrows[0][0]


def test_a_call_of_very_many_values_has_wires_without_labels() -> None:
    def labels(count: int) -> int:
        boxes = (a_call("A"), *(a_call(f"B{i}") for i in range(count)))
        wires = tuple(Wire(f"A[{i}]", 0, (i + 1,), Style.CROSS, f"[{i}] shm", "") for i in range(count))
        scene = make_scene(Picture("p", "", boxes, wires, ("X",)), measure)
        check_scene(scene)
        return sum(line.label is not None for line in scene.lines)

    assert [labels(count) for count in (6, 7, 30)] == [6, 0, 0]


def test_a_legend_of_many_actors_says_how_many_there_are() -> None:
    boxes = tuple(a_call(f"A{i}", actor=i) for i in range(30))
    scene = make_scene(Picture("p", "", boxes, (), tuple(f"Actor_{i}" for i in range(30))), measure)
    assert [key.text.text for key in scene.keys][-2:] == ["Actor_23", "and 6 more"]
    check_scene(scene)

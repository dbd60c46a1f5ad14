"""place_columns: horizontal places for ordered ranks, after Brandes and Koepf ("Fast and simple horizontal coordinate
assignment", Graph Drawing 2001): every vertex wants to stand under the median of its neighbours, and long wires are
straight between their first and their last bend.

It is done four times, with neighbours above or below and from the left or from the right; a vertex gets the mean of the
two middle ones of its four places. The compaction is by longest paths over the blocks instead of the paper's classes,
whose shifts were wrong (Brandes, Walter and Zink, "Erratum", arXiv:2008.01252, 2020). Two vertices side by side keep
their distance in each of the four, and so in the mean: the k-th smallest of four places that are each at least d more
is at least d more.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["distance", "place_columns"]

#: Free space between two boxes, and between a wire and what stands beside it.
_GAP, _BEND_GAP = 28.0, 18.0

Rows = Sequence[Sequence[int]]
Neighbours = Sequence[Sequence[int]]


def distance(a: int, b: int, widths: Sequence[float]) -> float:
    """How far apart the centres of two vertices side by side must be. Vertices from len(widths) on are bends."""
    boxes = [widths[vertex] for vertex in (a, b) if vertex < len(widths)]
    return sum(boxes) / 2 + (_GAP if len(boxes) == 2 else _BEND_GAP)


def place_columns(rows: Rows, above: Neighbours, below: Neighbours, widths: Sequence[float]) -> list[float]:
    """The centre of each vertex; the leftmost edge of all is at 0. Vertices from len(widths) on are bends."""
    if not any(rows):
        return []
    blocks = _Blocks(rows, above, below, widths)
    four = [[side * x for x in blocks.places(down, side)] for down in (True, False) for side in (1, -1)]
    half = blocks.half
    spans = [(min(x - h for x, h in zip(xs, half, strict=True)), max(map(float.__add__, xs, half))) for xs in four]
    low, high = min(spans, key=lambda span: span[1] - span[0])
    # All four are moved onto the narrowest: those that were made from the left by their left edges.
    shifts = [low - span[0] if i % 2 == 0 else high - span[1] for i, span in enumerate(spans)]
    middle = []
    for places in zip(*four, strict=True):
        _, a, b, _ = sorted(x + shift for x, shift in zip(places, shifts, strict=True))
        middle.append((a + b) / 2)
    left = min(x - h for x, h in zip(middle, half, strict=True))
    return [x - left for x in middle]


class _Blocks:
    """Vertices under each other that get the same place."""

    def __init__(self, rows: Rows, above: Neighbours, below: Neighbours, widths: Sequence[float]) -> None:
        self._rows = rows
        self._above = above
        self._below = below
        self._widths = widths
        self._nodes = len(widths)
        self._order = [0] * len(above)
        for row in rows:
            for i, vertex in enumerate(row):
                self._order[vertex] = i
        self.half = [*(width / 2 for width in widths), *([0.0] * (len(above) - len(widths)))]
        self._crossed = self._find_crossed()

    def places(self, downwards: bool, side: int) -> list[float]:
        """Places for one of the four ways. Side -1 works from the right: its places are those of the mirror image."""
        rows = [row[::side] for row in (self._rows if downwards else self._rows[::-1])]
        return self._compact(rows, self._align(rows, self._above if downwards else self._below, side))

    def _is_inner(self, upper: int, lower: int) -> bool:
        """A piece between two bends: the long part of a long wire, which shall be straight whatever else is not."""
        return upper >= self._nodes and lower >= self._nodes

    def _find_crossed(self) -> set[tuple[int, int]]:
        """The pieces that cross an inner piece ("type 1 conflicts"): nothing is aligned along them."""
        crossed: set[tuple[int, int]] = set()
        order, above = self._order, self._above
        for upper_row, row in pairwise(self._rows):
            left, start = -1, 0
            for i, vertex in enumerate(row):
                inner = next((upper for upper in above[vertex] if self._is_inner(upper, vertex)), None)
                if inner is None and i < len(row) - 1:
                    continue
                right = len(upper_row) if inner is None else order[inner]
                for other in row[start : i + 1]:
                    for upper in above[other]:
                        if not left <= order[upper] <= right and not self._is_inner(upper, other):
                            crossed.add((upper, other))
                left, start = right, i + 1
        return crossed

    def _align(self, rows: Rows, neighbours: Neighbours, side: int) -> list[int]:
        """Vertex -> the root of its block, which is the first of the block's vertices."""
        root = list(range(len(self._order)))
        order, crossed, nodes = self._order, self._crossed, self._nodes
        for row in rows:
            last: float = float("-inf")
            for vertex in row:
                near = sorted(neighbours[vertex], key=lambda v: side * order[v])
                if vertex >= nodes:
                    near = [other for other in near if other >= nodes] or near
                else:
                    near = [other for other in near if not self._goes_on(other, vertex)]
                for other in near[(len(near) - 1) // 2 : len(near) // 2 + 1]:
                    free = (vertex, other) not in crossed and (other, vertex) not in crossed
                    if free and side * order[other] > last:
                        root[vertex] = root[other]
                        last = side * order[other]
                        break
        return root

    def _goes_on(self, upper: int, lower: int) -> bool:
        """Whether `upper` is a bend whose net goes on below it: it is kept for the next bend, not for a branch."""
        return upper >= self._nodes and lower in self._below[upper] and self._below[upper][-1] >= self._nodes

    def _compact(self, rows: Rows, root: list[int]) -> list[float]:
        """Each block as far to the left as those on its left let it, then back towards those on its right."""
        right_of: list[dict[int, float]] = [{} for _ in root]
        left_of: list[dict[int, float]] = [{} for _ in root]
        for row in rows:
            for left, right in pairwise(row):
                a, b = root[left], root[right]
                needed = max(distance(left, right, self._widths), right_of[a].get(b, 0.0))
                right_of[a][b] = left_of[b][a] = needed
        waiting = [len(found) for found in left_of]
        ordered = [vertex for vertex, top in enumerate(root) if vertex == top and not waiting[vertex]]
        for block in ordered:  # grows while it is read
            for other in right_of[block]:
                waiting[other] -= 1
                if not waiting[other]:
                    ordered.append(other)
        place = [0.0] * len(root)
        for block in ordered:
            place[block] = max((place[a] + needed for a, needed in left_of[block].items()), default=0.0)
        for block in reversed(ordered):
            if right_of[block]:
                place[block] = min(place[b] - needed for b, needed in right_of[block].items())
        return [place[top] for top in root]

"""slide_blocks: a drawing made narrower and straighter, after its vertices have been placed (columns.py).

The places of Brandes and Koepf are wide: a block is pushed to one side as far as it goes, and the mean of both sides
stands in an empty middle. Here whole blocks, which are the vertices that already stand straight under each other,
slide to where their wires are shortest: to the weighted median of the vertices that they are joined to, as far as their
neighbours let them or can be pushed. This is coordinate descent on the sum of the weighted widths of all pieces, which
Gansner, Koutsofios, North and Vo (1993) minimise exactly with a network simplex; it is simpler, and quick at any size.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from dagc.draw.columns import distance

__all__ = ["slide_blocks"]

Neighbours = Sequence[Sequence[int]]

#: Rounds for a drawing with at most _SMALL vertices, and for a larger one.
_ROUNDS, _FEW_ROUNDS, _SMALL = 30, 2, 600
#: Places that differ by less are the same.
_SAME = 1e-6


def slide_blocks(
    xs: Sequence[float], rows: Sequence[Sequence[int]], above: Neighbours, below: Neighbours, widths: Sequence[float]
) -> list[float]:
    """The places after sliding, the leftmost edge of all at 0. Distances side by side are as in `place_columns`."""
    slide = _Slide(xs, rows, above, below, widths)
    for _ in range(_ROUNDS if len(xs) <= _SMALL else _FEW_ROUNDS):
        if not slide.round():
            break
    left = min((x - slide.half(v) for v, x in enumerate(slide.xs)), default=0.0)
    return [x - left for x in slide.xs]


class _Slide:
    def __init__(
        self,
        xs: Sequence[float],
        rows: Sequence[Sequence[int]],
        above: Neighbours,
        below: Neighbours,
        widths: Sequence[float],
    ) -> None:
        self.xs = list(xs)
        self._above = above
        self._below = below
        self._widths = widths
        #: Blocks push others; in a large drawing that would take too long.
        self._small = len(xs) <= _SMALL
        self._blocks: list[list[int]] = []
        #: Vertex -> its block.
        self._block: dict[int, int] = {}
        self._left: list[int | None] = [None] * len(xs)
        self._right: list[int | None] = [None] * len(xs)
        for row in rows:
            for a, b in pairwise(row):
                self._right[a], self._left[b] = b, a

    def half(self, vertex: int) -> float:
        return self._widths[vertex] / 2 if vertex < len(self._widths) else 0.0

    def round(self) -> bool:
        """Slides every block once to the right or left, with those that it pushes; False if none moved."""
        self._blocks = self._find_blocks()
        self._block = {vertex: i for i, block in enumerate(self._blocks) for vertex in block}
        order = sorted(range(len(self._blocks)), key=lambda i: self.xs[self._blocks[i][0]])
        moved = False
        # The outermost of those that go the same way move first, and make room for the others.
        for side, ordered in ((1, order[::-1]), (-1, order)):
            for i in ordered:
                pushed, room = self._pushed(i, side)
                step = min(side * self._wish(pushed), room)
                if step > _SAME:
                    moved = True
                    for block in pushed:
                        place = self.xs[self._blocks[block][0]] + side * step
                        for vertex in self._blocks[block]:
                            self.xs[vertex] = place
        return moved

    def _find_blocks(self) -> list[list[int]]:
        """The vertices, grouped to those that pieces without a bend join."""
        blocks: list[list[int]] = []
        seen = [False] * len(self.xs)
        for start in range(len(self.xs)):
            if seen[start]:
                continue
            seen[start] = True
            block = [start]
            for vertex in block:  # grows while it is read
                for other in (*self._above[vertex], *self._below[vertex]):
                    if not seen[other] and abs(self.xs[other] - self.xs[vertex]) < _SAME:
                        seen[other] = True
                        block.append(other)
            blocks.append(block)
        return blocks

    def _pushed(self, block: int, side: int) -> tuple[dict[int, None], float]:
        """The blocks that move when this one moves to a side, and how far they can go before there are more of them."""
        beside = self._right if side > 0 else self._left
        found = {block: None}
        waiting = [block]
        room = float("inf")
        while waiting:
            for vertex in self._blocks[waiting.pop()]:
                other = beside[vertex]
                if other is not None and self._block[other] not in found:
                    free = abs(self.xs[other] - self.xs[vertex]) - distance(vertex, other, self._widths)
                    if free > _SAME:
                        room = min(room, free)
                    elif self._small:
                        found[self._block[other]] = None
                        waiting.append(self._block[other])
                    else:
                        return found, 0.0
        return found, room

    def _wish(self, blocks: Mapping[int, None]) -> float:
        """How far these blocks have to go, to the nearest place at which their pieces are shortest."""
        pulls = sorted(
            (self.xs[other] - self.xs[vertex], self._weight(vertex, other))
            for block in blocks
            for vertex in self._blocks[block]
            for other in (*self._above[vertex], *self._below[vertex])
            if self._block[other] not in blocks
        )
        if not pulls:
            return 0.0
        passed = list(accumulate(weight for _, weight in pulls))
        low = pulls[bisect_left(passed, passed[-1] / 2)][0]
        high = pulls[bisect_right(passed, passed[-1] / 2)][0]
        return min(max(0.0, low), high)

    def _weight(self, a: int, b: int) -> int:
        """Wires between two boxes matter more than ones that go further: the main line is then straight."""
        bends = (a >= len(self._widths)) + (b >= len(self._widths))
        return (3, 1, 6)[bends]

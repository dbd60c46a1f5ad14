"""order_ranks: the vertices of each rank from left to right, so that few pieces cross.

Barycentres, after Sugiyama, Tagawa and Toda (1981): sweep down and up, and sort each rank by the mean place of its
neighbours on the rank before. The best order that was seen is kept. Small drawings are then improved by exchanging
neighbours, after Gansner, Koutsofios, North and Vo ("A technique for drawing directed graphs", 1993).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["count_crossings", "order_ranks"]

Rows = list[list[int]]
Neighbours = Sequence[Sequence[int]]

#: Sweeps of a drawing with at most _SMALL pieces, and of a larger one; the time of a sweep grows with the pieces.
_SWEEPS, _FEW_SWEEPS, _SMALL = 24, 4, 3_000
#: Sweeps without a better order after which no more are tried.
_PATIENCE = 6


def order_ranks(ranks: Sequence[int], above: Neighbours, below: Neighbours, nodes: int) -> Rows:
    """Rows of vertices, from rank 0 on. `above` and `below` give each vertex's neighbours on the ranks beside its own.

    Of equally good orders the first wins, and it begins with the numbers of the vertices: the order of the program. The
    mirror image, which is always as good, is taken if more of the first `nodes` vertices are in that order there.
    """
    rows = _first_order(ranks, below)
    best, fewest = rows, count_crossings(rows, below)
    small = sum(map(len, below)) <= _SMALL
    tries = 0
    for sweep in range(_SWEEPS if small else _FEW_SWEEPS):
        if not fewest or tries == _PATIENCE:
            break
        # Every second pair of sweeps puts equals in the opposite order: it leads out of some dead ends.
        rows = _sweep(rows, above if sweep % 2 == 0 else below, downwards=sweep % 2 == 0, turned=sweep % 4 >= 2)
        crossings = count_crossings(rows, below)
        tries = 0 if crossings < fewest else tries + 1
        if crossings < fewest:
            best, fewest = rows, crossings
    if small and fewest:
        best = _exchange(best, above, below)
    real = [[vertex for vertex in row if vertex < nodes] for row in best]
    rises = sum((a < b) - (a > b) for row in real for a, b in pairwise(row))
    return [row[::-1] for row in best] if rises < 0 else best


def count_crossings(rows: Rows, below: Neighbours) -> int:
    """How many pairs of pieces cross. O(p log p) comparisons for p pieces.

    Two pieces between the same ranks cross if their upper ends are in one order and their lower ends in the other: they
    are the inversions of the lower ends, taken in the order of the upper ones.
    """
    total = 0
    for upper, lower in pairwise(rows):
        place = {vertex: i for i, vertex in enumerate(lower)}
        seen: list[int] = []
        for vertex in upper:
            ends = sorted(place[end] for end in below[vertex])
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


def _first_order(ranks: Sequence[int], below: Neighbours) -> Rows:
    """Depth first from the vertices in their order: what belongs together stands together."""
    rows: Rows = [[] for _ in range(max(ranks, default=-1) + 1)]
    seen = [False] * len(ranks)
    for start in range(len(ranks)):
        stack = [start]
        while stack:
            vertex = stack.pop()
            if not seen[vertex]:
                seen[vertex] = True
                rows[ranks[vertex]].append(vertex)
                stack += reversed(below[vertex])
    return rows


def _sweep(rows: Rows, neighbours: Neighbours, *, downwards: bool, turned: bool) -> Rows:
    """Each rank sorted by the barycentres of its vertices on the rank that was sorted before it.

    Vertices without neighbours there keep their places among the others.
    """
    done: Rows = [list(row) for row in rows]
    indices = range(1, len(rows)) if downwards else range(len(rows) - 2, -1, -1)
    for i in indices:
        place = {vertex: j for j, vertex in enumerate(done[i - 1 if downwards else i + 1])}
        row = done[i]
        keys = {v: sum(place[u] for u in neighbours[v]) / len(neighbours[v]) for v in row if neighbours[v]}
        moving = [vertex for vertex in row if vertex in keys]
        if turned:
            moving.reverse()
        moving.sort(key=keys.__getitem__)
        ordered = iter(moving)
        done[i] = [next(ordered) if vertex in keys else vertex for vertex in row]
    return done


def _exchange(rows: Rows, above: Neighbours, below: Neighbours) -> Rows:
    """Exchanges vertices that stand side by side as long as that removes crossings."""
    done: Rows = [list(row) for row in rows]
    place = [0] * len(above)
    for row in done:
        for i, vertex in enumerate(row):
            place[vertex] = i
    better = True
    while better:
        better = False
        for row in done:
            for i in range(len(row) - 1):
                left, right = row[i], row[i + 1]
                kept = turned = 0
                for neighbours in (above, below):
                    for a in neighbours[left]:
                        for b in neighbours[right]:
                            kept += place[a] > place[b]
                            turned += place[a] < place[b]
                if turned < kept:
                    row[i], row[i + 1] = right, left
                    place[left], place[right] = i + 1, i
                    better = True
    return done

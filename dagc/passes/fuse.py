"""fuse: calls that an actor makes one right after the other become one op, made in one turn and checked once.

A call joins the one before it if it uses its value, and otherwise only what the first call of the op uses. Then one
look at these values tells of all the calls whether they are made, and a call that fails takes with it all that follow:
what an exception does to other calls is as if they had not been fused. Calls that do not depend on each other stay
apart for this reason; so do calls with a send between them, for somebody waits for it.
"""

from __future__ import annotations

from dagc.graph import Call, Graph
from dagc.plan import Op, OpKind, Schedule

__all__ = ["fuse"]


def fuse(schedule: Schedule, graph: Graph) -> Schedule:
    """The schedule with neighbouring calls fused where nobody can tell the difference."""
    return {party: _fuse(ops, graph) for party, ops in schedule.items()}


def _fuse(ops: tuple[Op, ...], graph: Graph) -> tuple[Op, ...]:
    fused: list[Op] = []
    #: What the first call of the last op uses, and what its calls have made so far.
    known: set[str] = set()
    last: set[str] = set()
    for op in ops:
        if op.kind is not OpKind.RUN:
            fused.append(op)
            continue
        call = graph.by_name[op.target]
        assert isinstance(call, Call), "the plan was made from this graph"
        uses, values = set(call.uses), {*graph.values_of(call)}
        if fused and fused[-1].kind is OpKind.RUN and uses <= known and uses & last:
            fused[-1] = Op(OpKind.RUN, f"{fused[-1].target}+{op.target}")
            known |= values
        else:
            fused.append(op)
            known = uses | values
        last = values
    return tuple(fused)

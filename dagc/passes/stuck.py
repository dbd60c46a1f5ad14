"""explain: the text of a DeadlockError. Who waits for whom, in a circle; what to change; the schedule with the places.

Every stuck party waits for another that has not ended, or that has ended too early. Going from each to the first that
it waits for, one comes to such an end, or to a party for the second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dagc.graph import DRIVER
from dagc.passes.tokens import Rendezvous, Simulation
from dagc.plan import Op, OpKind, Schedule, grid

__all__ = ["explain", "explain_ahead"]

#: Parties that an error names in one place; more are hard to read.
_SHOWN = 6


def explain(run: Simulation) -> str:
    """Of one execution that is stuck."""
    circle, last = _circle(run)
    lines = [f"this schedule deadlocks in round {run.rounds}:"]
    lines += _waits(run, circle, last, {})
    return _text(run, lines, _advice(run, circle, last), circle, run.schedule, run.at)


def explain_ahead(run: Simulation, schedule: Schedule, ahead: int, sends: int, short: Mapping[str, int]) -> str:
    """Of `ahead` executions that are stuck though one alone is not, because the driver cannot send all their inputs.

    `schedule` is that of one execution, whose first `sends` ops are the driver's sends. `short`: how many slots the
    channels would need that hold it up.
    """
    executions, steps = {}, {}
    for party in run.stuck:
        own = sends if party == DRIVER else len(schedule[party])
        done, steps[party] = divmod(run.at[party], own)
        executions[party] = f" of execution {done + 1}"
    circle, last = _circle(run)
    lines = [f"with {ahead} executions begun before the first result is taken, this schedule deadlocks:"]
    lines += _waits(run, circle, last, executions)
    begun = run.at[DRIVER] // sends
    slots = " and ".join(f"{name} {count} slots" for name, count in short.items())
    advice = f"Begin at most {begun} (max_inflight={begun}), or give {slots}."
    return _text(run, lines, advice, circle, schedule, steps)


def _circle(run: Simulation) -> tuple[list[str], str]:
    """Parties that each wait for the next, and for whom the last of them waits: the first, or one that has ended."""
    path: dict[str, int] = {}
    party = run.stuck[0]
    while party not in path and run.head(party) is not None:
        path[party] = len(path)
        party = run.missing(party)[0]
    return list(path)[path.get(party, 0) :], party


def _waits(run: Simulation, circle: Sequence[str], last: str, executions: Mapping[str, str]) -> list[str]:
    """A line for each party of the circle."""
    lines = []
    for party in circle[:_SHOWN]:
        head, missing = run.head(party), run.missing(party)
        assert head is not None, "it is stuck"
        if head.kind is OpKind.JOIN:
            shown = [f"{other} ({_instead(run, other, executions)})" for other in missing[:_SHOWN]]
        else:
            shown = list(missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        lines.append(f"  {party} waits at '{head}'{executions.get(party, '')} for {', '.join(shown)}{more}")
    if len(circle) > _SHOWN:
        lines.append(f"  ... and {len(circle) - _SHOWN} more, the last for {last}")
    return lines


def _instead(run: Simulation, party: str, executions: Mapping[str, str]) -> str:
    head = run.head(party)
    return "has no more ops" if head is None else f"is at '{head}'{executions.get(party, '')}"


def _text(
    run: Simulation,
    lines: Sequence[str],
    advice: str,
    circle: Sequence[str],
    schedule: Schedule,
    steps: Mapping[str, int],
) -> str:
    stuck = run.stuck
    shown = list(dict.fromkeys([*circle, *stuck]))[:_SHOWN]
    lines = [*lines, f"{len(stuck)} of {len(schedule)} parties are stuck. {advice}"]
    if len(shown) < len(stuck):
        lines.append(f"The schedule of {len(shown)} of them:")
    table = grid({party: ops for party, ops in schedule.items() if party in shown}, {p: steps[p] for p in shown})
    return "\n".join(lines) + f"\n\n{table}"


def _advice(run: Simulation, circle: Sequence[str], last: str) -> str:
    heads = [head for party in circle if (head := run.head(party)) is not None]
    if last not in circle:
        return f"{last} has no more ops; give it one that {_counterpart(run, heads[-1], last)} {heads[-1].target}."
    places = [run.place(head) for head in heads]
    if len(circle) == 1 and isinstance(places[0], Rendezvous):
        name = heads[0].target
        return (
            f"{name} is a rendezvous, and {last} both writes and reads it: a party cannot meet itself. Pass the value "
            f"by reference inside {last}, or give {name} slots."
        )
    groups = dict.fromkeys(head.target for head in heads if head.kind is OpKind.JOIN)
    if groups:
        names = " and ".join(list(groups)[:_SHOWN])
        return f"Let all members of {names} make their joins, sends and recvs in the same order."
    if any(isinstance(place, Rendezvous) for place in places):
        return "Let the parties make these sends and recvs in the same order, or give the channels slots."
    if all(head.kind is OpKind.RECV for head in heads):
        return "Each waits for what another sends only later; let one of them send before it receives."
    return "Let the readers receive in the order of the sends, or give the channels more slots."


def _counterpart(run: Simulation, head: Op, other: str) -> str:
    """What the other party has to do for an op to end."""
    if head.kind is OpKind.JOIN:
        return "joins"
    return "sends" if other == run.channels[head.target].channel.writer and head.kind is OpKind.RECV else "receives"

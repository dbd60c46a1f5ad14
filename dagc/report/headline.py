"""The head of the page: what ran where, the four figures that matter, and what limits them."""

from __future__ import annotations

import math

import numpy as np

from dagc.report.facts import Facts
from dagc.report.html import esc, meter, name
from dagc.report.limits import busiest, find_limit, under_way
from dagc.report.units import apart, count, percent, points_apart, rate, seconds
from dagc.timing.trace import Figures

__all__ = ["headline", "subtitle"]

#: Actors with a bar of their own in the figure of the bubble; the table has all of them.
_BARS = 6
#: Executions under way, on average, above which they do not run alone.
_SEVERAL = 1.25


def subtitle(facts: Facts) -> str:
    """Two lines: the graph and the machine."""
    plan, machine = facts.plan, facts.machine
    traced = len(facts.measured.executions)
    ops = sum(map(len, plan.schedule.values()))
    graph = [
        _number(traced, "execution traced", "executions traced"),
        _number(len(plan.schedule), "party", "parties"),
        _number(len(plan.channels), "channel", "channels"),
        _number(ops, "op", "ops"),
        f"{plan.max_inflight} in flight",
        f"{plan.order} order",
    ]
    where = [
        machine.when,
        machine.cpu,
        _number(machine.cores, "core", "cores"),
        f"Linux {machine.kernel}",
        f"Python {machine.python}",
    ]
    if machine.version:
        where.append(f"dagc {machine.version}")
    return f"{_list(graph)}\n{_list(where)}"


def headline(facts: Facts) -> str:
    """The figures, or if nothing was traced what to do about that."""
    figures = facts.figures
    if figures is None:
        return _nothing_traced()
    tiles = "\n".join(tile(facts, figures) for tile in (_latency, _throughput, _busiest, _bubble))
    limit = find_limit(facts.plan, figures, cores=facts.machine.cores, cores_used=facts.measured.cores_used)
    return (
        f'<section class="figures" aria-label="Figures">\n{tiles}\n</section>\n'
        f'<p class="limit"><strong>{esc(limit.head)}</strong> {esc(limit.text)}</p>'
    )


def _nothing_traced() -> str:
    return (
        '<section class="empty"><h2>No execution was traced yet</h2>\n'
        "<p>This page shows what really ran, beside what was predicted. To fill it, compile the graph with tracing, "
        "execute it a few hundred times, and write the page again:</p>\n"
        "<pre><code>graph = dagc.compile(dag, trace=True)\n"
        "for result in graph.map(batches):\n    ...\n"
        'graph.report("run.html")</code></pre></section>'
    )


def _latency(facts: Facts, figures: Figures) -> str:
    p95 = float(np.percentile(facts.measured.latencies, 95))
    notes = [f"p95 {seconds(p95)}"]
    if facts.prediction is not None:
        # The prediction of a full window says nothing about executions that are made one at a time.
        expected = facts.prediction.figures.latency if under_way(figures) > _SEVERAL else facts.prediction.alone
        notes.insert(0, _predicted(seconds(expected), apart(expected, figures.latency)))
    return _tile("Latency, p50", seconds(figures.latency), notes)


def _throughput(facts: Facts, figures: Figures) -> str:
    predicted = facts.predicted
    notes = [f"of {_number(figures.executions, 'execution', 'executions')}"]
    if predicted is not None:
        notes.insert(0, _predicted(rate(predicted.throughput), apart(predicted.throughput, figures.throughput)))
    return _tile("Throughput", rate(figures.throughput), notes)


def _busiest(facts: Facts, figures: Figures) -> str:
    predicted = facts.predicted
    actor, busy = busiest(figures)
    notes = []
    if predicted is not None:
        expected = 1 - predicted.idle[actor]
        notes.append(_predicted(percent(expected), points_apart(expected, busy)))
    notes.append(f"{seconds(busy / figures.throughput)} of work an execution")
    return _tile(f"Busiest actor, {name(actor)}", percent(busy), notes)


def _bubble(facts: Facts, figures: Figures) -> str:
    """A row an actor: its idle share as a bar, with a mark where it was predicted to end."""
    predicted = facts.predicted
    rows = []
    for actor, idle in list(figures.idle.items())[:_BARS]:
        expected = None if predicted is None else predicted.idle[actor]
        difference = "" if expected is None else points_apart(expected, idle)
        told = "" if expected is None else f'<span class="unseen">, predicted {percent(expected)}</span>'
        rows.append(
            f"<li>{name(actor)}{meter(idle, mark=expected)}<b>{percent(idle)}</b>{told}"
            f'<span class="apart" title="predicted {esc(difference)}">{esc(difference)}</span></li>'
        )
    left = len(figures.idle) - _BARS
    more = f'<p class="note"><a href="#actors">and {_number(left, "actor", "actors")} more</a></p>' if left > 0 else ""
    mean = math.fsum(figures.idle.values()) / len(figures.idle)
    return (
        f'<div class="tile wide"><h2>Bubble <span class="quiet">idle share, mean {percent(mean)}</span></h2>'
        f'<ul class="bars">{"".join(rows)}</ul>{more}</div>'
    )


def _tile(title: str, value: str, notes: list[str]) -> str:
    number, _, unit = value.partition(" ")
    lines = "".join(f'<p class="note">{note}</p>' for note in notes)
    return (
        f'<div class="tile"><h2>{title}</h2><p class="value">{esc(number)} <small>{esc(unit)}</small></p>{lines}</div>'
    )


def _predicted(value: str, difference: str) -> str:
    return f'predicted {esc(value)} <span class="apart">{esc(difference)}</span>'


def _list(parts: list[str]) -> str:
    return f'<ul class="facts">{"".join(f"<li>{esc(part)}</li>" for part in parts)}</ul>'


def _number(number: int, one: str, many: str) -> str:
    return f"{count(number)} {one if number == 1 else many}"

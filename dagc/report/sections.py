"""The parts of the page below the chart: predicted beside measured, the ops, the channels, the plan."""

from __future__ import annotations

import math
from collections.abc import Callable

from channels import ChannelStatistics
from dagc.explain import explain
from dagc.plan import Channel
from dagc.report.facts import Facts
from dagc.report.html import Cell, Column, esc, meter, name, table
from dagc.report.tallies import ChannelFigures, OpFigures, channel_figures, op_figures
from dagc.report.units import NOTHING, apart, binary, count, percent, points_apart, rate, seconds
from dagc.timing.trace import Figures

__all__ = ["actors_section", "channels_section", "ops_section", "plan_section"]

NAN = float("nan")


def actors_section(facts: Facts) -> str:
    """Predicted beside measured: the run as a whole, and each actor. "" if there is neither."""
    measured, predicted = facts.figures, facts.predicted
    if measured is None and predicted is None:
        return ""
    columns = [Column("Whole run"), *(Column(title, True) for title in ("Measured", "Predicted", "Off by"))]
    rows = [
        _beside("Latency, p50", seconds, measured, predicted, lambda figures: figures.latency),
        _beside("Throughput", rate, measured, predicted, lambda figures: figures.throughput),
    ]
    if facts.prediction is not None:
        alone = facts.prediction.alone
        rows.append([Cell("Latency alone", ""), _cell(NAN, seconds), _cell(alone, seconds), Cell("", "nan")])
    return (
        '<section id="actors"><h2>Predicted beside measured</h2>\n'
        f"{table('Latency and throughput, measured and predicted', columns, rows)}\n"
        f"{_actors(facts.actors, measured, predicted)}\n"
        '<p class="note">Busy: running a method, sending, or taking a message; the mark in a bar is the prediction. '
        "Idle: the bubble, waiting for others. Latency alone: of an execution with nothing else under way.</p>"
        "</section>"
    )


def _beside(
    title: str,
    show: Callable[[float], str],
    measured: Figures | None,
    predicted: Figures | None,
    of: Callable[[Figures], float],
) -> list[Cell]:
    found = NAN if measured is None else of(measured)
    expected = NAN if predicted is None else of(predicted)
    difference = apart(expected, found)
    return [Cell(title, title), _cell(found, show), _cell(expected, show), Cell(difference, difference)]


def _actors(actors: tuple[str, ...], measured: Figures | None, predicted: Figures | None) -> str:
    columns = [
        Column("Actor"),
        Column("Busy", explained="share of the time"),
        *(Column(title, True) for title in ("Measured", "Predicted", "Off by")),
        Column("Idle", True, "measured share of the time: the bubble"),
        Column("Per execution", True, "measured seconds of work in one execution"),
    ]
    rows = []
    for actor in actors:
        busy = NAN if measured is None else 1 - measured.idle[actor]
        expected = NAN if predicted is None else 1 - predicted.idle[actor]
        shown, mark = (busy, expected) if math.isfinite(busy) else (expected, NAN)
        work = NAN if measured is None else busy / measured.throughput
        rows.append(
            [
                Cell(name(actor), actor),
                Cell(meter(shown, mark=mark if math.isfinite(mark) else None), shown),
                _cell(busy, percent),
                _cell(expected, percent),
                Cell(points_apart(expected, busy), expected - busy),
                _cell(1 - busy, percent),
                _cell(work, seconds),
            ]
        )
    return table("Actors, measured and predicted", columns, rows, sortable=True)


def ops_section(facts: Facts) -> str:
    """Every op of every party, over all traced executions. "" if there were none."""
    rows = [_op(figures) for figures in op_figures(facts.measured)]
    if not rows:
        return ""
    columns = [
        Column("Op"),
        Column("Party"),
        Column("Count", True),
        Column("Median", True, "of the whole span, with the waiting in it"),
        Column("p95", True, "of the whole span, with the waiting in it"),
        Column("Waiting", True, "median of the part in which it waited for another party"),
        Column("Waiting p95", True),
        Column("On core", True, "share of a run in which its thread was on a core"),
        Column("Share", True, "of the party's time from its first span to its last"),
        Column("", explained="of the party's time; the pale part is waiting"),
    ]
    return f'<section id="ops"><h2>Ops</h2>\n{table("Ops", columns, rows, sortable=True)}</section>'


def _op(figures: OpFigures) -> list[Cell]:
    op = figures.op
    return [
        Cell(f'<span class="kind {op.kind.value}">{op.kind.value}</span> {name(op.target)}', str(op)),
        Cell(name(figures.party), figures.party),
        Cell(count(figures.count), figures.count),
        _cell(figures.median, seconds),
        _cell(figures.p95, seconds),
        _cell(figures.waiting_median or NAN, seconds),
        _cell(figures.waiting_p95 or NAN, seconds),
        _cell(figures.on_core, percent),
        _cell(figures.share, percent),
        Cell(meter(figures.share, figures.waiting_share), figures.share),
    ]


def channels_section(facts: Facts) -> str:
    """Channels and what they carried, then collectives."""
    counters = facts.counters
    columns = [
        Column("Channel"),
        Column("From and to"),
        Column("Transport", explained="and the messages that it holds, times the bytes that each may have inline"),
        Column("Mean wait", True, "of a reader, from asking for a message to the message being there"),
    ]
    if counters:
        columns += [
            Column("Messages", True, "in all executions of the graph, traced or not"),
            Column("Bytes", True, "of messages that were copied; without what travelled by reference"),
            Column("Per message", True),
            Column("Full", True, "slots that were taken when the page was written"),
            Column("Writer waited", True, "messages for which the writer had to wait for a free slot"),
        ]
    rows = []
    for figures in channel_figures(facts.measured):
        row = _channel(figures)
        if counters:
            row += _carried(figures.channel, counters.get(figures.channel.name))
        rows.append(row)
    groups = [
        [Cell(name(group.name), group.name), Cell(esc(group.kind), group.kind), Cell(_names(group.members), "")]
        for group in facts.plan.groups
    ]
    collectives = table("Collectives", [Column("Collective"), Column("Kind"), Column("Members")], groups)
    return (
        f'<section id="channels"><h2>Channels</h2>\n{table("Channels", columns, rows, sortable=True)}'
        f"{collectives if groups else ''}</section>"
    )


def _channel(figures: ChannelFigures) -> list[Cell]:
    channel = figures.channel
    waits = [wait for wait in figures.waits.values() if math.isfinite(wait)]
    shown = _cell(max(waits, default=NAN), seconds)
    if len(waits) > 1:
        each = ", ".join(f"{reader} {seconds(wait)}" for reader, wait in figures.waits.items())
        between = " \N{EN DASH} ".join(dict.fromkeys((seconds(min(waits)), seconds(max(waits)))))
        shown = Cell(f'<span title="{esc(each)}">{esc(between)}</span>', max(waits))
    slots = f"{channel.slots} &times; {binary(channel.buffer_bytes)}" if channel.slots else "rendezvous"
    return [
        Cell(name(channel.name), channel.name),
        Cell(f"{name(channel.writer)} &rarr; {_names(channel.readers)}", channel.writer),
        Cell(f"{esc(channel.transport)}, {slots}", channel.transport),
        shown,
    ]


def _carried(channel: Channel, counted: ChannelStatistics | None) -> list[Cell]:
    if counted is None:
        return [_cell(NAN, seconds)] * 5
    each = counted.bytes / counted.messages if counted.messages else NAN
    full = counted.waiting / channel.slots if channel.slots else NAN
    return [
        Cell(count(counted.messages), counted.messages),
        _cell(float(counted.bytes), binary),
        _cell(each, binary),
        _cell(full, percent),
        Cell(count(counted.writer_waits), counted.writer_waits),
    ]


def plan_section(facts: Facts) -> str:
    """The graph and its plan as text: a page that is sent around carries what a report of a bug needs."""
    return (
        '<section id="plan"><h2>Plan</h2>\n<details><summary>The graph and its plan as text</summary>\n'
        f'<pre tabindex="0"><code>{esc(explain(facts.graph, facts.plan))}</code></pre></details></section>'
    )


def _names(parties: tuple[str, ...]) -> str:
    return ", ".join(map(name, parties))


def _cell(value: float, show: Callable[[float], str]) -> Cell:
    """A number; a dash where there is none."""
    return Cell(esc(show(value)) if math.isfinite(value) else NOTHING, value)

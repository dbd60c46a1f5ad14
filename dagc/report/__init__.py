"""write_report: what a graph did, beside what was predicted, as one page that can be kept, sent and printed.

facts       everything that is known when the page is written
tallies     a trace as numbers: how long each op took and waited
limits      what to change first, in a sentence
headline, sections, html, units    numbers as HTML
spans       every span of the run in a few bytes, for the chart
page        the document; assets/ has its style and the chart's script
"""

from __future__ import annotations

import os
from pathlib import Path

from dagc.errors import GraphError
from dagc.files import replaced
from dagc.graph import Graph
from dagc.plan import Plan
from dagc.prediction.predict import Prediction
from dagc.report.facts import Facts
from dagc.report.machine import Machine
from dagc.report.page import page
from dagc.report.tallies import Run
from dagc.statistics import GraphStatistics
from dagc.timing.trace import Trace

__all__ = ["Facts", "Machine", "check_suffix", "page", "write_report"]


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Raise GraphError for a path that ends as something else than a page does. Without a suffix it may be a device."""
    if Path(path).suffix.lower() not in ("", ".html", ".htm"):
        raise GraphError(
            f"cannot write a report to {os.fspath(path)!r}: it is a page of HTML; expected a name in .html"
        )


def write_report(
    path: str | os.PathLike[str],
    *,
    graph: Graph,
    plan: Plan,
    trace: Trace,
    statistics: GraphStatistics | None,
    prediction: Prediction | None,
    drawing: str,
) -> None:
    """Write the page. Whoever reads `path` finds the old file or the whole new one.

    `trace` may hold no execution: then the page says what to do, and shows what was predicted, if anything was.
    `drawing` is the graph as an SVG element. Raises GraphError for a path that ends as something else than HTML does,
    OSError if the file cannot be written.
    """
    check_suffix(path)
    facts = Facts(graph, plan, Run(trace), prediction, statistics, drawing, Machine.here())
    text = page(facts)
    with replaced(path) as file:
        file.write(text)

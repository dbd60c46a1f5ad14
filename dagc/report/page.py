"""page: the report as one HTML document that needs nothing else: no network, no fonts, no other file.

Its Content-Security-Policy says so to the browser: the only script that may run is the one whose hash stands there, so
that nothing that a graph is called can become one.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from importlib import resources
from string import Template

from dagc.draw.theme import DARK, LIGHT
from dagc.graph import DRIVER
from dagc.report.facts import Facts
from dagc.report.headline import headline, subtitle
from dagc.report.html import esc
from dagc.report.sections import actors_section, channels_section, ops_section, plan_section
from dagc.report.spans import cut_of, embed, links, run_data
from dagc.report.tallies import Run
from dagc.report.units import count

__all__ = ["page"]

#: In this order they are one script.
SCRIPTS = ("units.js", "decode.js", "chart.js", "chart_view.js", "page.js")
#: CSS pixels. A drawing that is not wider leaves room for tables beside it.
BESIDE = 440.0
#: Of the box beside the tables, if they are not higher themselves.
HIGHEST = 760.0


def page(facts: Facts) -> str:
    """The whole document."""
    script = "\n".join(["(() => {", '"use strict";', *map(_asset, SCRIPTS), "})();"])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return Template(_asset("page.html")).substitute(
        name=esc(facts.plan.name),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:",
        style=_asset("style.css"),
        subtitle=subtitle(facts),
        headline=headline(facts),
        schedule=_schedule(facts),
        drawing=facts.drawing,
        arrangement="pair" if _size(facts.drawing, "width") <= BESIDE else "stacked",
        height=f"{min(HIGHEST, _size(facts.drawing, 'height')):.0f}px",
        actors=actors_section(facts),
        ops=ops_section(facts),
        channels=channels_section(facts),
        plan=plan_section(facts),
        script=script,
    )


def _schedule(facts: Facts) -> str:
    """The chart and its data. "" if there is neither a measured run nor a predicted one."""
    predicted = None if facts.prediction is None else Run(facts.prediction.trace)
    runs = {
        "measured": run_data(facts.measured) if len(facts.measured.executions) else None,
        "predicted": run_data(predicted) if predicted is not None and len(predicted.executions) else None,
    }
    if not any(runs.values()):
        return ""
    # As in the drawing: by the order of each actor's first call, on a light page and on a dark one.
    places = {actor: i for i, actor in enumerate(dict.fromkeys(call.actor for call in facts.graph.calls))}
    hues = [
        None if party == DRIVER else [theme.border(places[party]) for theme in (LIGHT, DARK)]
        for party in facts.plan.schedule
    ]
    data = {**runs, "links": links(facts.plan), "hues": hues}
    return Template(_asset("schedule.html")).substitute(trimmed=_trimmed(facts.measured), data=embed(data))


def _size(drawing: str, side: str) -> float:
    """As the drawing's root says; one that does not say it is taken for a large one."""
    found = re.search(rf'<svg\b[^>]*?\s{side}="([0-9.]+)(?:px)?"', drawing)
    return float(found[1]) if found else math.inf


def _trimmed(run: Run) -> str:
    cut = cut_of(run)
    if cut is None:
        return ""
    return (
        f'<p class="note">Of {count(len(run.executions))} executions the chart has the first {count(cut.first)} and '
        f"the last {count(cut.last)}; figures and tables are of all.</p>"
    )


def _asset(file: str) -> str:
    return (resources.files("dagc.report") / "assets" / file).read_text(encoding="utf-8")

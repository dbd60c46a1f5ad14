"""The page of a run in a real browser: it draws, fits, switches, moves and asks nobody for anything."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagc.bind import InputNode
from dagc.build import build_graph
from dagc.draw import svg_text
from dagc.plan import OpKind, Plan
from dagc.prediction.predict import Prediction, predict
from dagc.report import write_report
from dagc.timing.trace import Trace
from tests.browser import Browser, executable, open_browser
from tests.fakes import actor, actors, plan_of
from tests.runs import made_up

pytestmark = pytest.mark.skipif(
    executable() is None, reason="there is no Chromium here; apt-get install --no-install-recommends chromium"
)

WIDTHS = (390, 1400)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with open_browser(tmp_path) as found:
        yield found


def pipeline() -> Any:
    with InputNode() as x:
        node = x
        for stage in actors(4):
            node = stage.forward.bind(node)
    return node


def tensor_parallel() -> Any:
    """Two layers on four shards each, gathered."""
    shards, gather = [actor("Shard") for _ in range(4)], actor("Gather")
    with InputNode() as x:
        node = x
        for _ in range(2):
            node = gather.update.bind([shard.forward.bind(node) for shard in shards])
    return node


def echo() -> Any:
    with InputNode() as x:
        return actor().forward.bind(x)


def report(path: Path, output: Any, executions: int, jitter: float = 0.08) -> tuple[Plan, Trace, Prediction | None]:
    """Writes the page of a made-up run."""
    graph, plan = build_graph(output), plan_of(output, name="run")
    calls = [op.target for ops in plan.schedule.values() for op in ops if op.kind is OpKind.RUN]
    costs = {call: 1e-3 + 1e-4 * i for i, call in enumerate(calls)}
    trace = made_up(plan, costs, executions, jitter=jitter)
    prediction = predict(plan, trace.costs(), cores=8) if executions else None
    write_report(
        path,
        graph=graph,
        plan=plan,
        trace=trace,
        statistics=None,
        prediction=prediction,
        drawing=svg_text(graph, plan, prefix="drawn"),
    )
    return plan, trace, prediction


def spans(trace: Trace) -> int:
    return sum(party.begins.size for party in trace.parties.values())


def data_of(browser: Browser) -> dict[str, str]:
    """What the chart says that it has drawn."""
    return dict(browser.evaluate("({...document.querySelector('#spans').dataset})"))


def window_of(browser: Browser) -> float:
    data = data_of(browser)
    return float(data["to"]) - float(data["from"])


def assert_sound(browser: Browser, path: Path) -> None:
    assert browser.complaints() == []
    assert browser.evaluate("document.querySelector('#failed')?.hidden ?? true"), browser.evaluate(
        "document.querySelector('#failed').textContent"
    )
    assert {address.partition("#")[0] for address in browser.requests()} == {path.as_uri()}
    sizes = browser.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert sizes[0] <= sizes[1], f"the page is {sizes[0]} wide in a window of {sizes[1]}"


#: Pixels of the chart that are neither empty nor of the colour that most of them have.
PAINTED = """(() => {
  const canvas = document.querySelector('#spans'), counts = new Map();
  const pixels = new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  return [counts.size, pixels.length - Math.max(...counts.values()), pixels.length];
})()"""
BACKGROUNDS = """[document.body, document.querySelector('svg.drawn text')]
  .map((element) => getComputedStyle(element)).map((style) => style.backgroundColor + style.fill)"""


@pytest.mark.parametrize(
    ("dag", "executions"),
    [(pipeline, 200), (tensor_parallel, 60), (echo, 3), (pipeline, 0), (echo, 1000)],
    ids=["pipeline", "tensor_parallel", "tiny", "empty", "trimmed"],
)
def test_the_page_fits_and_draws_in_every_window_and_theme(
    browser: Browser, tmp_path: Path, dag: Callable[[], Any], executions: int
) -> None:
    path = tmp_path / "run.html"
    report(path, dag(), executions)
    looks = set()
    for width in WIDTHS:
        for dark in (False, True):
            browser.screen(width, 900, dark=dark, scale=2 if width == 390 else 1)
            browser.open(path)
            assert_sound(browser, path)
            looks.add(str(browser.evaluate(BACKGROUNDS)))
            if executions:
                assert int(data_of(browser)["drawn"]) > 0
                colours, painted, pixels = browser.evaluate(PAINTED)
                assert colours > 10
                assert painted > pixels / 50
            else:
                assert browser.evaluate("document.querySelector('#spans')") is None
                assert "No execution was traced yet" in browser.evaluate("document.body.innerText")
    assert len(looks) == 2, "a light page and a dark one, the drawing too"


def test_the_chart_switches_moves_and_tells(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    plan, trace, prediction = report(path, pipeline(), 200)
    assert prediction is not None
    browser.screen(1400, 900)
    browser.open(path)

    def click(selector: str) -> None:
        browser.evaluate(f"document.querySelector({selector!r}).click()")
        browser.frames()

    # It begins with a few executions in the middle; everything is one button away.
    steady = data_of(browser)
    begins, ends = (
        getattr(trace.parties["driver"], which) - trace.parties["driver"].begins[0, 0] for which in ("begins", "ends")
    )
    assert begins[40, 0] < float(steady["from"]) < float(steady["to"]) < ends[160, -1]
    assert 50 < int(steady["drawn"]) < spans(trace) / 5
    click("[data-do=all]")
    assert int(data_of(browser)["drawn"]) == spans(trace)
    click("[data-do=fill]")
    assert float(data_of(browser)["from"]) == 0

    # Measured and predicted.
    click("button[data-run=predicted]")
    assert data_of(browser)["run"] == "predicted"
    assert browser.evaluate("[...document.querySelectorAll('button[data-run]')].map((e) => e.ariaPressed)") == [
        "false",
        "true",
    ]
    click("[data-do=all]")
    assert int(data_of(browser)["drawn"]) == spans(prediction.trace)
    browser.open(path, "run=predicted&window=all&theme=dark")
    assert int(data_of(browser)["drawn"]) == spans(prediction.trace)
    assert browser.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is False
    dark = browser.evaluate(BACKGROUNDS)
    click("#theme")
    assert not set(browser.evaluate(BACKGROUNDS)) & set(dark)

    # The pointer: what it is over, in words, and a click that follows an execution.
    browser.open(path)
    left, top, width = browser.evaluate(
        "(({left, top, width}) => [left, top, width])(document.querySelector('#spans').getBoundingClientRect())"
    )
    first, last = (float(data_of(browser)[edge]) for edge in ("from", "to"))
    party = trace.parties["Stage_2"]
    origin = min(int(other.begins.min()) for other in trace.parties.values())
    row = next(i for i, begin in enumerate(party.begins[:, 1] - origin) if begin > first)
    middle = (party.begins[row, 1] + party.ends[row, 1]) / 2 - origin
    gutter = browser.evaluate("Number(document.querySelector('#spans').dataset.gutter)")
    x = left + gutter + (middle - first) / (last - first) * (width - gutter)
    lanes = browser.evaluate("JSON.parse(document.querySelector('#spans').dataset.lanes)")
    y = top + lanes[list(plan.schedule).index("Stage_2")]
    browser.mouse("mouseMoved", x, y)
    tip = browser.evaluate("document.querySelector('#tip').innerText").split()
    assert tip[:4] == ["run", "Stage_2.forward", "execution", str(party.executions[row])]
    assert tip[4:6] == ["party", "Stage_2"]
    begin = f"{(party.begins[row, 1] - origin) / 1e6:.3f}"
    took = f"{(party.ends[row, 1] - party.begins[row, 1]) / 1e6:.2f}"
    assert tip[6:] == ["begin", begin, "ms", "duration", took, "ms"]
    browser.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
    browser.mouse("mouseReleased", x, y, button="left", clickCount=1)
    browser.mouse("mouseMoved", 5, 5)
    assert data_of(browser)["followed"] == str(party.executions[row])

    # The wheel is the page's until the chart has the focus; then it zooms around the pointer. A drag moves.
    browser.evaluate("document.activeElement.blur()")
    browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-40)
    assert window_of(browser) == last - first
    browser.evaluate("window.scrollTo(0, 0); document.querySelector('#spans').focus({preventScroll: true})")
    browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-40)
    data = data_of(browser)
    assert window_of(browser) < (last - first) * 0.9
    where = (middle - float(data["from"])) / window_of(browser)
    assert where == pytest.approx((middle - first) / (last - first), abs=0.01)
    browser.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
    browser.mouse("mouseMoved", x - 100, y, button="left", buttons=1)
    browser.mouse("mouseReleased", x - 100, y, button="left", clickCount=1)
    moved = float(data_of(browser)["from"]) - float(data["from"])
    assert moved == pytest.approx(100 / (width - gutter) * window_of(browser), rel=0.01)
    assert data_of(browser)["followed"] == str(party.executions[row]), "a drag is no click"

    # Keys do all of it.
    browser.key("Escape")
    assert data_of(browser)["followed"] == ""
    before = window_of(browser)
    browser.key("+")
    assert window_of(browser) == pytest.approx(before / 1.6)
    browser.key("-")
    start = float(data_of(browser)["from"])
    browser.key("ArrowRight")
    assert float(data_of(browser)["from"]) == pytest.approx(start + 0.2 * before)
    browser.key("0")
    assert int(data_of(browser)["drawn"]) == spans(trace)
    browser.key("ArrowDown")
    browser.key("ArrowDown")
    browser.key(".")
    said = browser.evaluate("document.querySelector('#said').textContent")
    assert said.startswith("run Stage_0.forward, execution 1, party Stage_0, ")
    browser.key("Enter")
    browser.key("Escape")
    assert_sound(browser, path)


def test_tables_sort_and_paper_is_light(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    report(path, pipeline(), 100)
    browser.screen(1400, 900, dark=True)
    browser.open(path)

    def column(index: int) -> Any:
        return browser.evaluate(
            f"[...document.querySelectorAll('#ops tbody tr')].map((row) => row.cells[{index}].dataset.key)"
        )

    def sort(index: int) -> str:
        return str(
            browser.evaluate(
                f"(() => {{ const head = document.querySelectorAll('#ops thead th')[{index}];"
                "head.querySelector('button').click(); return head.ariaSort; })()"
            )
        )

    in_order = column(0)
    assert sort(3) == "descending"
    medians = list(map(float, column(3)))
    assert medians == sorted(medians, reverse=True)
    assert sort(3) == "ascending"
    assert list(map(float, column(3))) == sorted(medians)
    assert sort(5) == "descending"
    assert column(5)[-1] == "nan", "what did not wait comes last"
    assert sort(0) == "ascending"
    assert column(0) == sorted(in_order, key=str.lower)

    dark = browser.evaluate(BACKGROUNDS)
    browser.evaluate(f"addEventListener('beforeprint', () => (window.printed = {BACKGROUNDS}))")
    paper = base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"])
    assert paper.startswith(b"%PDF")
    assert not set(browser.evaluate("window.printed")) & set(dark)
    assert browser.evaluate(BACKGROUNDS) == dark
    assert browser.evaluate("document.querySelector('details').open") is False
    assert_sound(browser, path)

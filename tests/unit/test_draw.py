"""What a drawing shows, and how it is written: dagc/draw but for the geometry, which is in test_draw_layout.py."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from dagc.bind import InputNode, MultiOutputNode
from dagc.build import build_graph
from dagc.draw import png, svg_text, visualize
from dagc.draw.dot import dot_of
from dagc.draw.picture import BoxKind, Picture, Style, picture_of, shorten
from dagc.draw.theme import DARK, HUES, LIGHT, Theme, bands
from dagc.errors import GraphError
from dagc.graph import Graph
from dagc.options import CompileOptions
from dagc.plan import Plan
from dagc.planner import make_plan
from tests.fakes import actor, actors, placed

SVG = "{http://www.w3.org/2000/svg}"


def compiled(output: Any, pids: dict[str, int] | None = None) -> tuple[Graph, Plan]:
    graph = build_graph(output)
    return graph, make_plan(graph, placed(graph, pids), CompileOptions(name="test"))


def pictured(output: Any, pids: dict[str, int] | None = None) -> Picture:
    return picture_of(*compiled(output, pids))


def wires_of(picture: Picture) -> list[tuple[str, str, list[str], Style, str]]:
    """Value, from where, to where, how, and the label."""
    names = [box.name for box in picture.boxes]
    return [(w.value, names[w.source], [names[t] for t in w.targets], w.style, w.label) for w in picture.wires]


# The picture.


def test_a_picture_has_a_box_for_each_call_and_a_wire_for_each_value() -> None:
    a, b = actors(2)
    x = InputNode()
    first = a.forward.bind(x)
    picture = pictured(b.update.bind(first, a.update.bind(first)))
    assert (picture.title, picture.subtitle[:23]) == ("test", "8 in flight, bind order")
    assert picture.actors == ("Stage_0", "Stage_1")
    assert [(box.name, box.kind, box.actor) for box in picture.boxes] == [
        ("input", BoxKind.INPUT, None),
        ("Stage_0.forward", BoxKind.CALL, 0),
        ("Stage_0.update", BoxKind.CALL, 0),
        ("Stage_1.update", BoxKind.CALL, 1),
        ("output", BoxKind.OUTPUT, None),
    ]
    assert wires_of(picture) == [
        ("input", "input", ["Stage_0.forward"], Style.CROSS, "shm"),
        ("Stage_0.forward", "Stage_0.forward", ["Stage_0.update"], Style.NEAR, ""),
        ("Stage_0.forward", "Stage_0.forward", ["Stage_1.update"], Style.CROSS, "shm"),
        ("Stage_0.update", "Stage_0.update", ["Stage_1.update"], Style.CROSS, "shm"),
        ("Stage_1.update", "Stage_1.update", ["output"], Style.CROSS, "shm"),
    ]
    assert [wire.about for wire in picture.wires][1:3] == [
        "Stage_0.forward: by reference, within Stage_0",
        "Stage_0.forward: Stage_0 -> Stage_1, shm, 8 x 4096 bytes",
    ]
    assert picture.boxes[2].about == "Stage_0.update = Stage_0.update(Stage_0.forward)"


def test_a_value_between_actors_of_one_process_is_thin_and_says_its_transport() -> None:
    a, b = actors(2)
    picture = pictured(b.forward.bind(a.forward.bind(InputNode())), {"Stage_0": 7, "Stage_1": 7})
    assert wires_of(picture)[1] == ("Stage_0.forward", "Stage_0.forward", ["Stage_1.forward"], Style.NEAR, "local")


def test_values_of_one_call_are_wires_with_their_index() -> None:
    a, b = actors(2)
    first, second = a.split.bind(InputNode())
    picture = pictured(MultiOutputNode([b.update.bind(first), a.update.bind(second)]))
    assert [box.name for box in picture.boxes if box.kind is BoxKind.CALL] == [
        "Stage_0.split",
        "Stage_1.update",
        "Stage_0.update",
    ]
    assert wires_of(picture)[1:3] == [
        ("Stage_0.split[0]", "Stage_0.split", ["Stage_1.update"], Style.CROSS, "[0] shm"),
        ("Stage_0.split[1]", "Stage_0.split", ["Stage_0.update"], Style.NEAR, "[1]"),
    ]


def test_order_without_data_is_dashed() -> None:
    a, b = actors(2)
    x = InputNode()
    first = a.update.bind(x)
    picture = pictured(b.forward.bind(x).after(first))
    assert ("Stage_0.update.done", "Stage_0.update", ["Stage_1.forward"], Style.ORDER, "shm") in wires_of(picture)
    assert not any(box.name.endswith(".done") for box in picture.boxes)


def test_a_call_that_nobody_reads_goes_to_the_output() -> None:
    a, b = actors(2)
    with InputNode() as x:
        first = a.forward.bind(x)
        b.update.bind(first)
        picture = pictured(a.update.bind(first))
    assert ("Stage_1.update.done", "Stage_1.update", ["output"], Style.ORDER, "shm") in wires_of(picture)


def test_an_actor_that_receives_nothing_is_shown_its_tick() -> None:
    a, b = actors(2)
    picture = pictured(MultiOutputNode([b.forward.bind(a.update.bind(1)), a.update.bind(2)]))
    assert picture.boxes[0].name == "tick"
    assert wires_of(picture)[0] == ("tick", "tick", ["Stage_0.update"], Style.ORDER, "shm")


def test_an_input_that_is_an_output_too_never_leaves_the_driver() -> None:
    x = InputNode()
    picture = pictured(MultiOutputNode([actor().forward.bind(x.a), x.b]))
    assert ("input.b", "input.b", ["output"], Style.NEAR, "") in wires_of(picture)


def test_constants_stand_under_the_name_and_values_do_not() -> None:
    a = actor()
    x = InputNode()
    call = a.update.bind(x, 3, [x, 1], {"k": "v"}, scale=0.5, mask=x)
    boxes = pictured(call).boxes
    assert (boxes[1].names, boxes[1].detail) == (("Stage_0.update",), "(3, {'k': 'v'}, scale=0.5)")
    assert boxes[0].detail == ""


def test_long_names_go_on_two_lines_and_lose_their_middle() -> None:
    long = actor("Worker" * 20)
    box = pictured(long.forward.bind(InputNode(), scale="y" * 99)).boxes[1]
    first, second = box.names
    assert len(first) == 40
    assert first.startswith("WorkerWorker")
    assert first.endswith("Worker_0.")
    assert "\u2026" in first
    assert second == "forward"
    assert len(box.detail) == 30
    assert box.name == f"{'Worker' * 20}_0.forward"
    assert [shorten("abcdefgh", limit) for limit in (8, 7, 4)] == ["abcdefgh", "abc\u2026fgh", "ab\u2026h"]


# SVG.


class Odd:
    def __repr__(self) -> str:
        return '<&> "\\" \x01'


def a_graph_with_everything() -> tuple[Graph, Plan]:
    """Every kind of box and wire, and text that XML and DOT have to escape."""
    a, b, c = actors(3)
    with InputNode() as x:
        first, second = a.split.bind(x.batch)
        left = b.forward.bind(first, scale=Odd())
        c.update.bind(2)
        return compiled(MultiOutputNode([b.update.bind(left, second), x.batch]))


def texts_of(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def test_an_svg_is_xml_and_shows_every_name() -> None:
    graph, plan = a_graph_with_everything()
    root = ET.fromstring(svg_text(graph, plan, prefix="one"))
    assert root.tag == f"{SVG}svg"
    texts = texts_of(root)
    for name in [
        "test",
        "input.batch",
        "Stage_0.split",
        "Stage_1.forward",
        "Stage_2.update",
        "tick",
        "output",
        "[0] shm",
    ]:
        assert name in texts, name
    assert '(scale=<&> "\\" \ufffd)' in texts, "what XML cannot hold is replaced"
    legend = [text for text in texts if text in {style.value for style in Style}]
    assert legend == [Style.CROSS.value, Style.NEAR.value, Style.ORDER.value]
    titles = {element.text for element in root.iter(f"{SVG}title")}
    assert "Stage_0.split[1]: Stage_0 -> Stage_1, shm, 8 x 4096 bytes" in titles
    assert len(list(root.iter(f"{SVG}title"))) == len(picture_of(graph, plan).boxes + picture_of(graph, plan).wires)


def test_an_svg_leaks_nothing_into_the_page() -> None:
    text = svg_text(*a_graph_with_everything(), prefix="one")
    root = ET.fromstring(text)
    assert " id=" not in text
    used = {name for element in root.iter() for name in element.get("class", "").split()}
    assert used
    assert all(name == "one" or name.startswith("one-") for name in used)
    style = root.find(f"{SVG}style")
    assert style is not None
    assert style.text is not None
    light, _, dark = style.text.partition("@media (prefers-color-scheme:dark){")
    selectors = [s for rules in (light, dark) for found in re.findall(r"([^{}]+)\{", rules) for s in found.split(",")]
    assert len(selectors) > 30
    assert [s for s in selectors if not re.match(r"\.one(-| |$)", s)] == []
    styled = set(re.findall(r"\.(one-[a-z0-9-]+)", style.text))
    assert styled <= used | {"one-wire"}, "every rule is for something"


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_both_themes_are_in_an_svg(theme: Theme) -> None:
    text = svg_text(*a_graph_with_everything(), prefix="one")
    light, _, dark = text.partition("@media (prefers-color-scheme:dark){")
    part = light if theme is LIGHT else dark
    for colour in (theme.page, theme.text, theme.wire, theme.fill(0), theme.border(2)):
        assert colour in part


@pytest.mark.parametrize("prefix", ["", "1a", "a b", "a.b", "a{", "ä"])
def test_a_prefix_that_is_no_name_is_refused(prefix: str) -> None:
    with pytest.raises(GraphError, match="expected a letter, then letters, digits, - and _"):
        svg_text(*compiled(actor().forward.bind(InputNode())), prefix=prefix)


# Colours.


def linear(colour: str) -> list[float]:
    """The channels of an sRGB colour in linear light."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def contrast(a: str, b: str) -> float:
    """As WCAG 2 defines it."""
    light = [sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True)) for colour in (a, b)]
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_all_text_can_be_read(theme: Theme) -> None:
    for under in [theme.page, *map(theme.fill, range(len(HUES)))]:
        assert contrast(theme.text, under) >= 7
        assert contrast(theme.muted, under) >= 4.5
    for mark in (theme.wire, theme.driver):
        assert contrast(mark, theme.page) >= 3


#: Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency" (2009):
#: full severity, in linear light.
SEEN_BY = {
    "all": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protanopes": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopes": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopes": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def lab(rgb: Sequence[float]) -> tuple[float, float, float]:
    """CIE L*a*b* of linear sRGB in daylight D65."""
    rows = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.9505, 1.0, 1.089)
    x, y, z = (sum(map(float.__mul__, row, rgb)) / w for row, w in zip(rows, white, strict=True))
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("who", SEEN_BY)
def test_hues_are_told_apart(who: str, theme: Theme) -> None:
    seen = []
    for i in range(len(HUES)):
        rgb = linear(theme.border(i))
        seen.append(lab([min(max(sum(map(float.__mul__, row, rgb)), 0.0), 1.0) for row in SEEN_BY[who]]))
    nearest = min(
        sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 for one, other in combinations(seen, 2)
    )
    assert nearest >= 12  # 2.3 is just noticeable side by side


def test_actors_of_one_hue_have_different_stripes() -> None:
    looks = [(LIGHT.fill(i), bands(i)) for i in range(3 * len(HUES))]
    assert len(set(looks)) == len(looks)


# DOT.

TOKEN = re.compile(r'\s*(?:(?P<word>[A-Za-z_]\w*)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<mark>->|[{}\[\];,=]))')


def parse_dot(
    text: str,
) -> tuple[dict[str, dict[str, str]], list[tuple[str, str, dict[str, str]]], dict[str, list[str]]]:
    """Nodes with their attributes, edges with theirs, the nodes of each subgraph. Fails on what is not DOT.

    This much of the grammar of https://graphviz.org/doc/info/lang.html: graph := "digraph" ID block; block := "{" stmt*
    "}"; stmt := (ID ["->" ID] | "graph" | "node" | "edge") [attributes] ";" | "subgraph" ID block.
    """
    tokens, place = [], 0
    while text[place:].strip():
        match = TOKEN.match(text, place)
        assert match is not None, text[place : place + 40]
        tokens.append(match[0].strip())
        place = match.end()
    tokens.reverse()
    nodes: dict[str, dict[str, str]] = {}
    edges: list[tuple[str, str, dict[str, str]]] = []
    groups: dict[str, list[str]] = {}

    def take(*expected: str) -> str:
        token = tokens.pop()
        assert not expected or token in expected, (token, expected)
        return token

    def name() -> str:
        token = take()
        assert token.startswith('"'), token
        return token[1:-1].replace(r"\"", '"')

    def attributes() -> dict[str, str]:
        found = {}
        if tokens[-1] == "[":
            take("[")
            while tokens[-1] != "]":
                key = take()
                take("=")
                found[key] = name()
                if tokens[-1] != "]":
                    take(",")
            take("]")
        return found

    def block(members: list[str]) -> None:
        take("{")
        while tokens[-1] != "}":
            if tokens[-1] == "subgraph":
                take()
                block(groups.setdefault(name(), []))
                continue
            if tokens[-1] in ("graph", "node", "edge"):
                take()
                attributes()
            else:
                first = name()
                if tokens[-1] == "->":
                    take()
                    edges.append((first, name(), attributes()))
                else:
                    nodes[first] = attributes()
                    members.append(first)
            take(";")
        take("}")

    take("digraph")
    name()
    block([])
    assert not tokens
    return nodes, edges, groups


def test_dot_has_the_nodes_and_edges_of_the_graph() -> None:
    nodes, edges, groups = parse_dot(dot_of(picture_of(*a_graph_with_everything())))
    assert list(nodes) == [
        "tick",
        "input.batch",
        "output",
        "Stage_0.split",
        "Stage_1.forward",
        "Stage_1.update",
        "Stage_2.update",
    ]
    assert list(groups.values()) == [["Stage_0.split"], ["Stage_1.forward", "Stage_1.update"], ["Stage_2.update"]]
    # An ampersand would begin an entity, and a backslash an escape.
    assert nodes["Stage_1.forward"]["label"] == 'Stage_1.forward\\n(scale=<&amp;> "\\\\" \x01)'
    assert nodes["output"]["peripheries"] == "2"
    by_ends = {(a, b): attributes for a, b, attributes in edges}
    split = by_ends["Stage_0.split", "Stage_1.forward"]
    assert (split["label"], split["penwidth"]) == ("[0] shm", "2")
    assert split["tooltip"] == "Stage_0.split[0]: Stage_0 -> Stage_1, shm, 8 x 4096 bytes"
    assert by_ends["tick", "Stage_2.update"]["style"] == "dashed"
    near = by_ends["Stage_1.forward", "Stage_1.update"]
    assert (near["penwidth"], "label" in near) == ("1", False)


def test_dot_has_no_frames_around_the_calls_of_many_actors() -> None:
    def frames(count: int) -> int:
        x = InputNode()
        output = MultiOutputNode([one.forward.bind(x) for one in actors(count)])
        nodes, edges, groups = parse_dot(dot_of(pictured(output)))
        assert len(nodes) == count + 2
        assert len(edges) == 2 * count
        return len(groups)

    assert [frames(30), frames(31)] == [30, 0]


# PNG.


def test_a_png_has_two_pixels_a_unit_and_the_colours_of_the_actors(tmp_path: Path) -> None:
    a, b = actors(2)
    visualize(*compiled(b.forward.bind(a.forward.bind(InputNode()))), tmp_path / "dag.png")
    with Image.open(tmp_path / "dag.png") as image:
        assert image.format == "PNG"
        assert image.width == 840, "the narrowest paper"
        found = {colour for _, colour in image.getcolors(image.width * image.height) or []}
        middle = [image.getpixel((420, y)) for y in range(image.height)]
    for colour in (LIGHT.page, LIGHT.fill(0), LIGHT.border(0), LIGHT.fill(1), LIGHT.border(1), LIGHT.wire):
        assert tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) in found
    # Down the middle: input, wire, the first call, wire, the second, wire, output.
    wire = tuple(int(LIGHT.wire[i : i + 2], 16) for i in (1, 3, 5))
    assert sum(before != wire and after == wire for before, after in pairwise(middle)) == 3


def test_a_png_that_is_drawn_in_bands_has_no_seams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, plan = a_graph_with_everything()
    visualize(graph, plan, tmp_path / "whole.png")
    monkeypatch.setattr(png, "_BAND", 4 * 840 * 37)
    visualize(graph, plan, tmp_path / "bands.png")
    with Image.open(tmp_path / "whole.png") as whole, Image.open(tmp_path / "bands.png") as cut:
        assert whole.size == cut.size
        assert whole.tobytes() == cut.tobytes()


def test_a_large_png_has_fewer_pixels_and_a_larger_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, plan = compiled(actor().forward.bind(InputNode()))
    monkeypatch.setattr(png, "_LONGEST_SIDE", 420)
    visualize(graph, plan, tmp_path / "small.png")
    with Image.open(tmp_path / "small.png") as image:
        assert max(image.size) == 420
    monkeypatch.setattr(png, "_LONGEST_SIDE", 200)
    with pytest.raises(GraphError, match=r"the drawing of graph test is 420 x \d+ units large.*draw to a name in .svg"):
        visualize(graph, plan, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_png_without_pillow_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    graph, plan = compiled(actor().forward.bind(InputNode()))
    with pytest.raises(GraphError, match=r"pip install 'dagc\[draw\]', or draw to a name in .svg or .dot"):
        visualize(graph, plan, tmp_path / "dag.png")
    visualize(graph, plan, tmp_path / "dag.svg")


# visualize.


def test_the_suffix_says_how_to_draw(tmp_path: Path) -> None:
    graph, plan = compiled(actor().forward.bind(InputNode()))
    visualize(graph, plan, tmp_path / "dag.svg")
    visualize(graph, plan, str(tmp_path / "dag.DOT"))
    assert ET.parse(tmp_path / "dag.svg").getroot().tag == f"{SVG}svg"
    assert (tmp_path / "dag.DOT").read_text(encoding="utf-8") == dot_of(picture_of(graph, plan))


@pytest.mark.parametrize(("name", "found"), [("dag.pdf", "the suffix '.pdf'"), ("dag", "no suffix")])
def test_another_suffix_is_refused(tmp_path: Path, name: str, found: str) -> None:
    graph, plan = compiled(actor().forward.bind(InputNode()))
    with pytest.raises(
        GraphError, match=re.escape(f"{name}', which has {found}; expected a name in .svg, .png or .dot")
    ):
        visualize(graph, plan, tmp_path / name)
    assert list(tmp_path.iterdir()) == []

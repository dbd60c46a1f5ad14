"""dot_of: a picture as DOT, for those who have Graphviz and want to change it or lay it out in another way.

The syntax is that of https://graphviz.org/doc/info/lang.html. Every name and value is a quoted string, in which a
quotation mark is the only character that must be escaped; in labels and tooltips a backslash begins an escape and an
ampersand an entity (https://graphviz.org/docs/attr-types/escString/), so these are escaped too.
"""

from __future__ import annotations

from collections.abc import Iterator

from dagc.draw.picture import Box, BoxKind, Picture, Style, Wire
from dagc.draw.theme import LIGHT

__all__ = ["dot_of"]

#: Actors that get a frame around their calls; more of them pull a drawing out of all shape.
MOST_CLUSTERS = 30

_SHAPES = {BoxKind.INPUT: "oval", BoxKind.OUTPUT: "oval", BoxKind.CALL: "box", BoxKind.OTHER: "box"}
_PENS = {Style.CROSS: {"penwidth": "2"}, Style.NEAR: {"penwidth": "1"}, Style.ORDER: {"style": "dashed"}}


def dot_of(picture: Picture) -> str:
    """The picture as a `digraph`. Its nodes are named like the graph's, so that a reader finds them."""
    return "\n".join(_lines(picture)) + "\n"


def _lines(picture: Picture) -> Iterator[str]:
    title = _label([picture.title, picture.subtitle])
    yield f"digraph {_quoted(picture.title)} {{"
    yield f'  graph [label={title}, labelloc="t", fontname="monospace", rankdir="TB", newrank="true"];'
    yield '  node [fontname="monospace", fontsize="11"];'
    yield f'  edge [fontname="monospace", fontsize="9", color="{LIGHT.wire}", fontcolor="{LIGHT.muted}"];'
    clustered = len(picture.actors) <= MOST_CLUSTERS
    of_actor: list[list[Box]] = [[] for _ in picture.actors]
    for box in picture.boxes:
        if box.actor is not None and clustered:
            of_actor[box.actor].append(box)
        else:
            yield f"  {_node(box)}"
    for i, boxes in enumerate(of_actor if clustered else []):
        yield f"  subgraph {_quoted(f'cluster_{i}')} {{"
        yield f"    graph [label={_label([picture.actors[i]])}, color={_quoted(LIGHT.border(i))}];"
        for box in boxes:
            yield f"    {_node(box)}"
        yield "  }"
    for wire in picture.wires:
        for target in wire.targets:
            yield f"  {_edge(picture, wire, target)}"
    yield "}"


def _node(box: Box) -> str:
    attributes = {
        "label": _label([*box.names, *([box.detail] if box.detail else [])]),
        "tooltip": _label([box.about]),
        "shape": _quoted(_SHAPES[box.kind]),
    }
    if box.kind is BoxKind.OUTPUT:
        attributes["peripheries"] = _quoted("2")
    if box.actor is not None:
        attributes["style"] = _quoted("rounded,filled")
        attributes["color"] = _quoted(LIGHT.border(box.actor))
        attributes["fillcolor"] = _quoted(LIGHT.fill(box.actor))
    return f"{_quoted(box.name)} [{_listed(attributes)}];"


def _edge(picture: Picture, wire: Wire, target: int) -> str:
    attributes = {key: _quoted(value) for key, value in _PENS[wire.style].items()}
    if wire.label:
        attributes["label"] = _label([wire.label])
    # Graphviz shows one for the line and one for the text beside it.
    attributes["tooltip"] = attributes["labeltooltip"] = _label([wire.about])
    names = (picture.boxes[end].name for end in (wire.source, target))
    return f"{' -> '.join(map(_quoted, names))} [{_listed(attributes)}];"


def _listed(attributes: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in attributes.items())


def _label(lines: list[str]) -> str:
    """Lines of text as a quoted string in which nothing has a meaning of its own."""
    return '"' + r"\n".join(_escaped(line).replace("&", "&amp;") for line in lines) + '"'


def _quoted(name: str) -> str:
    return f'"{_escaped(name)}"'


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"")

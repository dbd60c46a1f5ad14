"""Pictures of a compiled graph, made without Graphviz: SVG, PNG, and DOT for those who have it.

picture.py   what is shown: boxes and wires, from Graph and Plan
layers.py    a layered layout of nodes and nets, pure geometry (order.py, columns.py)
compose.py   every box, line and word with its place (heading.py; the result is a Scene of scene.py)
svg.py png.py   a Scene drawn, in the colours of theme.py
dot.py       the picture as DOT, laid out by Graphviz
"""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path

from dagc.draw.dot import dot_of
from dagc.draw.picture import picture_of
from dagc.draw.png import write_png
from dagc.draw.svg import svg_of
from dagc.errors import GraphError
from dagc.graph import Graph
from dagc.plan import Plan

__all__ = ["svg_text", "visualize"]


def visualize(graph: Graph, plan: Plan, path: str | PathLike[str]) -> None:
    """Draw a graph and its plan to a file; the suffix of `path` says how: .svg, .png or .dot.

    Raises GraphError for another suffix, for a .png if Pillow is not installed, and for one of too large a graph;
    OSError if the file cannot be written.
    """
    file = Path(fspath(path))
    picture = picture_of(graph, plan)
    match file.suffix.lower():
        case ".svg":
            file.write_text(svg_of(picture, "dagc"), encoding="utf-8")
        case ".dot":
            file.write_text(dot_of(picture), encoding="utf-8")
        case ".png":
            write_png(picture, file)
        case suffix:
            found = f"the suffix {suffix!r}" if suffix else "no suffix"
            raise GraphError(
                f"cannot draw to {fspath(path)!r}, which has {found}; expected a name in .svg, .png or .dot"
            )


def svg_text(graph: Graph, plan: Plan, *, prefix: str) -> str:
    """The drawing as one `svg` element for an HTML page. Its classes are `prefix` and `prefix-...`, and it has no ids.

    Raises GraphError if `prefix` is not a letter followed by letters, digits, - and _.
    """
    return svg_of(picture_of(graph, plan), prefix)

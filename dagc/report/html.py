"""The few shapes of HTML that the page is made of. Everything that comes from a graph is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Cell", "Column", "esc", "meter", "name", "table"]


def esc(text: object) -> str:
    """Text as HTML shows it, in an element or in a quoted attribute."""
    return html.escape(str(text), quote=True)


class Column(NamedTuple):
    """Numbers stand at the right."""

    title: str
    number: bool = False
    #: Told to those who hover over the heading.
    explained: str = ""


class Cell(NamedTuple):
    """HTML, ready; and what the table is sorted by."""

    html: str
    key: float | str


def name(text: str) -> str:
    """Of a party, a call or a channel."""
    return f"<code>{esc(text)}</code>"


def meter(share: float, of_which_pale: float = 0.0, mark: float | None = None) -> str:
    """A bar of a share of one, whose last part may be pale, with a mark at another share. For the eye alone."""
    solid = 100 * min(1.0, max(0.0, share - of_which_pale))
    pale = 100 * min(1.0, max(0.0, of_which_pale))
    tick = "" if mark is None else f'<i class="mark" style="left:{100 * min(1.0, max(0.0, mark)):.2f}%"></i>'
    return (
        f'<span class="meter" aria-hidden="true"><i class="solid" style="width:{solid:.2f}%"></i>'
        f'<i class="pale" style="width:{pale:.2f}%"></i>{tick}</span>'
    )


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, sortable: bool = False) -> str:
    """A table in a box of its own, which scrolls where it is too large. A row's first cell is its heading."""
    heads = "".join(_head(column, sortable) for column in columns)
    body = "\n".join(_row(columns, row) for row in rows)
    kind = ' class="sortable"' if sortable else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(caption)}">\n'
        f'<table{kind}><caption class="unseen">{esc(caption)}</caption>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _head(column: Column, sortable: bool) -> str:
    title = f' title="{esc(column.explained)}"' if column.explained else ""
    inside = f'<button type="button">{esc(column.title)}</button>' if sortable else esc(column.title)
    kind = ' class="number"' if column.number else ""
    return f'<th scope="col"{kind}{title}>{inside}</th>'


def _row(columns: Sequence[Column], row: Sequence[Cell]) -> str:
    cells = []
    for i, (column, cell) in enumerate(zip(columns, row, strict=True)):
        attributes = f'{" class=number" if column.number else ""} data-key="{esc(cell.key)}"'
        cells.append(f'<th scope="row"{attributes}>{cell.html}</th>' if i == 0 else f"<td{attributes}>{cell.html}</td>")
    return f"<tr>{''.join(cells)}</tr>"

"""A report taken apart again: its HTML and the spans that it carries."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np

__all__ = ["Page", "assert_sound", "numbers_in", "spans_in"]

VOID = {"meta", "br", "wbr", "img", "input", "hr", "link"}


class Page(HTMLParser):
    """A document, taken apart; elements that are not closed in their order are errors, as in XML."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.raw = text
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        #: By the attributes of the <script>.
        self.scripts: dict[str, str] = {}
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == [], "everything is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            _, attributes = self.elements[-1]
            kind = attributes.get("type", "")
            self.scripts[kind] = self.scripts.get(kind, "") + data
        elif "style" not in self.open:
            self.text.append(data)
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for found, attributes in self.elements if found == tag]

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row[0] == first)


def assert_sound(parsed: Page) -> None:
    """What holds for every page: nothing from elsewhere, one script and that the right one, names for everything."""
    assert set(re.findall(r"https?:[^\s\"'<>)]+", parsed.raw)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|\bimport\(|fetch\(|XMLHttpRequest|WebSocket", parsed.raw)
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img"), attributes
        assert attributes.keys().isdisjoint({"src", "srcset", "xlink:href", "formaction"})
        assert attributes.get("href", "#").startswith("#")
        assert not [key for key in attributes if key.startswith("on")]
    (policy,) = [m["content"] for m in parsed.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[""].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(parsed.all("h1")) == 1
    assert all("scope" in attributes for attributes in parsed.all("th"))
    # A button has words in it, or a label; so has every box that scrolls.
    assert all("aria-label" in box for box in parsed.all("div") if box.get("role") == "region")


def numbers_in(data: bytes) -> Iterator[int]:
    """Zigzag LEB128, as the format's description says it; the page's script does the same."""
    value = bits = 0
    for byte in data:
        value |= (byte & 127) << bits
        bits += 7
        if byte < 128:
            yield -(value + 1) // 2 if value % 2 else value // 2
            value = bits = 0
    assert bits == 0, "the last number is cut off"


def spans_in(data: dict[str, Any]) -> dict[str, list[list[int]]]:
    """Party -> [execution, op, begin, end, waiting] of each span, of a run as the page carries it."""
    deltas = numbers_in(base64.b64decode(data["numbers"]))
    executions = np.cumsum(list(deltas)).tolist()
    found: dict[str, list[list[int]]] = {}
    for party in data["parties"]:
        numbers = numbers_in(base64.b64decode(party["spans"]))
        spans, clock = [], 0
        for execution in executions:
            for index, (_, _, waits) in enumerate(party["ops"]):
                begin = clock + next(numbers)
                clock = begin + next(numbers)
                spans.append([execution, index, begin, clock, next(numbers) if waits else 0])
        assert next(numbers, None) is None, "nothing is left over"
        found[party["name"]] = spans
    return found

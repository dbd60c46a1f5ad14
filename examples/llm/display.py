"""Answers on the terminal while their tokens come: a panel per prompt, or prefixed lines where there is no terminal."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from examples.llm.sequences import Request
from examples.llm.tokenizer import ChatTokenizer

Update = Callable[[Request], None]


def answers(prompts: Sequence[str], tokenizer: ChatTokenizer, console: Console) -> AbstractContextManager[Update]:
    """Shows every request that its `update` is called with, in whatever order their tokens arrive."""
    show = as_panels if console.is_terminal else as_lines
    return show(prompts, tokenizer, console)


@contextmanager
def as_panels(prompts: Sequence[str], tokenizer: ChatTokenizer, console: Console) -> Iterator[Update]:
    """One panel a prompt, drawn at most ten times a second so that drawing takes little time from the stages."""
    outputs: list[list[int]] = [[] for _ in prompts]

    def update(request: Request) -> None:
        outputs[request.slot] = list(request.output)

    def draw() -> Group:
        texts = [Text(tokenizer.decode(output)) for output in outputs]
        return Group(*(Panel(text, title=Text(p), title_align="left") for p, text in zip(prompts, texts, strict=True)))

    with Live(get_renderable=draw, console=console, refresh_per_second=10):
        yield update


@contextmanager
def as_lines(prompts: Sequence[str], tokenizer: ChatTokenizer, console: Console, width: int = 60) -> Iterator[Update]:
    """Lines `[prompt] text`, each printed once it is complete: at a line break, or as long as `width` allows."""
    shown = [0 for _ in prompts]

    def print_line(slot: int, line: str) -> None:
        console.print(f"[{slot}] {line}", markup=False, highlight=False, soft_wrap=True)

    def update(request: Request) -> None:
        pending = tokenizer.decode(request.output)[shown[request.slot] :]
        if request.finished:
            complete = pending
        elif len(pending) >= width:
            complete = pending[: pending.rfind(" ") + 1]
        else:
            complete = pending[: pending.rfind("\n") + 1]
        shown[request.slot] += len(complete)
        for line in filter(None, map(str.strip, complete.splitlines())):
            print_line(request.slot, line)

    for slot, prompt in enumerate(prompts):
        print_line(slot, f"> {prompt}")
    yield update


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column is text and whose others are numbers."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left")
    for row in rows:
        made.add_row(*row)
    return made

"""What the demo says at the end: the cut, the speeds, and whether every way gave the same tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from examples.llm.sequences import Generation
from examples.llm.tokenizer import ChatTokenizer


@dataclass(frozen=True)
class Run:
    """One way of running the model, and what came of it."""

    generation: Generation
    busy_s: Sequence[float] = ()
    """seconds that each stage worked; empty where there are no stages"""


def describe(owned: range, num_pieces: int) -> str:
    """These pieces of a model in words."""
    head = num_pieces - 1
    layers = [piece - 1 for piece in owned if 0 < piece < head]
    parts = ["embedding"] if 0 in owned else []
    parts += [f"layers {layers[0]}-{layers[-1]}"] if layers else []
    parts += ["lm_head"] if head in owned else []
    return " + ".join(parts)


def cut_table(cut: Sequence[range], costs: Sequence[float]) -> Table:
    """Which pieces each stage got, and what a decode step costs it."""
    table = Table("stage", "pieces", title="cost of a decode step", title_justify="left")
    table.add_column("ms", justify="right")
    for number, owned in enumerate(cut):
        table.add_row(
            f"stage{number}", describe(owned, len(costs)), f"{sum(costs[piece] for piece in owned) * 1e3:.2f}"
        )
    return table


def speed_table(runs: Mapping[str, Sequence[Run]], title: str) -> Table:
    """Of each way of running the model, the run with the median speed."""
    table = Table("", title=title, title_justify="left")
    for column in ("tokens/s", "TTFT ms", "TPOT ms", "stages working"):
        table.add_column(column, justify="right")
    for name, several in runs.items():
        run = sorted(several, key=lambda run: run.generation.tokens_per_s)[len(several) // 2]
        generation = run.generation
        table.add_row(
            name,
            f"{generation.tokens_per_s:.1f}",
            f"{generation.ttft_s * 1e3:.0f}",
            f"{generation.tpot_s * 1e3:.1f}",
            "  ".join(f"{busy_s / generation.wall_s:.0%}" for busy_s in run.busy_s),
        )
    return table


def first_difference(runs: Mapping[str, Sequence[Run]], tokenizer: ChatTokenizer) -> str | None:
    """Where the tokens of any run first differ from the last way's first ones, as an error message; None if nowhere."""
    *_, (reference, (expected, *_)) = runs.items()
    for name, run in ((name, run) for name, several in runs.items() for run in several):
        for prompt, (ours, theirs) in enumerate(zip(run.generation.outputs, expected.generation.outputs, strict=True)):
            if ours != theirs:
                same = next((n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
                at = min(len(ours), len(theirs)) if same is None else same
                return (
                    f"prompt {prompt} differs at token {at}\n"
                    f"  {name}: {ours[at:][:8]} {tokenizer.decode(ours)!r}\n"
                    f"  {reference}: {theirs[at:][:8]} {tokenizer.decode(theirs)!r}"
                )
    return None

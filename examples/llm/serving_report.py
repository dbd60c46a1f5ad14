"""What the disaggregation example prints: its load and limits, the figures of every way, and the cost of transfers."""

from collections.abc import Mapping, Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from examples.llm.display import table
from examples.llm.latency import FIGURES, medians
from examples.llm.load import CHAT, DOCUMENT, Arrival
from examples.llm.serving import Run
from examples.llm.transfer import Interference, Transfer


def say(console: Console, line: str) -> None:
    """A line as it is: not wrapped, not coloured."""
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def load_lines(load: Sequence[Arrival], slots: int, slot_bytes: int) -> list[str]:
    """What arrives, and what makes it wait. slot_bytes: of the KV cache, for one sequence."""
    lines = []
    for kind in (CHAT, DOCUMENT):
        of = [arrival for arrival in load if arrival.kind == kind]
        lengths = sorted(len(arrival.prompt) for arrival in of)
        times = sorted({f"{arrival.at_s:.2g}" for arrival in of}, key=float)
        lines.append(
            f"load: {len(of)} x {kind}: prompts of {lengths[0]} to {lengths[-1]} tokens at {', '.join(times)} s, "
            f"answers of {of[0].max_new_tokens}"
        )
    longest = max(arrival.max_len for arrival in load)
    lines.append(
        f"limits: {slots} slots of {longest} tokens in each actor ({slots * slot_bytes / 1e6:.0f} MB), one prompt at a "
        "time in each prefill actor; a request that finds no place waits in the router's queue"
    )
    return lines


def figures_table(runs: Mapping[str, Sequence[Run]], title: str) -> Table:
    """Figures by way; each is the median over the rounds, and so is the share of its time that each actor worked."""
    found = {name: medians([run.requests for run in several]) for name, several in runs.items()}
    rows = [[figure.name, *(f"{found[name][figure.name]:.1f}" for name in runs)] for figure in FIGURES]
    working = []
    for several in runs.values():
        shares = [median(run.busy_s[actor] / run.wall_s for run in several) for actor in range(len(several[0].busy_s))]
        working.append(" ".join(f"{share * 100:.0f}" for share in shares))
    return table(title, ["", *runs], [*rows, ["actors working %", *working]])


def transfer_table(moved: Sequence[Transfer], tokens: int) -> Table:
    """One row a way; `tokens` of one prompt."""
    rows = [
        [
            of.name,
            f"{of.bytes / 1e6:.1f}",
            f"{of.prefill_s * 1e3:.1f}" if of.prefill_s else "",
            f"{of.exposed_s * 1e3:.2f}",
            f"{of.gb_per_s:.1f}",
        ]
        for of in moved
    ]
    title = f"the KV cache of {tokens} tokens, handed over by idle actors"
    return table(title, ["", "MB", "first token ms", "exposed ms", "GB/s"], rows)


def interference_lines(found: Interference) -> list[str]:
    """What the transfers of the served load cost, in words."""
    kinds = {
        "with a block copied meanwhile": found.during,
        "between two blocks": found.between,
        "with no prompt on its way": found.alone,
    }
    told = [f"{of.median_s * 1e3:.1f} ms {kind} ({of.steps})" for kind, of in kinds.items() if of.steps]
    return [
        "exposed: from the end of the last layer's prefill to the slot being ready; GB/s: all bytes in that time",
        f"under load: {found.exposed_s * 1e3:.1f} ms exposed; all copies into a slot: {found.copying_s * 1e3:.1f} ms",
        f"decode steps of the same actors, median: {', '.join(told)}",
    ]

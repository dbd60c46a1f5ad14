"""A load for a server: chats that decode for long, and documents that arrive meanwhile and are long to prefill.

All of it follows from the seed: what is asked, how long the prompts are, and when each arrives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from examples.llm.router import Served
from examples.llm.tokenizer import ChatTokenizer

CHAT, DOCUMENT = "chat", "document"
QUESTIONS = [
    "What is the capital of France, and what is it known for?",
    "Explain why the sky is blue.",
    "Give me one tip for sleeping better.",
    "How do bees find their way home?",
    "Why do we have leap years?",
    "What is the difference between weather and climate?",
]
INSTRUCTION = "Summarize the following notes in one sentence."
NOTES = [
    "The harbour was closed for two days because of the storm.",
    "Three new teachers have joined the school this autumn.",
    "The bakery on the corner now opens at six in the morning.",
    "A group of volunteers repaired the wooden bridge over the stream.",
    "The library lends tools and board games as well as books.",
    "Most of the apples were picked before the first frost came.",
    "The night train to the coast will stop running in December.",
    "An old lighthouse has been turned into a small museum.",
    "The council will decide about the new cycle path on Monday.",
    "Heavy rain filled the reservoir for the first time in years.",
    "The choir is looking for two more tenors and a pianist.",
    "A farmer found a Roman coin while he was planting potatoes.",
    "The swimming pool needs a new roof, which nobody wants to pay for.",
    "Every house in the valley was without power until the evening.",
]


@dataclass(frozen=True)
class Arrival:
    """One request of the load."""

    kind: str
    at_s: float
    """seconds after the start"""
    text: str
    prompt: tuple[int, ...]
    max_new_tokens: int

    @property
    def max_len(self) -> int:
        return len(self.prompt) + self.max_new_tokens


@dataclass(frozen=True)
class Mix:
    """What the load is made of."""

    chats: int
    """short prompts, all there at the start"""
    chat_tokens: int
    """tokens of each answer"""
    documents: int
    """long prompts that arrive one after the other, with gaps of half to one and a half times `gap_s`"""
    document_tokens: int
    """at most so many tokens has a document; the shortest has two thirds of it"""
    summary_tokens: int
    """tokens of each answer"""
    gap_s: float
    """mean seconds between two documents"""
    seed: int


def arrivals(mix: Mix, tokenizer: ChatTokenizer) -> list[Arrival]:
    """The load, in order of arrival. Raises ValueError for documents too short to hold the instruction and a note."""
    random = Random(mix.seed)
    load = []
    for number in range(mix.chats):
        text = QUESTIONS[number % len(QUESTIONS)]
        load.append(Arrival(CHAT, 0.0, text, tuple(tokenizer.encode_chat(text)), mix.chat_tokens))
    at_s = 0.0
    for _ in range(mix.documents):
        at_s += random.uniform(0.5, 1.5) * mix.gap_s
        text, prompt = document(
            random, tokenizer, random.randint(-(-2 * mix.document_tokens // 3), mix.document_tokens)
        )
        load.append(Arrival(DOCUMENT, at_s, text, prompt, mix.summary_tokens))
    return load


def document(random: Random, tokenizer: ChatTokenizer, tokens: int) -> tuple[str, tuple[int, ...]]:
    """Notes in random order, as many as fit into a prompt of so many tokens; the text and the prompt."""
    text, prompt = INSTRUCTION, tuple[int, ...]()
    while True:
        longer = f"{text} {random.choice(NOTES)}"
        ids = tuple(tokenizer.encode_chat(longer))
        if len(ids) > tokens:
            break
        text, prompt = longer, ids
    if not prompt:
        raise ValueError(f"a document of {tokens} tokens; expected at least {len(ids)}, for the instruction and a note")
    return text, prompt


def requests(load: Sequence[Arrival], started_s: float) -> list[Served]:
    """Fresh requests, for a run that started at `started_s`.

    No token ends an answer before it has its length (what benchmarks of servers call ignore_eos), so that every run
    serves the same number of tokens.
    """
    return [
        Served(-1, of.prompt, of.max_new_tokens, (), number=number, kind=of.kind, arrived_s=started_s + of.at_s)
        for number, of in enumerate(load)
    ]

"""Serving from an asyncio loop: requests arrive concurrently and share one compiled graph.

`await graph.execute_async(...)` waits for a place among the executions in flight, which is the back-pressure of a
server, and awaiting the ref waits for the result; neither blocks the loop nor needs a thread.

Expected output:
request 0: 'ping' -> PING
request 1: 'compiled graphs' -> COMPILED GRAPHS
request 2: refused (ValueError: an empty prompt)
request 3: 'bye' -> BYE
"""

import asyncio

import dagc

PROMPTS = ("ping", "compiled graphs", "", "bye")


@dagc.remote
class Tokenizer:
    def encode(self, text: str) -> list[int]:
        if not text:
            raise ValueError("an empty prompt")
        return [ord(character) for character in text]


@dagc.remote
class Model:
    def generate(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens)).upper()


async def handle(graph: dagc.CompiledGraph, number: int, prompt: str) -> str:
    ref = await graph.execute_async(prompt)
    try:
        return f"request {number}: {prompt!r} -> {await ref}"
    except ValueError as error:  # the actor's own exception; only this request fails, the graph goes on
        return f"request {number}: refused (ValueError: {error})"


async def serve() -> None:
    tokenizer, model = Tokenizer.remote(), Model.remote()
    with dagc.InputNode() as prompt:
        answer = model.generate.bind(tokenizer.encode.bind(prompt))

    with dagc.compile(answer, max_inflight=2) as graph:
        answers = await asyncio.gather(*(handle(graph, number, prompt) for number, prompt in enumerate(PROMPTS)))
    print(*answers, sep="\n")


if __name__ == "__main__":
    asyncio.run(serve())
    dagc.shutdown()

"""Scatter and gather: each worker gets its own part of the input, one actor gathers their results.

`x[i]` is the i-th argument of `execute`, and goes to its worker only. The gathering method takes a list of nodes: it
runs when all of them are there, without the driver in between.

Expected output:
words counted by 3 workers
3 the
2 fox
1 dog
"""

from collections import Counter

import dagc

TEXTS = ("the quick fox", "the lazy dog", "jumps over the fox")


@dagc.remote
class Worker:
    def count(self, text: str) -> Counter[str]:
        return Counter(text.split())


@dagc.remote
class Gatherer:
    def merge(self, counts: list[Counter[str]]) -> Counter[str]:
        return sum(counts, Counter())


def main() -> None:
    workers = [Worker.remote() for _ in TEXTS]
    gatherer = Gatherer.remote()
    with dagc.InputNode() as x:
        counts = [worker.count.bind(x[i]) for i, worker in enumerate(workers)]
        merged = gatherer.merge.bind(counts)

    with dagc.compile(merged) as graph:
        total = graph.execute(*TEXTS).get(timeout=10)

    print("words counted by", len(workers), "workers")
    for word in ("the", "fox", "dog"):
        print(total[word], word)
    dagc.shutdown()


if __name__ == "__main__":
    main()

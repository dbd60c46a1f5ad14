"""Functions, calls whose value nobody reads, and order without data.

`normalize` runs where the embedder is, `tokenize` in a process of its own. `meter.count` is a leaf: it is made all the
same, and what it raises is raised by `get`. The index answers `after` it was updated.

Expected output:
[0.5, 0.5] after 1 updates
[0.25, 0.75] after 2 updates
4 words were counted
"""

import dagc


@dagc.remote
def tokenize(text: str) -> list[str]:
    return text.split()


@dagc.remote
def normalize(vector: list[int]) -> list[float]:
    return [x / sum(vector) for x in vector]


@dagc.remote
class Embedder:
    def embed(self, words: list[str]) -> list[int]:
        return [len(word) for word in words]


@dagc.remote
class Service:
    calls = 0

    def count(self, words: list[str]) -> None:
        self.calls += len(words)

    def update(self, _vector: list[float]) -> None:
        self.calls += 1

    def answer(self, _words: list[str] | None = None) -> int:
        return self.calls


def main() -> None:
    embedder, index, meter = Embedder.remote(), Service.remote(), Service.remote()
    with dagc.InputNode() as text:
        words = tokenize.bind(text)
        vector = normalize.bind(embedder.embed.bind(words))
        meter.count.bind(words)
        answer = index.answer.bind(words).after(index.update.bind(vector))
    with dagc.compile(dagc.MultiOutputNode([vector, answer])) as graph:
        for line in ("an ox", "a cow"):
            print("{} after {} updates".format(*dagc.get(graph.execute(line))))
    print(dagc.get(meter.answer.remote()), "words were counted")
    dagc.shutdown()


if __name__ == "__main__":
    main()

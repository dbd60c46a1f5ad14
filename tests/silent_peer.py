"""A contestant of the benchmarks that answers some questions and never answers another."""

import signal

from benchmarks.protocol import Answer, serve


def answer(seconds: float) -> Answer:
    return {"p50_us": seconds}


def hang(seconds: float) -> Answer:
    signal.pause()
    raise AssertionError("nobody sends a signal that a process survives")


if __name__ == "__main__":
    serve({"answer": answer, "hang": hang})

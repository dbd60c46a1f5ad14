"""How `run` talks to a contestant: a process of its own, one line of JSON a question and one a reply, over its pipes.

    >  {"bench": "chain", "actors": 4, "seconds": 0.3}
    <  {"p50_us": 18.2, "p99_us": 30.1, "samples": 16000}
    <  {"error": "RayChannelTimeoutError: ..."}

So rounds of several contestants interleave in one run; each has an interpreter of its own, which only waits in between.
The first line is the contestant's own: {"ready": {facts}} or {"refused": reason}. It ends when its standard input ends.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Answer", "refuse", "serve"]

Answer = dict[str, Any]


def refuse(reason: str) -> None:
    """This contestant cannot take part."""
    print(json.dumps({"refused": reason}), flush=True)


def serve(benches: Mapping[str, Callable[..., Answer]], **facts: str) -> None:
    """Answer questions until there are no more. An exception is an answer, too.

    What the libraries of the contestant print goes to standard error, so that it cannot garble the replies.
    """
    # Line-buffered, and not inherited.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    replies.write(json.dumps({"ready": facts}) + "\n")
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = benches[question.pop("bench")](**question)
        except Exception as error:  # noqa: BLE001 - how a contestant fails is a result
            answer = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(answer) + "\n")

"""Compiled graphs over NCCL on real GPUs: those that the tests run on a fake everywhere (tests/nccl_graphs.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import dagc
from tests.gpu.needs import missing
from tests.nccl_graphs import *  # noqa: F403 - the tests
from tests.nccl_graphs import NUM_GPUS, REAL

WHY_NOT = missing(NUM_GPUS)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
    pytest.mark.timeout(300),  # the first use of a device in a process takes seconds
]


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> None:
    """Not here: libnccl keeps sockets of its own in a process that has made groups."""


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[None]:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    os.environ[REAL] = "1"  # the actors' processes inherit it
    dagc.init()
    yield
    dagc.shutdown()
    del os.environ[REAL]

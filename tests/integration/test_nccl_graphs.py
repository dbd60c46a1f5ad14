"""Compiled graphs over NCCL, on a fake of the driver (tests/fakes_nccl): real processes, real bytes, no GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import dagc
from tests import fakes_nccl
from tests.nccl_graphs import *  # noqa: F403 - the tests
from tests.nccl_graphs import NUM_GPUS


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[None]:
    fakes_nccl.install()  # the driver makes the groups, and gets tensors on its own GPU
    torch.cuda.current_stream().synchronize()  # a stream is a thread, which stays as long as the fake
    dagc.init(num_gpus=NUM_GPUS)
    yield
    dagc.shutdown()
    fakes_nccl.uninstall()

"""The LLM examples' graphs on GPUs, unchanged: here on a fake of the driver, in real processes, with a tiny model."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import dagc
from examples import pipeline_llm, tensor_parallel_llm
from examples.llm.disaggregation import groups_of, prefill_graph, step_graph
from examples.llm.grid import grid_parallel
from examples.llm.model import Batch
from examples.llm.replica import Replica
from examples.llm.shard import Shard
from examples.llm.stage import Stage
from examples.llm.tiny import open_tiny
from tests import fakes_nccl

WATCHDOG = 50.0
PREFILL = Batch(slots=(0, 1), starts=(0, 0), lengths=(5, 3))
DECODE = Batch(slots=(0, 1), starts=(5, 3), lengths=(1, 1))


class GpuStage(Stage):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        importlib.import_module("tests.fakes_nccl").install()
        super().__init__(*args, **kwargs)

    def where(self) -> str:
        return str(self.device)


class GpuShard(Shard):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        importlib.import_module("tests.fakes_nccl").install()
        super().__init__(*args, **kwargs)


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[None]:
    fakes_nccl.install()  # the driver makes the groups
    torch.cuda.current_stream().synchronize()  # a stream is a thread, which stays as long as the fake
    dagc.init(num_gpus=16)
    yield
    dagc.shutdown()
    fakes_nccl.uninstall()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return open_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def expected(checkpoint: Any) -> list[torch.Tensor]:
    """Logits of a prefill and a decode step of the whole model on the CPU."""
    whole = Stage(checkpoint.folder, 0, checkpoint.config.num_pieces, slots=2, max_len=16, threads=1)
    return [whole.logits(tokens, batch).cpu() for tokens, batch in steps()]


def steps() -> list[tuple[torch.Tensor, Batch]]:
    return [(torch.tensor([3, 1, 4, 1, 5, 9, 2, 6]), PREFILL), (torch.tensor([7, 8]), DECODE)]


def test_a_pipeline(checkpoint: Any, expected: list[torch.Tensor]) -> None:
    pieces = checkpoint.config.num_pieces
    cut = [range(pieces // 2), range(pieces // 2, pieces)]
    kind = dagc.remote(num_gpus=1)(GpuStage)
    stages = [kind.remote(Path(checkpoint.folder), of.start, of.stop, slots=2, max_len=16, threads=1) for of in cut]
    assert dagc.get([stage.where.remote() for stage in stages], timeout=WATCHDOG) == ["cuda:0", "cuda:0"]
    with dagc.compile(pipeline_llm.pipeline(stages), timeout=WATCHDOG) as graph:
        assert graph.plan.by_name["GpuStage_0.forward"].transport == "nccl"
        refs = [graph.execute(tokens=tokens, batch=batch) for tokens, batch in steps()]
        for ref, logits in zip(refs, expected, strict=True):
            ids = ref.get(timeout=WATCHDOG)
            assert not ids.is_cuda
            assert ids.tolist() == logits.argmax(-1).tolist()


def test_tensor_parallel_ranks(checkpoint: Any, expected: list[torch.Tensor]) -> None:
    kind = dagc.remote(num_gpus=1)(GpuShard)
    ranks = [kind.remote(Path(checkpoint.folder), rank, 2, slots=2, max_len=16, threads=1) for rank in range(2)]
    dag = tensor_parallel_llm.tensor_parallel(ranks, checkpoint.config.num_hidden_layers)
    with dagc.compile(dag, timeout=WATCHDOG) as graph:
        refs = [graph.execute(tokens=tokens, batch=batch) for tokens, batch in steps()]
        for ref, logits in zip(refs, expected, strict=True):
            torch.testing.assert_close(ref.get(timeout=WATCHDOG), logits, rtol=1e-4, atol=1e-4)


class GpuReplica(Replica):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        importlib.import_module("tests.fakes_nccl").install()
        super().__init__(*args, **kwargs)


def test_a_kv_cache_that_is_handed_over(checkpoint: Any, expected: list[torch.Tensor]) -> None:
    layers = checkpoint.config.num_hidden_layers
    kind = dagc.remote(num_gpus=1)(GpuReplica)
    prefill, decode = [kind.remote(Path(checkpoint.folder), slots=2, max_len=16, threads=1) for _ in range(2)]
    dag, step = prefill_graph(prefill, decode, groups_of(layers, 1), logits=True), step_graph(decode, logits=True)
    (tokens, _), (following, at) = steps()
    with dagc.compile(dag, timeout=WATCHDOG) as handing_over, dagc.compile(step, timeout=WATCHDOG) as decoding:
        assert "nccl" in {channel.transport for channel in handing_over.plan.channels}
        for slot, rows in ((0, slice(0, 5)), (1, slice(5, 8))):
            first, admitted = handing_over.execute(tokens=tokens[rows], slot=slot)
            torch.testing.assert_close(first.get(timeout=WATCHDOG)[0], expected[0][slot], rtol=1e-4, atol=1e-4)
            assert admitted.get(timeout=WATCHDOG).layers == layers
        found = decoding.execute(tokens=following, batch=at).get(timeout=WATCHDOG)
        torch.testing.assert_close(found, expected[1], rtol=1e-4, atol=1e-4)


def test_a_grid(checkpoint: Any, expected: list[torch.Tensor]) -> None:
    pieces = checkpoint.config.num_pieces
    cut = [range(pieces // 2), range(pieces // 2, pieces)]
    kind = dagc.remote(num_gpus=1)(GpuShard)
    stages = [
        [kind.remote(Path(checkpoint.folder), rank, 2, slots=2, max_len=16, threads=1, pieces=of) for rank in range(2)]
        for of in cut
    ]
    with dagc.compile(grid_parallel(stages, cut), timeout=WATCHDOG) as graph:
        transports = {channel.transport for channel in graph.plan.channels}
        assert transports == {"shm", "nccl"}
        refs = [graph.execute(tokens=tokens, batch=batch) for tokens, batch in steps()]
        for ref, logits in zip(refs, expected, strict=True):
            torch.testing.assert_close(ref.get(timeout=WATCHDOG), logits, rtol=1e-4, atol=1e-4)

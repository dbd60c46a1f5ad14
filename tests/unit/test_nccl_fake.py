"""The fake of torch's devices is as good as what the tests that use it take it for."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from tests import fakes_nccl  # noqa: E402 - it needs torch


@pytest.fixture(autouse=True)
def fake() -> Iterator[None]:
    before = torch.Tensor.to, torch.empty, torch.cuda.is_available()
    fakes_nccl.install()
    yield
    violations = list(fakes_nccl.violations)
    fakes_nccl.uninstall()
    assert violations == []
    assert (torch.Tensor.to, torch.empty, torch.cuda.is_available()) == before


def test_tensors_go_to_a_device_and_back() -> None:
    host = torch.arange(6.0).reshape(2, 3)
    for there in (fakes_nccl.cuda(host, 1), host.to("cuda:1"), host.cuda(1), host.to(torch.device("cuda", 1))):
        assert (there.is_cuda, there.device, there.dtype) == (True, torch.device("cuda:1"), torch.float32)
        for back in (there.cpu(), there.to("cpu")):
            assert type(back) is torch.Tensor
            assert not back.is_cuda
            assert torch.equal(back, host)
    assert there.to("cuda:1") is there
    assert there.to("cuda:0").device == torch.device("cuda:0")
    assert host.to("cuda", torch.float16).dtype == torch.float16
    assert host.to(torch.float64).dtype == torch.float64
    with pytest.raises(TypeError, match="can't convert cuda"):
        there.numpy()


def test_what_is_made_on_a_device_is_there() -> None:
    for made in (
        torch.empty((2, 3), device="cuda:0"),
        torch.zeros(4, dtype=torch.int64, device=torch.device("cuda", 0)),
        torch.full((3,), 2.0, device="cuda"),
        torch.tensor([1, 2], device="cuda:0"),
        torch.empty(0, device="cuda:0"),
    ):
        assert made.device == torch.device("cuda:0")
        assert (made + made).device == made[:0].device == torch.empty_like(made).device == made.device
    assert torch.ones(2, device="cuda:3").sum().item() == 2.0
    assert not torch.empty(2).is_cuda


def test_a_device_tensor_is_pickled_through_the_host_to_its_device() -> None:
    there = pickle.loads(pickle.dumps(torch.arange(3, device="cuda:2")))
    assert (there.device, there.tolist()) == (torch.device("cuda:2"), [0, 1, 2])


def test_devices_and_streams_are_of_a_thread() -> None:
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() == fakes_nccl.FAKE_DEVICES
    with torch.cuda.device(1):
        assert torch.cuda.current_device() == 1
        other = torch.cuda.Stream()
        with torch.cuda.stream(other):
            assert torch.cuda.current_stream() is other
    assert torch.cuda.current_device() == 0
    torch.cuda.set_device(2)
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.cuda.current_device()))
    thread.start()
    thread.join()
    assert seen == [0]
    torch.cuda.set_device(0)
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.cuda.set_device(fakes_nccl.FAKE_DEVICES)


def test_a_stream_runs_in_order_and_waits_for_events() -> None:
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    gate, order = threading.Event(), []
    first.enqueue(gate.wait)
    first.enqueue(lambda: order.append("first"))
    second.wait_stream(first)
    second.enqueue(lambda: order.append("second"))
    event = second.record_event()
    assert not event.query()
    gate.set()
    torch.cuda.synchronize()
    assert event.query()
    assert order == ["first", "second"]


def test_what_is_read_waits_for_its_stream() -> None:
    there = torch.zeros(3, device="cuda:0")
    gate = threading.Event()
    torch.cuda.current_stream().enqueue(gate.wait)
    torch.cuda.current_stream().enqueue(lambda: fakes_nccl.memory._plain(there).fill_(7.0))
    opener = threading.Timer(0.05, gate.set)  # whenever it comes, the reader has waited for it
    opener.start()
    assert there.cpu().tolist() == [7.0, 7.0, 7.0]
    opener.join()


def test_freed_memory_is_given_to_the_next_tensor_and_holds_nothing_of_the_last() -> None:
    there = torch.ones(100, device="cuda:0")
    address = there.data_ptr()
    del there
    again = torch.empty(100, device="cuda:0")
    assert again.data_ptr() == address
    assert again.cpu()[0].item() != 1.0


def test_memory_that_another_stream_uses_is_not_given_away() -> None:
    stream, gate = torch.cuda.Stream(), threading.Event()
    stream.enqueue(gate.wait)
    there = torch.ones(100, device="cuda:0")
    there.record_stream(stream)
    address = there.data_ptr()
    del there
    kept = torch.empty(100, device="cuda:0")
    assert kept.data_ptr() != address
    gate.set()
    stream.synchronize()
    assert torch.empty(100, device="cuda:0").data_ptr() == address


def test_a_process_is_on_the_fake_machine_by_an_import() -> None:
    """As an actor's module does it; nothing keeps the process from ending."""
    code = (
        "import torch; from tests import fakes_nccl; fakes_nccl.install(); "
        "x = torch.ones(2, device='cuda:0') * 2; torch.cuda.current_stream().synchronize(); print(x.device, x.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=150, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("cuda:0 [2.0, 2.0]\n", "")

"""NCCL without a device: what is missing is said, ids travel, and what CuPy raises is understood."""

from __future__ import annotations

import pickle
import subprocess
import sys
import types
from typing import Any

import pytest

from channels.communicators import NcclTransport, TensorSpec, transport
from channels.communicators.nccl import MAX_WORLD_SIZE
from channels.communicators.nccl.cuda import describe, load_nccl, load_torch, pack_id, status_of, unpack_id
from channels.communicators.nccl.device_tensors import DeviceTensors
from channels.communicators.nccl.watchdog import Counts, Flight
from channels.communicators.requests import Kind, Request

UNIQUE_ID = bytes(range(64, 192))


def _cupy(monkeypatch: pytest.MonkeyPatch, **names: Any) -> Any:
    """A CuPy whose binding of NCCL has these names."""
    for name in ("cupy", "cupy.cuda", "cupy.cuda.nccl"):
        module = types.ModuleType(name)
        module.__path__ = []  # type: ignore[attr-defined] - what is imported from it are modules
        monkeypatch.setitem(sys.modules, name, module)
    for name, value in names.items():
        setattr(module, name, value)
    return module


# ---- what is missing ----


def test_without_cupy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cupy", "cupy.cuda", "cupy.cuda.nccl"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"the transport nccl needs CuPy: .*; pip install 'dagc\[cuda12\]'"):
        NcclTransport().create(2)


def test_without_libnccl_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _cupy(monkeypatch, available=False)
    with pytest.raises(ImportError, match=r"needs NCCL, and CuPy has found no libnccl\.so\.2; pip install"):
        load_nccl()


def test_an_nccl_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _cupy(monkeypatch, available=True, get_version=lambda: 21805)
    with pytest.raises(ImportError, match=r"needs NCCL 2\.19\.1 or later.*found 2\.18\.5: pip install -U nvidia-nccl"):
        load_nccl()


def test_without_torch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"the transport nccl needs torch: .*; pip install 'dagc\[cuda12\]'"):
        load_torch()


def test_without_a_gpu_the_error_names_the_other_transports(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"needs a GPU, and torch .* finds none.*On CPUs use the transport shm, or"):
        load_torch()


def test_importing_and_naming_it_needs_nothing() -> None:
    code = (
        "import sys, channels.communicators as c; assert c.transport('nccl') == c.NcclTransport(); "
        "sys.exit('torch' in sys.modules or 'cupy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_a_transport_is_picklable_and_refuses_sizes_before_it_looks_for_cupy() -> None:
    made = NcclTransport(device=1, host="10.0.0.1", connect_peers=False)
    assert pickle.loads(pickle.dumps(made)) == made
    assert transport("nccl").name == "nccl"
    with pytest.raises(ValueError, match=f"world_size=0; expected 1 to {MAX_WORLD_SIZE}"):
        made.create(0)


# ---- ids and statuses ----


def test_an_id_travels_between_the_versions_of_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """13 has tuples of signed numbers, 14 has bytes; 14 is known by its NcclConfig."""
    signed = tuple(part - 256 if part > 127 else part for part in UNIQUE_ID)
    assert pack_id(signed) == pack_id(UNIQUE_ID) == UNIQUE_ID
    assert unpack_id(UNIQUE_ID, _cupy(monkeypatch)) == signed
    assert unpack_id(UNIQUE_ID, _cupy(monkeypatch, NcclConfig=object)) == UNIQUE_ID
    with pytest.raises(ValueError, match="a unique id of 3 bytes; expected 128"):
        unpack_id(b"abc", _cupy(monkeypatch))


class _NcclError(RuntimeError):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (_NcclError(3, "internal error"), 3, "internal error"),
        (_NcclError(5, "invalid usage"), 5, "invalid usage; are two ranks on one GPU?"),
        (_NcclError(6, "remote error"), 6, "remote error; has the process of a rank ended?"),
        (KeyError(7), 7, "ncclResult_t 7"),
        (KeyError(6), 6, "ncclResult_t 6; has the process of a rank ended?"),
        (RuntimeError("of torch"), None, "of torch"),
    ],
)
def test_what_cupy_raises_is_understood(error: Exception, status: int | None, text: str) -> None:
    assert status_of(error) == status
    assert describe(error) == text


# ---- what is looked after ----


def test_operations_are_counted_among_their_like() -> None:
    counts = Counts()
    send, recv, all_of_them = Request(Kind.SEND, 2, (4,), peer=1), Request(Kind.RECV, 2, (4,), peer=1), Kind.ALLREDUCE
    assert [counts.begin(send), counts.begin(send), counts.begin(recv)] == [1, 2, 1]
    assert counts.begin(Request(all_of_them, 2, (4,))) == counts.begin(Request(Kind.BROADCAST, 2, (4,), peer=0)) - 1
    assert counts.as_message() == {"collectives": 2, "pairs": {"1": [2, 1]}}


@pytest.mark.parametrize(
    ("kind", "number", "needed"),
    [
        (Kind.ALLREDUCE, 3, False),
        (Kind.ALLREDUCE, 4, True),
        (Kind.SEND, 1, False),  # it had begun one receive from this rank
        (Kind.SEND, 2, True),
        (Kind.RECV, 2, False),  # and two sends
        (Kind.RECV, 3, True),
    ],
)
def test_who_has_left_is_needed_for_what_it_had_not_begun(kind: Kind, number: int, needed: bool) -> None:
    flight = Flight(Request(kind, 2, (4,), peer=1), number, None, 0.0)
    assert flight.needs({"collectives": 3, "pairs": {"0": [2, 1]}}, 0) is needed


def test_a_request_of_several_tensors_says_so() -> None:
    assert str(Request(Kind.SEND, 2, (4,), peer=1, tensors=3)) == "send of float32 (4,) and 2 more to rank 1"


def test_host_tensors_are_refused_with_what_to_write_instead() -> None:
    torch = pytest.importorskip("torch")
    tensors = DeviceTensors(torch, 1)
    with pytest.raises(TypeError, match=r"expected a torch tensor on cuda:1, found list: pass torch\.as_tensor\("):
        tensors.readable([1.0])
    with pytest.raises(TypeError, match=r"on cpu; expected a dense one on cuda:1.*pass tensor\.to\('cuda:1'\)"):
        tensors.readable(torch.ones(2))
    with pytest.raises(TypeError, match=r"NCCL makes torch tensors: pass TensorSpec\(shape, dtype, library='torch'\)"):
        tensors.writable(TensorSpec((2,), "float32"), "into")

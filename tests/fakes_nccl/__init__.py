"""A machine with GPUs that is none: what `channels.communicators.nccl` calls of CuPy's binding of NCCL and of torch.

    install()               from then on `cupy.cuda.nccl` can be imported, and torch has FAKE_DEVICES devices
    cuda(tensor, device)    a copy of a tensor on a device, as `tensor.to(device)`
    uninstall()             as before; nothing is left running

A process is on this machine if a module that it imports calls `install()`.

`streams` has devices, streams and events: a stream is a queue and a thread that runs it, in order. `memory` has tensors
on a device, from an allocator that reuses freed memory as torch's does, so that what is freed too early is overwritten.
`communicator` is NCCL: ranks in different processes exchange real bytes, over `fabric`. `faults` makes things go wrong.

It is as unkind as the real ones: what waits for a rank that does not come waits for ever, whatever the ranks disagree
in hangs, nobody hears of an abort, a dead process is not noticed, ncclCommDestroy waits for all ranks, and using a
communicator that was aborted is an error. What real ones would not notice, but is wrong, is in `violations`.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from channels import devices
from tests.fakes_nccl import communicator, faults, memory, streams
from tests.fakes_nccl.faults import violations

__all__ = ["FAKE_DEVICES", "cuda", "install", "uninstall", "violations"]

#: As many as the largest group that is checked has ranks.
FAKE_DEVICES = streams.DEVICES

cuda = memory.cuda

_saved: list[tuple[Any, str, Any]] = []
_MODULES = ("cupy", "cupy.cuda", "cupy.cuda.nccl")
#: What makes tensors on a device that it is told.
_FACTORIES = ("arange", "as_tensor", "empty", "full", "ones", "tensor", "zeros")


def install() -> None:
    """May be called twice."""
    if _saved:
        return
    torch = sys.modules.get("torch") or __import__("torch")
    for name in _MODULES:
        module = types.ModuleType(name)
        module.__path__ = []  # type: ignore[attr-defined] - what is imported from it are modules
        _set(sys.modules, name, module)
    for name in communicator.exported():
        setattr(sys.modules["cupy.cuda.nccl"], name, getattr(communicator, name))
    sys.modules["cupy"].cuda = sys.modules["cupy.cuda"]  # type: ignore[attr-defined]
    sys.modules["cupy.cuda"].nccl = sys.modules["cupy.cuda.nccl"]  # type: ignore[attr-defined]
    for name in streams.EXPORTED:
        _set(torch.cuda, name, getattr(streams, name))
    for name in _FACTORIES:
        _set(torch, name, memory.on_device(getattr(torch, name)))
    _set(torch.Tensor, "to", memory.moved(torch.Tensor.to))
    devices.PLAIN.add(memory.CudaTensor)
    _set(torch.Tensor, "cuda", lambda tensor, device=None: tensor.to(f"cuda:{streams.index_of(device)}"))


def uninstall() -> None:
    communicator.shutdown()
    streams.shutdown()
    memory.shutdown()
    faults.reset()
    devices.PLAIN.discard(memory.CudaTensor)
    while _saved:
        where, name, value = _saved.pop()
        if isinstance(where, dict):
            where.pop(name) if value is None else where.__setitem__(name, value)
        else:
            setattr(where, name, value)


def _set(where: Any, name: str, value: Any) -> None:
    if isinstance(where, dict):
        _saved.append((where, name, where.get(name)))
        where[name] = value
    else:
        _saved.append((where, name, getattr(where, name)))
        setattr(where, name, value)

"""What NCCL communicators use of CuPy and torch, found when it is first needed.

What CuPy's binding, `cupy.cuda.nccl`, really does was tried with its wheels 13.6.0 and 14.2.0 on libnccl 2.25.1 and
2.27.5, on a machine without a GPU:

* 13 gives a unique id as a tuple of 128 signed numbers and wants a tuple back; 14 gives and wants bytes.
* 14 has NcclConfig, but of its fields only `split_share`: a communicator cannot be asked to be non-blocking. 13 has no
  config at all. What can make one non-blocking is the environment, NCCL_COMM_BLOCKING=0, for the whole process.
* A call that returns ncclInProgress (7), or another status that the wheel does not know, raises KeyError(status) from
  within NcclError's constructor (cupy#8661). The communicator has its handle nevertheless, if it was made by `__new__`
  before `__init__` was called.
* The GIL is released around ncclCommInitRank(Config), ncclGroupEnd, ncclCommAbort and ncclCommDestroy (cupy#5574).
* `abort` and `destroy` clear the handle; a later call with it is ncclInvalidArgument. Collecting the object calls
  `destroy`.
* Without libnccl the module imports, says `available = False`, and has nothing else; importing it warns.
* ncclGetUniqueId needs no GPU, so a driver process without one can make groups.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

__all__ = ["IN_PROGRESS", "MIN_VERSION", "describe", "load_nccl", "load_torch", "pack_id", "status_of", "unpack_id"]

#: ncclInProgress.
IN_PROGRESS = 7
#: NCCL 2.19.1: from there on ncclCommAbort may be called while another thread uses the communicator (NVIDIA/nccl#992).
MIN_VERSION = 21901
_ID_BYTES = 128
_INSTALL = "pip install 'dagc[cuda12]' (or 'dagc[cuda13]', as your CUDA is)"


def load_nccl() -> Any:
    """`cupy.cuda.nccl`. Raises ImportError, which says what to install."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a missing libnccl; the error below says it
            nccl = importlib.import_module("cupy.cuda.nccl")
    except ImportError as error:
        raise ImportError(f"the transport nccl needs CuPy: {error}; {_INSTALL}") from error
    if not getattr(nccl, "available", False):
        raise ImportError(f"the transport nccl needs NCCL, and CuPy has found no libnccl.so.2; {_INSTALL}")
    found = nccl.get_version()
    if found < MIN_VERSION:
        raise ImportError(
            f"the transport nccl needs NCCL {_version(MIN_VERSION)} or later, where a communicator can be aborted "
            f"while another thread uses it; found {_version(found)}: pip install -U nvidia-nccl-cu12 (or -cu13)"
        )
    return nccl


def load_torch() -> Any:
    """torch, with a GPU that it can use. Raises ImportError, or RuntimeError if there is none."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(f"the transport nccl needs torch: {error}; {_INSTALL}") from error
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"the transport nccl needs a GPU, and torch {torch.__version__} finds none: is it a CPU build "
            f"({_INSTALL}), or CUDA_VISIBLE_DEVICES empty? On CPUs use the transport shm, or gloo across machines"
        )
    return torch


def pack_id(unique_id: Any) -> bytes:
    """A unique id as it travels, whichever CuPy made it."""
    return bytes(part & 0xFF for part in unique_id)


def unpack_id(data: bytes, nccl: Any) -> Any:
    """A unique id as this CuPy wants it. Raises ValueError if it is none."""
    if len(data) != _ID_BYTES:
        raise ValueError(f"a unique id of {len(data)} bytes; expected {_ID_BYTES}")
    if hasattr(nccl, "NcclConfig"):
        return data
    return tuple(part - 256 if part > 127 else part for part in data)


def status_of(error: BaseException) -> int | None:
    """The ncclResult_t behind what CuPy raised; None if it is another error."""
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], int):
        return error.args[0]
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def describe(error: BaseException) -> str:
    """What CuPy raised, for a reason: KeyError(7) says nothing to anybody."""
    status = status_of(error)
    text = str(error) if not isinstance(error, KeyError) else f"ncclResult_t {status}"
    hint = {5: "; are two ranks on one GPU?", 6: "; has the process of a rank ended?"}.get(status or 0, "")
    return f"{text}{hint}"


def _version(code: int) -> str:
    return f"{code // 10000}.{code // 100 % 100}.{code % 100}"

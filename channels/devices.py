"""Tensors between host and device. torch is never imported here: where no tensor was made there is none to move."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from channels.errors import SerializationError

__all__ = ["PLAIN", "arriving", "check_history", "destination", "dtype_name", "is_dense", "to_host"]

#: Subclasses of torch.Tensor that are nothing but memory with a shape; others know themselves how they are pickled.
PLAIN: set[type] = set()


def is_dense(value: Any) -> bool:
    """An ordinary tensor, whose bytes are its value, on the host or on a GPU."""
    torch = sys.modules.get("torch")
    return (
        torch is not None
        and (type(value) is getattr(torch, "Tensor", None) or type(value) in PLAIN)
        and (value.is_cpu or value.is_cuda)
        and value.layout is torch.strided
        and not (value.is_quantized or value.is_conj() or value.is_neg())
    )


@cache
def dtype_name(dtype: Any) -> str:
    """Of a torch.dtype, as numpy has it where both have one."""
    return str(dtype).removeprefix("torch.")


def check_history(tensor: Any) -> None:
    """Raises SerializationError for a tensor with a gradient history, which has its beginning in this process."""
    if tensor.requires_grad and not tensor.is_leaf:
        raise SerializationError("a tensor with a gradient history cannot leave its process; send tensor.detach()")


def to_host(tensor: Any) -> Any:
    """The tensor on the host; waits for what the current stream still does to it."""
    return tensor.cpu() if tensor.is_cuda else tensor


def destination(device: str, tensor: Any) -> str:
    """Where the reader shall have a tensor that is here now: "cpu", "cuda", or "cuda?": there if it has one."""
    if device == "default":
        return "cuda?" if tensor.is_cuda else "cpu"
    return device


def arriving(tensor: Any, where: str, name: str) -> Any:
    """A tensor as it came, brought to its destination. Raises RuntimeError if that is a GPU and there is none."""
    if where == "cpu":
        return to_host(tensor)
    if tensor.is_cuda or (where == "cuda?" and not sys.modules["torch"].cuda.is_available()):
        return tensor
    return tensor.to(_cuda(f"{name} brings its tensors to a GPU"))


def _cuda(what: str) -> Any:
    torch = sys.modules["torch"]
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"{what}, and torch {torch.__version__} finds none here; give the actor num_gpus=1, or write "
            "with_tensor_transport(device='cpu')"
        )
    return torch.device("cuda", torch.cuda.current_device())

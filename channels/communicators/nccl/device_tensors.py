"""What NCCL communicators accept: dense torch tensors on the device of the communicator."""

from __future__ import annotations

from typing import Any

from channels.communicators.tensors import DTYPES, Tensor, TensorSpec

__all__ = ["DeviceTensors"]


class DeviceTensors:
    """Checks tensors of one device, and makes them."""

    def __init__(self, torch: Any, device: int) -> None:
        self._torch = torch
        self._index = device
        self._device = torch.device("cuda", device)
        self._codes = {getattr(torch, name): code for code, name in enumerate(DTYPES)}

    def readable(self, tensor: Tensor) -> tuple[Any, int]:
        """(contiguous tensor, code of its dtype). The copy, if there is one, is made on the current stream.

        Raises TypeError.
        """
        code = self.code(tensor)
        return tensor.detach().resolve_neg().contiguous(), code

    def writable(self, into: Tensor | TensorSpec, what: str) -> tuple[Any, int]:
        """(tensor, code of its dtype): the one given, or a new one of that spec; `what` names it in errors.

        Raises TypeError, or ValueError if it is not contiguous.
        """
        if isinstance(into, TensorSpec):
            if into.library != "torch":
                raise TypeError(
                    f"{what} is {into}; NCCL makes torch tensors: pass TensorSpec(shape, dtype, library='torch')"
                )
            dtype = getattr(self._torch, into.dtype)
            return self._torch.empty(into.shape, dtype=dtype, device=self._device), DTYPES.index(into.dtype)
        code = self.code(into)
        if not into.is_contiguous() or into.is_neg():
            raise ValueError(
                f"{what} has strides {into.stride()} for shape {tuple(into.shape)}; expected a contiguous tensor: pass "
                f"{what}.contiguous() and copy from it"
            )
        return into, code

    def result(self, out: Tensor | None, like: Any, shape: tuple[int, ...]) -> Any:
        """`out`, or a new tensor of that shape and the dtype of `like`. Raises ValueError if `out` does not fit."""
        if out is None:
            return self._torch.empty(shape, dtype=like.dtype, device=like.device)
        found, _ = self.writable(out, "out")
        if found.dtype != like.dtype or tuple(found.shape) != shape:
            raise ValueError(
                f"out is {found.dtype} {tuple(found.shape)}; expected {like.dtype} {shape}, which the result has"
            )
        return found

    def code(self, tensor: Tensor) -> int:
        """The code of its dtype. Raises TypeError for what no operation takes."""
        torch = self._torch
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(
                f"expected a torch tensor on cuda:{self._index}, found {type(tensor).__name__}: pass "
                f"torch.as_tensor(x, device='cuda:{self._index}'), or use the transport shm or gloo on the host"
            )
        if not tensor.is_cuda or tensor.device.index != self._index or tensor.layout is not torch.strided:
            raise TypeError(
                f"a tensor with layout {tensor.layout} on {tensor.device}; expected a dense one on cuda:{self._index}, "
                f"the device of this communicator: pass tensor.to('cuda:{self._index}')"
            )
        code = self._codes.get(tensor.dtype)
        if code is None:
            raise TypeError(f"a tensor of dtype {tensor.dtype}; expected one of {', '.join(DTYPES)}")
        return code

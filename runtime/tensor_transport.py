"""TensorTransport: what a user says of how the tensors of one value travel, `node.with_tensor_transport(...)`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from channels.communicators import TensorSpec, Transport
from runtime.errors import GraphError

__all__ = ["DEVICES", "TRANSPORTS", "TensorTransport"]

#: "auto": GPU to GPU by NCCL where both ends have one, else through shared memory.
TRANSPORTS = ("auto", "shm", "nccl", "gloo")
#: Where tensors are at the reader. "default": where they were, if the reader has such a device.
DEVICES = ("default", "cpu", "cuda")


@dataclass(frozen=True)
class TensorTransport:
    """How the tensors in a value travel. Prints as the graph's text shows it."""

    transport: str | Transport = "auto"
    device: str = "default"
    #: The value is one tensor of this shape and dtype, in every execution.
    spec: TensorSpec | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.transport, Transport) and self.transport not in TRANSPORTS:
            raise _refused("transport", self.transport, f"a Transport, or one of {', '.join(TRANSPORTS)}")
        if not re.fullmatch(r"\w+", self.name) or self.name == "local":
            raise _refused("transport", self.transport, "a Transport whose name is a word, and not 'local'")
        if self.device not in DEVICES:
            raise _refused("device", self.device, f"one of {', '.join(DEVICES)}")
        if self.spec is not None and not isinstance(self.spec, TensorSpec):
            raise _refused("spec", self.spec, "a TensorSpec, as TensorSpec((8, 4096), torch.bfloat16)")
        if self.device == "cpu" and self.name == "nccl":
            raise GraphError(
                "with_tensor_transport(transport='nccl', device='cpu'): NCCL moves tensors from GPU to GPU; for "
                "tensors on the CPU write transport='shm', or 'gloo' across machines"
            )
        if self.name == "nccl" and self.spec is not None and self.spec.library != "torch":
            raise GraphError(
                f"with_tensor_transport(transport='nccl', spec={self.spec}): NCCL moves torch tensors; write "
                "TensorSpec(shape, torch.float32), or TensorSpec(shape, dtype, library='torch')"
            )

    @property
    def name(self) -> str:
        """The name of the transport."""
        return self.transport if isinstance(self.transport, str) else self.transport.name

    def __str__(self) -> str:
        spec = "" if self.spec is None else f" {self.spec}"
        return f"{self.name}{'' if self.device == 'default' else f' to {self.device}'}{spec}"


def _refused(option: str, found: Any, expected: str) -> GraphError:
    return GraphError(f"with_tensor_transport({option}={found!r}); expected {expected}")

"""TensorPath: how the tensors in the messages of a channel travel, seen from one of its ends."""

from __future__ import annotations

from dataclasses import dataclass

from channels.communicators.tensors import TensorSpec

__all__ = ["TensorPath"]


@dataclass(frozen=True)
class TensorPath:
    """Beside the channel's messages, or in them."""

    #: The name of the communicator that tensors travel by; None: in the messages.
    communicator: str | None = None
    #: Ranks in it: of the readers, at the writer; of the writer, at a reader.
    peers: tuple[int, ...] = ()
    #: Where tensors are at the reader: "default", "cpu" or "cuda".
    device: str = "default"
    #: Each message is one tensor of this shape and dtype.
    spec: TensorSpec | None = None

    def __str__(self) -> str:
        way = "" if self.communicator is None else f" by {self.communicator} with {', '.join(map(str, self.peers))}"
        device = "" if self.device == "default" else f" to {self.device}"
        return f"tensors{'' if self.spec is None else f' {self.spec}'}{way}{device}"

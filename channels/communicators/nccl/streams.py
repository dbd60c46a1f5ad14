"""The streams on which NCCL works, and how they keep in step with the program's own.

A communicator has up to three streams of its own: for sends, for receives, for operations of all ranks. An operation

    1. waits, on the device, for what the calling thread's current stream has been given so far (`ready`);
    2. runs on our stream;
    3. is followed by an event (`done`), which the current stream waits for, when the result is wanted.

The host waits for nothing, and the program needs no synchronisation: results are there in the order of its stream.
As long as the current stream is not made to wait (`isend`, `irecv`), what it is given next runs at the same time.

Memory: torch's caching allocator gives a freed block to the next tensor of the same stream at once, without asking the
device. A tensor that our stream still reads or writes must therefore be marked (`record_stream`): then its block is
given back only when our stream has passed this point.

NCCL runs the operations of one communicator one after the other, in the order of the calls, also on different streams
(NVIDIA/nccl#592). So the streams let communication overlap with computation; they do not let one rank receive before it
has sent what it was told to send first. Streams that all communicators of a device share were rejected: two programs
that use one communicator each, in orders that differ from rank to rank, would wait for each other for ever. (torch has
32 streams a device, and gives them out again after that. Who makes more communicators should expect just this.)

Not for CUDA graphs: a capture would record the waits for events of other streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["COLLECTIVE", "RECV", "SEND", "Streams"]

SEND, RECV, COLLECTIVE = "send", "recv", "collective"


class Streams:
    """The streams of one communicator on a device."""

    def __init__(self, torch: Any, device: int) -> None:
        self._torch = torch
        self.device = device
        #: Made when they are needed: torch does not have many.
        self._streams: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._streams:
            self._streams[name] = self._torch.cuda.Stream(device=self.device)
        return self._streams[name]

    def launch(self, names: Sequence[str], tensors: Sequence[Any], call: Callable[..., None]) -> Any:
        """Make `call(handle of each stream)` after what the current stream has been given; the event of its end.

        `tensors`: whatever the call reads or writes. The device must be the current one.
        """
        current = self._torch.cuda.current_stream(self.device)
        streams = [self[name] for name in names]
        ready = self._torch.cuda.Event()
        ready.record(current)
        for stream in streams:
            stream.wait_event(ready)
        for tensor in tensors:  # before the call: if it fails halfway, what it has launched still uses them
            for stream in streams:
                tensor.record_stream(stream)
        call(*[stream.cuda_stream for stream in streams])
        # All streams of one call end together: NCCL lets each wait for the whole of it.
        done = self._torch.cuda.Event()
        done.record(streams[0])
        return done

    def follow(self, done: Any) -> None:
        """Let the current stream wait, on the device, for an event."""
        self._torch.cuda.current_stream(self.device).wait_event(done)

"""ThreadSettings: what torch keeps for each thread and a constructor may have set, for the other threads of an actor.

A compiled graph runs an actor's methods in a thread of its own. A constructor that chose a GPU, or switched gradients
off, meant the actor and not the thread that happened to run it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

__all__ = ["ThreadSettings"]


@dataclass(frozen=True)
class ThreadSettings:
    """Of torch, if it was imported. The defaults are those of a new thread."""

    grad: bool = True
    inference: bool = False
    #: The current GPU; None: CUDA was not used yet.
    device: int | None = None

    @staticmethod
    def here() -> ThreadSettings:
        """Those of the calling thread."""
        torch = sys.modules.get("torch")
        if torch is None or not hasattr(torch, "is_grad_enabled"):  # a module that is being imported is there already
            return ThreadSettings()
        inference = torch.is_inference_mode_enabled()
        device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        # In inference mode there are no gradients either, which is not a setting of its own.
        return ThreadSettings(inference or torch.is_grad_enabled(), inference, device)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The calling thread has them inside."""
        if self == ThreadSettings():
            yield
            return
        torch = sys.modules["torch"]
        with ExitStack() as stack:
            if self.device is not None:
                stack.enter_context(torch.cuda.device(self.device))
            if not self.grad:
                stack.enter_context(torch.no_grad())
            if self.inference:
                stack.enter_context(torch.inference_mode())
            yield

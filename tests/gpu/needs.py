"""What these tests need of a machine."""

from __future__ import annotations

import importlib
import importlib.util

from channels.communicators.nccl.cuda import load_nccl

__all__ = ["missing"]


def missing(gpus: int) -> str:
    """What of it there is not; nothing if all is there."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    torch = importlib.import_module("torch")
    if torch.cuda.device_count() < gpus:
        return f"needs {gpus} GPUs, and torch {torch.__version__} finds {torch.cuda.device_count()}"
    try:
        load_nccl()
    except ImportError as error:
        return str(error)
    return ""

"""GPUs, where there are any: the examples run on them unchanged, and on CPUs without them."""

import math

import torch

__all__ = ["device_here", "gpus_each", "settle"]


def device_here() -> torch.device:
    """Where this process computes: on the current GPU if it sees one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def gpus_each(actors: int) -> float:
    """`num_gpus` of each of so many actors: a GPU of its own, a share of one if there are fewer, 0 without any."""
    gpus = torch.cuda.device_count()
    return 1 / math.ceil(actors / gpus) if gpus else 0


def settle(device: torch.device) -> None:
    """Wait for what the device was given: only then does a clock say how long it took."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

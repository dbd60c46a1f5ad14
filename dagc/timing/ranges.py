"""in_range: a call marked as a range, so that NVIDIA's Nsight Systems shows it under its name beside the GPU's work.

With the package nvtx, which does nothing while no tool listens: 0.2 us a call. A range of torch.cuda.nvtx would need a
CUDA build of torch even to be ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dagc.errors import GraphError

try:
    import nvtx
except ImportError:
    nvtx = None

__all__ = ["check_ranges", "in_range"]


def check_ranges() -> None:
    """Raise GraphError if ranges cannot be marked in this process."""
    if nvtx is None:
        raise GraphError("trace='nvtx' marks ranges with the package nvtx, which is not here: pip install nvtx")


def in_range(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, as a range of this name. Raises GraphError without the package nvtx."""
    check_ranges()
    domain = nvtx.get_domain("dagc")
    attributes = domain.get_event_attributes(message=name)

    def marked(*args: Any, **kwargs: Any) -> Any:
        domain.push_range(attributes)
        try:
            return function(*args, **kwargs)
        finally:
            domain.pop_range()

    return marked

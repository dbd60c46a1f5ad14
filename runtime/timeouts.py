"""What may be said as a timeout."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.errors import WrongArgumentsError

__all__ = ["check_timeout"]


def check_timeout(timeout: Any, *, for_ever: bool = True) -> None:
    """Raises WrongArgumentsError unless it is a number of seconds, 0 or more; None, for ever, only if that may be."""
    if timeout is None and for_ever:
        return
    # nan is not above 0 either.
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float, np.number)) or not timeout >= 0:
        or_none = ", or None to wait for ever" if for_ever else ""
        raise WrongArgumentsError(f"timeout={timeout!r}; expected a number of seconds, 0 or more{or_none}")

"""Every engine does what runtime/engine.py says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runtime.embedded.engine import EmbeddedEngine
from runtime.engine import Engine
from runtime.testing import ThreadEngine, check_engine


@pytest.mark.parametrize("start", [ThreadEngine.start, EmbeddedEngine.start], ids=["threads", "embedded"])
def test_engine(start: Callable[[], Engine]) -> None:
    check_engine(start)

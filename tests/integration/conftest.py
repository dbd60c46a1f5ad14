"""Fixtures that several integration tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a module's tests keep converted models."""
    return tmp_path_factory.mktemp("cache")

"""Every transport keeps every rule of `channels.base`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from channels import Alarm, ChannelSpec, Reader, create_channel, open_reader
from channels.testing import CHECKS, Subject, check_channel


@pytest.mark.parametrize("transport", ["local", "shm"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_channel(check: Callable[[Subject], None], transport: str) -> None:
    subject = Subject(create_channel, transport=transport)
    try:
        check(subject)
    finally:
        subject.clean()


def test_the_suite_runs_as_a_whole() -> None:
    check_channel(create_channel, transport="local")


def test_the_suite_refuses_a_channel_that_breaks_a_rule() -> None:
    class Lossy(Reader):
        """Gives None for every value."""

        def __init__(self, spec: ChannelSpec, index: int) -> None:
            self.inner = open_reader(spec, index)

        def read(self, execution: int, timeout: float | None = None) -> None:
            self.inner.read(execution, timeout)

        def ready(self) -> bool:
            return self.inner.ready()

        def arm(self, alarm: Alarm | None = None, /) -> bool:
            return self.inner.arm(alarm)

        def close(self) -> None:
            self.inner.close()

    with pytest.raises(AssertionError):
        check_channel(create_channel, open_reader=Lossy, transport="local")

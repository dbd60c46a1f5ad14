"""Every communicator keeps every rule of `channels.communicators.base`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from channels.communicators import Communicator, ReduceOp, ShmTransport, Tensor, Transport
from channels.communicators.shm import ShmCommunicator
from channels.testing_communicators import (
    CHECKS,
    WORLD_SIZE,
    Party,
    ProcessParty,
    Subject,
    ThreadParty,
    check_communicator,
)


@pytest.fixture(scope="module", params=[ProcessParty, ThreadParty], ids=["processes", "threads"])
def parties(request: pytest.FixtureRequest) -> Iterator[Sequence[Party]]:
    """Where the ranks are; they stay for all checks."""
    made = [request.param() for _ in range(WORLD_SIZE)]
    yield made
    for party in made:
        party.close()


@pytest.mark.parametrize("transport", [ShmTransport()], ids=lambda transport: transport.name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_communicator(check: Callable[[Subject], None], transport: Transport, parties: Sequence[Party]) -> None:
    check(Subject(transport, parties))


class Careless(ShmCommunicator):
    """Takes the maximum where the sum is asked for."""

    def allreduce(
        self,
        tensor: Tensor,
        op: ReduceOp | str = ReduceOp.SUM,
        out: Tensor | None = None,
        timeout: float | None = None,
    ) -> Tensor:
        return super().allreduce(tensor, ReduceOp.MAX if op is ReduceOp.SUM else op, out, timeout)


class CarelessTransport(ShmTransport):
    def join(self, *args: Any) -> Communicator:  # type: ignore[override]
        made = super().join(*args)
        made.__class__ = Careless
        return made


def test_the_suite_refuses_a_communicator_that_breaks_a_rule() -> None:
    with pytest.raises(AssertionError, match="allreduce sum of"):
        check_communicator(CarelessTransport(), ThreadParty, largest=2)


class Deaf(ShmCommunicator):
    """Does not hear a reason."""

    def abort(self, reason: str) -> None:
        super().abort("something")


class DeafTransport(ShmTransport):
    def join(self, *args: Any) -> Communicator:  # type: ignore[override]
        made = super().join(*args)
        made.__class__ = Deaf
        return made


def test_each_check_stands_alone() -> None:
    (check,) = (check for check in CHECKS if check.__name__ == "abort_of_a_member_reaches_every_rank_with_its_reason")
    with pytest.raises(AssertionError):
        check(Subject(DeafTransport(), [ThreadParty() for _ in range(2)]))

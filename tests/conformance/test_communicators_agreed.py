"""The contract of communicators, kept by a transport whose ranks agree before they begin.

Both halves are shared memory here, so whatever is wrong is wrong with the agreement; over NCCL the checks of mismatches
are in test_communicators_nccl.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from channels.communicators import AgreedTransport, ShmTransport
from channels.testing_communicators import CHECKS, Party, Subject, ThreadParty


@pytest.fixture(scope="module")
def parties() -> Iterator[Sequence[Party]]:
    made = [ThreadParty() for _ in range(4)]
    yield made
    for party in made:
        party.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_communicator(check: Callable[[Subject], None], parties: Sequence[Party]) -> None:
    check(Subject(AgreedTransport(ShmTransport()), parties))


@pytest.mark.parametrize("group_id", [b"", b"\xff\xff\xff\xffx"])
def test_an_id_of_another_transport_is_refused(group_id: bytes) -> None:
    with pytest.raises(ValueError, match="not of an AgreedTransport"):
        AgreedTransport(ShmTransport()).join(group_id, 0, 1)

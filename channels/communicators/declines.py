"""Why a rank declined, told to all: the second half of a mismatch in which somebody did.

Every rank has the same requests before it then, so all know who declined, and that the lowest of them now says why: the
length of it, then its bytes, by two broadcasts of the same group. All take part, also the others that declined. The
rejected alternative, bytes along with the request, needs room in every request for what is hardly ever sent.
"""

from __future__ import annotations

import numpy as np

from channels.communicators.base import Communicator
from channels.communicators.tensors import TensorSpec
from channels.errors import ChannelBroken, ChannelClosed, MismatchError

__all__ = ["with_cause"]

#: Seconds that a rank may take to say or to hear it, where the operation had a timeout: what is left of that may be
#: nothing, and all have come already.
_ANSWER_S = 10.0


def with_cause(communicator: Communicator, error: MismatchError, cause: bytes, timeout: float | None) -> MismatchError:
    """The error with what the lowest of `error.declined` gave; as it is if nobody declined.

    `communicator` reaches all ranks of the operation that has just failed with `error`, and each of them calls this.
    `cause` is this rank's, if it declined. Raises what a broadcast raises; then the group is broken.
    """
    if not error.declined:
        return error
    root = min(error.declined)
    patience = None if timeout is None else _ANSWER_S
    try:
        if communicator.rank == root:
            communicator.broadcast(np.array([len(cause)], np.int64), root, patience)
            if cause:
                communicator.broadcast(_words(cause), root, patience)
            error.cause = cause
            return error
        size = int(communicator.broadcast(TensorSpec((1,), "int64"), root, patience)[0])
        if size:
            words = communicator.broadcast(TensorSpec((-(-size // 4),), "int32"), root, patience)
            error.cause = words.tobytes()[:size]
        return error
    except (ChannelBroken, ChannelClosed, TimeoutError):
        raise
    except BaseException as failed:
        # No memory for it, or Ctrl-C between the two: the others wait for this rank.
        communicator.abort(f"rank {communicator.rank} failed while rank {root} said why it declined: {failed!r}")
        raise


def _words(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Communicators know no bytes."""
    return np.frombuffer(data.ljust(-(-len(data) // 4) * 4, b"\0"), np.int32)

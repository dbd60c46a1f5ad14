"""Every error that dagc raises on purpose, importable from `dagc`.

    DagcError
    ├── GraphError (also a ValueError)        a graph, a call or an option was refused; nothing was started
    │   ├── NoSuchMethodError                 (also an AttributeError) there is no such method
    │   ├── WrongArgumentsError               (also a TypeError) the arguments do not fit the method's signature
    │   ├── InputPartError                    (also an AttributeError) only the arguments of execute can be picked
    │   └── DeadlockError                     the plan cannot finish; the message shows where each party waits
    ├── GraphClosedError                      the graph was torn down, by you or because an actor died
    ├── ResultLostError                       Ctrl-C came at the very moment at which the result was received
    ├── EngineError (also a RuntimeError)     the runtime is not started, started twice, or shut down
    ├── ActorDiedError(actor, pid, reason)    the process or thread of an actor is gone
    ├── GetTimeoutError (also a TimeoutError) a result did not come in time; it may be got again
    ├── ChannelError
    │   ├── ChannelClosed                     an end was closed in an orderly way
    │   ├── ChannelBroken                     the world did it: a peer died, memory is not a channel
    │   ├── ChannelTimeout                    (also a TimeoutError) a channel lost nothing; a communicator is broken
    │   └── MessageTooLargeError              (also a ValueError) the value exceeds max_message_bytes; nothing was sent
    ├── CommunicatorError
    │   └── MismatchError (also a ValueError) the ranks of a collective had different things; the graph goes on
    ├── SerializationError (also a TypeError) the value cannot leave its process; nothing was sent
    └── ArenaFullError (also a MemoryError)   the shared memory of this process cannot grow

An exception of the user's method is not in the tree: it is raised with its own type, the remote traceback as its cause.
"""

from __future__ import annotations

from channels.errors import (
    ArenaFullError,
    ChannelBroken,
    ChannelClosed,
    ChannelError,
    ChannelTimeout,
    CommunicatorError,
    DagcError,
    MessageTooLargeError,
    MismatchError,
    SerializationError,
)
from runtime.errors import (
    ActorDiedError,
    EngineError,
    GetTimeoutError,
    GraphError,
    NoSuchMethodError,
    WrongArgumentsError,
)

__all__ = [
    "ActorDiedError",
    "ArenaFullError",
    "ChannelBroken",
    "ChannelClosed",
    "ChannelError",
    "ChannelTimeout",
    "CommunicatorError",
    "DagcError",
    "DeadlockError",
    "EngineError",
    "GetTimeoutError",
    "GraphClosedError",
    "GraphError",
    "InputPartError",
    "MessageTooLargeError",
    "MismatchError",
    "NoSuchMethodError",
    "ResultLostError",
    "SerializationError",
    "WrongArgumentsError",
]


class InputPartError(GraphError, AttributeError):
    """Not a part of the input. Also an AttributeError, so that `hasattr` and tools that look around objects work."""


class DeadlockError(GraphError):
    """The plan cannot finish an execution. The message shows who waits for whom, and the schedule with the place."""


class GraphClosedError(DagcError):
    """The compiled graph was torn down: no execution can be started on it any more."""


class ResultLostError(DagcError):
    """An interrupt came between receiving a result and handing it over. The execution was made; the graph goes on."""

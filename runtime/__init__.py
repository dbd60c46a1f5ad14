"""runtime: dynamic actors and tasks. A call costs a message; where the graph is static, dagc compiles it instead.

@remote
class Counter: ...                   an actor: a process with an instance, whose methods are called one at a time

counter = Counter.remote()
get(counter.add.remote(1))

@remote
def square(x): ...                   a task: runs in one of a few worker processes that are kept for the next call

get([square.remote(x) for x in range(10)])
get(square.remote(square.remote(2)))  a ref as an argument is replaced by its value
"""

from runtime.calls import ActorHandle, method
from runtime.functions import RemoteFunction
from runtime.refs import ObjectRef
from runtime.remote import ActorClass, remote
from runtime.session import get, init, kill, put, shutdown, wait

__all__ = [
    "ActorClass",
    "ActorHandle",
    "ObjectRef",
    "RemoteFunction",
    "get",
    "init",
    "kill",
    "method",
    "put",
    "remote",
    "shutdown",
    "wait",
]

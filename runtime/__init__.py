"""runtime: dynamic actors. A call costs a message; where the graph is static, dagc compiles it instead.

@remote
class Counter: ...

counter = Counter.remote()
get(counter.add.remote(1))
"""

from runtime.calls import ActorHandle, method
from runtime.refs import ObjectRef
from runtime.remote import ActorClass, remote
from runtime.session import get, init, kill, put, shutdown, wait

__all__ = [
    "ActorClass",
    "ActorHandle",
    "ObjectRef",
    "get",
    "init",
    "kill",
    "method",
    "put",
    "remote",
    "shutdown",
    "wait",
]

"""dagc: a static-graph compiler for accelerated GPU DAGs.

@dagc.remote
class Stage:
    def forward(self, x): ...

stages = [Stage.remote() for _ in range(4)]
with dagc.InputNode() as x:
    for stage in stages:
        x = stage.forward.bind(x)
with dagc.compile(x) as graph:
    print(graph.execute(batch).get())
"""

from __future__ import annotations

from channels.communicators import Communicator, TensorSpec, Transport
from dagc.bind import InputNode, MultiOutputNode
from dagc.collectives import allgather, allreduce, broadcast, reducescatter
from dagc.compile import compile, plan  # noqa: A004 - the public name; reads like re.compile and torch.compile
from dagc.compiled import CompiledGraph
from dagc.dynamic import run
from dagc.errors import (
    ActorDiedError,
    ArenaFullError,
    ChannelBroken,
    ChannelClosed,
    ChannelError,
    ChannelTimeout,
    CommunicatorError,
    DagcError,
    DeadlockError,
    EngineError,
    GetTimeoutError,
    GraphClosedError,
    GraphError,
    MessageTooLargeError,
    MismatchError,
    NoSuchMethodError,
    ResultLostError,
    SerializationError,
    WrongArgumentsError,
)
from dagc.plan import Plan
from dagc.prediction.partition import partition
from dagc.prediction.predict import Prediction, predict
from dagc.refs import ResultRef
from dagc.session import get, shutdown
from dagc.statistics import GraphStatistics
from dagc.timing.costs import Costs, RunCost
from dagc.timing.trace import Figures, Trace
from runtime import ActorHandle, ObjectRef, RemoteFunction, init, kill, method, put, remote, wait

__all__ = [
    "ActorDiedError",
    "ActorHandle",
    "ArenaFullError",
    "ChannelBroken",
    "ChannelClosed",
    "ChannelError",
    "ChannelTimeout",
    "Communicator",
    "CommunicatorError",
    "CompiledGraph",
    "Costs",
    "DagcError",
    "DeadlockError",
    "EngineError",
    "Figures",
    "GetTimeoutError",
    "GraphClosedError",
    "GraphError",
    "GraphStatistics",
    "InputNode",
    "MessageTooLargeError",
    "MismatchError",
    "MultiOutputNode",
    "NoSuchMethodError",
    "ObjectRef",
    "Plan",
    "Prediction",
    "RemoteFunction",
    "ResultLostError",
    "ResultRef",
    "RunCost",
    "SerializationError",
    "TensorSpec",
    "Trace",
    "Transport",
    "WrongArgumentsError",
    "allgather",
    "allreduce",
    "broadcast",
    "compile",
    "get",
    "init",
    "kill",
    "method",
    "partition",
    "plan",
    "predict",
    "put",
    "reducescatter",
    "remote",
    "run",
    "shutdown",
    "wait",
]

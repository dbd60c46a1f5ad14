"""choose_transports: how each edge goes from its writer to its reader; choose_groups: and how collectives go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from channels.communicators import Transport, transport
from dagc.errors import GraphError
from dagc.graph import DRIVER, Graph, Group
from dagc.passes.channels import BUFFERED

if TYPE_CHECKING:
    from dagc.passes.edges import Edge
    from dagc.placement import Placement
    from dagc.plan import Channel
    from runtime.tensor_transport import TensorTransport

__all__ = ["choose_groups", "choose_transports", "is_received_early", "transport_of"]


def choose_transports(
    edges: Iterable[Edge], placement: Placement, said: Mapping[str, TensorTransport] | None = None
) -> Mapping[Edge, str]:
    """Per edge: "local" between parties of one process, else what its user said of the value, else "shm".

    `said`: value -> how its tensors travel. "auto" is "nccl" between GPUs and "shm" otherwise. What goes to or from the
    driver is "shm" in any case: `execute` may not wait until an actor comes to receive.

    Raises GraphError for an edge between two nodes, for "nccl" without a GPU at each end, and for device="cuda" without
    one at a reader that is an actor; what the driver has, its torch tells when it receives.
    """
    return {edge: _choose(edge, placement, (said or {}).get(edge.value)) for edge in edges}


def choose_groups(graph: Graph, placement: Placement) -> Graph:
    """The graph with a transport for each collective that left it to us: "nccl" if each rank has a GPU of its own, else
    "shm".

    Raises GraphError for a collective of shared memory between two nodes, and for "nccl" without a GPU for each rank.
    """
    groups = {name: _choose_group(name, group, placement) for name, group in graph.groups.items()}
    return replace(graph, groups=groups) if groups else graph


def is_received_early(channel: Channel, graph: Graph) -> bool:
    """Whether a receive may begin before the head of its message is there: a spec says what it will be, and the
    transport receives while the actor computes."""
    said = graph.transports.get(channel.value)
    if channel.transport in BUFFERED or said is None or said.spec is None:
        return False
    used = transport_of(channel, graph)
    return (transport(used) if isinstance(used, str) else used).asynchronous


def transport_of(channel: Channel, graph: Graph) -> str | Transport:
    """Of a channel whose tensors go by a communicator: the Transport that its user passed, or the name of one."""
    said = graph.transports[channel.value].transport
    return channel.transport if isinstance(said, str) else said


def _choose_group(name: str, group: Group, placement: Placement) -> Group:
    lacking = _without_gpu(group.members, placement)
    if group.transport == "nccl" and lacking:
        raise GraphError(f"{name} goes by NCCL, which needs a GPU of its own for each rank, but {lacking}")
    chosen = group.transport
    if chosen == "auto":
        chosen = "shm" if lacking else "nccl"
    if chosen == "shm":
        first, *others = group.members
        for other in others:
            if placement[other].node != placement[first].node:
                raise GraphError(
                    f"{name} is between {first} on node {placement[first].node} and {other} on node "
                    f"{placement[other].node}; shared memory does not reach so far: start its actors on one node, or "
                    'write transport="gloo"'
                )
    return replace(group, transport=chosen)


def _choose(edge: Edge, placement: Placement, said: TensorTransport | None) -> str:
    source, target = placement[edge.writer], placement[edge.reader]
    if source.node != target.node:
        raise GraphError(
            f"{edge.value} goes from {edge.writer} on node {source.node} to {edge.reader} on node {target.node}; this "
            "version compiles graphs of one node: start all their actors, and compile, on the same one"
        )
    if source.pid == target.pid:
        return "local"
    # Of a worker that was not started yet, whose pid is made up, nothing is known.
    if said is not None and said.device == "cuda" and edge.reader != DRIVER and not target.gpus and target.pid > 0:
        raise GraphError(
            f"{edge.value} goes from {edge.writer} to {edge.reader} with device='cuda', but {edge.reader} has no GPU; "
            "give it num_gpus=1, or write device='default', which has tensors on the CPU where there is no GPU"
        )
    if said is None or said.name == "shm" or DRIVER in (edge.writer, edge.reader):
        return "shm"
    if said.name not in ("auto", "nccl"):
        return said.name
    lacking = _without_gpu((edge.writer, edge.reader), placement)
    if not lacking:
        # What shall be on the CPU needs no GPU to receive it.
        arrays = said.spec is not None and said.spec.library == "numpy"
        return "shm" if said.device == "cpu" or arrays else "nccl"
    if said.name == "auto":
        return "shm"
    raise GraphError(
        f"{edge.value} goes from {edge.writer} to {edge.reader} by NCCL, which needs a GPU of its own at each end, "
        f"but {lacking}; write with_tensor_transport('auto'), which takes shared memory there, or give the actors "
        "num_gpus=1"
    )


def _without_gpu(parties: Sequence[str], placement: Placement) -> str:
    """Why not each of the parties has a GPU of its own, which NCCL asks for; or nothing."""
    taken: dict[int, str] = {}
    for party in parties:
        gpus = placement[party].gpus
        if not gpus:
            return f"{party} has none"
        # A communicator is of one GPU; it is the first that torch shows, unless the actor has set another one.
        if gpus[0] in taken:
            return f"{taken[gpus[0]]} and {party} share GPU {gpus[0]}"
        taken[gpus[0]] = party
    return ""

"""Communicators over NCCL: torch CUDA tensors between GPUs. Needs CuPy and a CUDA build of torch.

    group = NcclTransport().create(world_size=2)                in any process with libnccl; it needs no GPU
    comm = NcclTransport().join(group.id, rank, world_size=2)   on each GPU; one device a communicator
    total = comm.allreduce(gradient)                            returns at once; the result is there in stream order
    work = comm.irecv([spec], 1)                                the current stream goes on with other work
    (activation,) = work.wait()                                 and from here on behind what is received
    comm.synchronize()                                          the host waits; raises what went wrong

**What has been run.** Everything here runs in CI against a fake of CuPy's binding and of torch's streams
(`tests/fakes_nccl`) that moves real bytes between real processes. It has not yet been run on a GPU: `tests/gpu` is for
that. What is said about NCCL is from its documentation, its issues and CuPy's wheels, as cited here, in
`cuda` and in `handle`.

**Order.** Operations are launched on our own streams and tied to the current stream of the calling thread by events
(`streams`); no call waits for the device. All ranks must call operations of all in the same
order, and sends and receives in an order in which they meet if every rank makes one after the other: NCCL runs the
operations of a communicator one by one, whatever their streams. `exchange` is a send and a receive at once. Nothing
compares what the ranks ask for (`checks_requests` is false): ranks that disagree wait until somebody's timeout.

**Errors come later.** A call that returns has launched its operation. What goes wrong with it afterwards (a timeout, a
dead rank, an abort) is raised by the next operation, by `check` or by `synchronize`, and the tensors that it should
have filled hold anything. A timeout counts from the call; work that the current stream still has to do is part of it.

**The end.** `abort` stops what runs on every rank's device, at once (`ncclCommAbort`, by each rank's watchdog).
`destroy` says that this rank takes part no more; what its operations still need is given to the others, and NCCL's
memory is given back when the last rank has left (`ncclCommDestroy`, which all must call). If neither comes back within
5 s, `stuck` is true and the process should be ended. A group that broke is never repaired: make another one.

**The host.** The first send between two ranks makes NCCL connect them, and the call waits for the other rank
(NVIDIA/nccl#783), on a blocking communicator without any limit. `join` therefore connects every two ranks beforehand,
in a thread that it waits for with its timeout (`connect_peers`). Should a call wait in NCCL all the same, the watchdog
aborts the communicator at the deadline, which lets it return.
"""

from __future__ import annotations

from channels.communicators.nccl.communicator import NcclCommunicator, NcclWork
from channels.communicators.nccl.transport import MAX_WORLD_SIZE, NcclGroup, NcclTransport

__all__ = ["MAX_WORLD_SIZE", "NcclCommunicator", "NcclGroup", "NcclTransport", "NcclWork"]

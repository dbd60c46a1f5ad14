"""Communicators over gloo: CPU tensors between processes, also of several machines. Needs torch.

    GlooTransport()                     ranks of this machine: gloo binds to loopback, and nothing else listens
    GlooTransport(host="10.0.0.1")      ranks of several machines; the creator's machine is reached by this address

A group has a coordinator in the process that made it (`channels.communicators.coordination`): ranks join there, and
hear there why the group broke, who left and who died. The tensors go between the ranks themselves, over gloo.

Only gloo's sends and receives are used; the collectives are made of them (`direct`). Its own
were rejected: they have no average, their order of summation depends on the size, nothing ends one that waits, and
ranks that ask for different sizes end the process (an exception in gloo's I/O thread). With sends and receives the
rules of shared memory hold, to the bit: every operation begins with a request of each rank to each other one, which
carries small tensors along, so a mismatch is found before a byte is changed; and the reductions are the same loops.

What is weaker than in shared memory: gloo itself listens on a port for the connections of its ranks, on loopback or on
the rank's address. Whoever may connect there and guesses the numbers that gloo expects can take the place of a rank. It
parses nothing but tensors there; all the same, do not let a group cross a network that is not yours.

`timeout` bounds how long the other ranks may take to come. When all have come, a rank that moves nothing for STALL_S
breaks the group. `abort` travels through the coordinator: it wakes the ranks of a machine within milliseconds. So does
the death of a process; a machine that vanishes is noticed by timeouts, or by TCP.
"""

from __future__ import annotations

from channels.communicators.gloo.communicator import GlooCommunicator
from channels.communicators.gloo.transport import MAX_WORLD_SIZE, GlooGroup, GlooTransport

__all__ = ["MAX_WORLD_SIZE", "GlooCommunicator", "GlooGroup", "GlooTransport"]

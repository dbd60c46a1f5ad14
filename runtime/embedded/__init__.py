"""The engine of one machine: actors are processes of their own, which a head in the driver's process keeps in order.

Before gRPC is imported: its handlers of fork are switched off, unless somebody has switched them on. They stop gRPC's
threads around a fork, for children that go on to use gRPC themselves; ours never do, and with our threads in the middle
of calls the children of a plain fork crashed, as those of multiprocessing and of torch's DataLoader are.

Nor does it write what is no error: at a shutdown under load it told on stderr that a server had said goodbye.
"""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

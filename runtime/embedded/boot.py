"""The first lines of a worker process, run as a script: `python boot.py <session folder> <actor id> <driver's pid>`.

Only the standard library is imported until the process is bound to its driver's life and has the driver's sys.path.
The rest of what it must know comes as JSON on standard input, whose length no argument list limits.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    folder, actor, driver = sys.argv[1], sys.argv[2], int(sys.argv[3])
    # The kernel kills this process when the thread that spawned it ends: that is the driver's permanent spawner thread.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"dagc worker: prctl failed: {os.strerror(ctypes.get_errno())}")
    # It died before the line above. Compared with its pid, not with 1: a subreaper may adopt orphans.
    if os.getppid() != driver:
        os._exit(1)
    # Ctrl-C in a terminal reaches the whole foreground group; the driver decides what ends. SIGINT was blocked
    # by the spawner until this line, so that it cannot hit a worker that is just starting.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    import json  # after the death signal: the first thing that takes time

    launch = json.load(sys.stdin)
    sys.path[:] = launch["sys_path"]

    from runtime.embedded import worker  # found through the driver's sys.path, which only now is known

    worker.main(folder, actor, launch["marker"], launch["preload"])


if __name__ == "__main__":  # else it is imported as `__mp_main__`, by a child that an actor's multiprocessing spawns
    main()

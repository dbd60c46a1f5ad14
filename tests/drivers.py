"""Scripts that a test runs as drivers of their own: they may end their process, leave it without a thread, or hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from runtime.embedded.folder import base_folder, sweep

__all__ = ["run", "said"]

_ROOT = Path(__file__).parents[1]
#: A watchdog: whoever needs this many seconds hangs.
_LIMIT = 60.0
_PRELUDE = """
import contextlib, faulthandler, gc, os, resource, signal, sys, threading, time
import psutil
import dagc, runtime
from runtime import current

HANG = 25  # a watchdog, in seconds; so is the next one, which says where it hangs
faulthandler.dump_traceback_later(50, exit=True)

@dagc.remote(num_cpus=0, max_concurrency=4)
class Actor:
    def __init__(self):
        self.opened = threading.Event()

    def echo(self, value, after=None):
        return value

    def pass_gate(self, value):
        self.opened.wait()
        return value

    def open_gate(self):
        self.opened.set()

    def hang(self):
        threading.Event().wait()

def outcome(ref):
    try:
        return dagc.get(ref, timeout=HANG)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def children():
    return {child.pid for child in psutil.Process().children(recursive=True)}

came = []

def signalled(function, number):
    "In the middle of it, on the main thread, the signal comes; once, until `came` is cleared."
    def signals(*args, **kwargs):
        if threading.current_thread() is threading.main_thread() and not came:
            came.append(True)
            signal.raise_signal(number)
        return function(*args, **kwargs)
    return signals

@contextlib.contextmanager
def no_descriptor_left():
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    held = []
    with contextlib.suppress(OSError):
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    yield
    for descriptor in held:
        os.close(descriptor)
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `program` after the lines above, as a script in `folder`; it must end by itself, and with code 0."""
    script = folder / "script.py"
    script.write_text(_PRELUDE + program)
    # From Python 3.12 on a fork in a process with threads warns.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(script)]
    # gRPC tells, at the level of INFO, of a connection that the head closes a moment earlier than its other end.
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "GRPC_VERBOSITY": "ERROR"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=_LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # also what it has forked, which holds its pipes
            raise
        finally:
            sweep(base_folder())
    assert process.returncode == 0, f"{out}\n{err}"
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def said(program: str, folder: Path) -> str:
    """What such a script printed; it must not have complained."""
    done = run(program, folder)
    assert done.stderr == "", done.stderr
    return done.stdout

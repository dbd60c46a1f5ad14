"""A headless Chromium that a test drives over a pair of pipes: no port, no driver program, nothing left behind.

The protocol is Chrome DevTools' (https://chromedevtools.github.io/devtools-protocol/), a JSON object a message, with a
zero byte after each. Every answer has a deadline; the browser's process group is killed at the end whatever happened.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

__all__ = ["Browser", "executable", "open_browser"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
#: Of one answer. A cold start on a busy machine takes seconds.
_DEADLINE_S = 40.0
#: Where `--remote-debugging-pipe` reads and writes.
_READS, _WRITES = 3, 4


def executable() -> str | None:
    """The path of a Chromium, or None where there is none."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """One page of a running browser."""

    def __init__(self, to: int, from_: int, log: Path) -> None:
        self._to, self._from, self._log = to, from_, log
        self._received = b""
        self._number = 0
        self._session: str | None = None
        #: What the page said since `open`, by the protocol's names: requests, exceptions, messages of the console.
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """A command and its result. Raises RuntimeError for an error, TimeoutError, ConnectionError if it died."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._next(method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self, awaited: str) -> dict[str, Any]:
        deadline = time.monotonic() + _DEADLINE_S
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no answer to {awaited} within {_DEADLINE_S} s; {self._last_words()}")
            data = os.read(self._from, 1 << 20)
            if not data:
                raise ConnectionError(f"the browser ended during {awaited}; {self._last_words()}")
            self._received += data
        message, _, self._received = self._received.partition(b"\0")
        return dict(json.loads(message))

    def _last_words(self) -> str:
        return f"its log ends: {self._log.read_text(errors='replace')[-2000:]}"

    def screen(self, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
        """What the page takes for its window, in CSS pixels, and for its user's wish."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a file and wait until it has drawn itself. Events from before are forgotten."""
        # A change of the fragment alone would not load the page anew.
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=f"{path.as_uri()}{'#' if fragment else ''}{fragment}")
        self.evaluate(
            "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', () => done()))"
        )
        self.frames()

    def frames(self) -> None:
        """Wait until what was asked of the page has been drawn."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON carries it; promises are awaited. Raises RuntimeError."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """`kind`: "mousePressed", "mouseReleased", "mouseMoved" or "mouseWheel"; CSS pixels of the window."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)
        self.frames()

    def key(self, key: str) -> None:
        """Press a key, by its name in KeyboardEvent.key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.frames()

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """The page, or its visible part, as a PNG."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def complaints(self) -> list[str]:
        """Exceptions, and errors and warnings of the console, since `open`."""
        found = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(params["exceptionDetails"]))
            elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(params["args"]))
            elif event.get("method") == "Log.entryAdded":
                found.append(json.dumps(params["entry"]))
        return found

    def requests(self) -> list[str]:
        """The addresses that were asked for since `open`."""
        sent = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """A browser whose profile, caches and temporary files are in `folder`."""
    program = executable()
    assert program is not None, "ask executable() first"
    own = {name: str(folder) for name in ("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")}
    flags = [
        "--headless=new",
        "--no-sandbox",  # which refuses to run as root
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-extensions",
        "--disable-background-networking",
        "--disable-crash-reporter",
        "--no-first-run",
        "--hide-scrollbars",
        "--remote-debugging-pipe",
        f"--user-data-dir={folder / 'profile'}",
    ]
    log = folder / "browser.log"
    commands, answers = os.pipe(), os.pipe()
    ours = [commands[1], answers[0]]
    theirs = [commands[0], answers[1]]
    try:
        with log.open("wb") as output:
            # The shell puts the pipes where the browser looks for them. The second of ours is above both: of four
            # descriptors that were opened one after the other it is the last.
            process = subprocess.Popen(
                ["/bin/bash", "-c", f'exec "$@" {_READS}<&{theirs[0]} {_WRITES}>&{theirs[1]}', "-", program, *flags],
                env={**os.environ, **own},
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            for end in theirs:
                os.close(end)
            theirs.clear()
            yield Browser(ours[0], ours[1], log)
        finally:
            _end(process)
    finally:
        for end in (*ours, *theirs):
            os.close(end)


def _end(process: subprocess.Popen[bytes]) -> None:
    # Some are in groups of their own, and orphans are no longer found afterwards.
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=_DEADLINE_S)

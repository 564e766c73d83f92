"""A headless Chromium driven through its debugging pipe (file descriptors 3 and 4): real page widths, dark mode, console, PDF."""

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers import tools

#: Events that say the page did something it must not: messages, exceptions, log entries.
COMPLAINTS = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


class Browser:
    """One tab. Every event since `open` is kept in `events`."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **({"sessionId": self._session} if self._session else {})}
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])
            self.events.append(answer)

    def _receive(self, timeout: float = 120.0) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._reading], [], [], timeout)[0]:
                raise TimeoutError("chromium does not answer")
            data = os.read(self._reading, 1 << 20)
            if not data:
                raise EOFError("chromium has ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))

    def open(self, url: str, width: int, dark: bool = False) -> None:
        """Load a page at a width as a device has it, phones with their viewport rules."""
        self.events = []
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + 120
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < deadline, "the page does not finish loading"
            self.events.append(self._receive())

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def requests(self) -> list[str]:
        return [event["params"]["request"]["url"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]

    def complaints(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("method") in COMPLAINTS]

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"])

    def pdf(self) -> bytes:
        """The page as printed on A4."""
        return base64.b64decode(self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=False)["data"])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a profile of its own and end it, whatever happens."""
    there, ours = os.pipe(), os.pipe()
    # Above 4, so that moving them to 3 and 4 in the child overwrites neither.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (there[0], ours[1])]
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", f"--user-data-dir={profile}"]

    def move() -> None:
        os.dup2(ends[0], 3)
        os.dup2(ends[1], 4)

    process = subprocess.Popen(
        [tools.need("chromium"), *flags],
        pass_fds=(3, 4),
        preexec_fn=move,
        env={**os.environ, "TMPDIR": str(profile)},  # killed, it leaves what it keeps there
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (*ends, there[0], ours[1]):
        os.close(end)
    try:
        yield Browser(ours[0], there[1])
    finally:
        process.kill()
        process.wait()
        os.close(ours[0])
        os.close(there[1])

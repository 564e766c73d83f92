"""Following one container's log: torn streams are taken up where they ended, and nothing is told twice; the result is found in it."""

import json
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

from .api import ApiError, Cluster

#: What a pod that holds after its work says last (LeaderWorkerSet and DaemonSet restart what ends).
HOLDING = re.compile(r"epbox: (?:bench|doctor) ended with exit code ([0-9]{1,3}), holding")
_TIME = re.compile(r"([0-9-]{10}T[0-9:]{8})(?:\.([0-9]{1,9}))?(Z|[+-][0-9:]{5})")


class Position:
    """Where a log was read to. Times may repeat and sinceTime counts whole seconds, so lines at the last time are counted."""

    def __init__(self) -> None:
        self.since = ""
        self._last = ("", "")
        self._at_last = 0
        self._skip = 0
        self._resuming = False

    def resume(self) -> None:
        """A new stream begins, at or before the last line."""
        self._skip, self._resuming = self._at_last, bool(self.since)

    def take(self, line: str) -> str | None:
        """The line without its time; None when it was told before."""
        stamp, _, text = line.partition(" ")
        match = _TIME.fullmatch(stamp)
        if match is None:
            return line
        now = (match.group(1), (match.group(2) or "").ljust(9, "0"))
        if self._resuming:
            if now < self._last:
                return None
            if now == self._last and self._skip:
                self._skip -= 1
                return None
            self._resuming = False
        # stdout and stderr have clocks of their own: a line may be older than the one before it.
        if now == self._last:
            self._at_last += 1
        elif now > self._last:
            self._last, self._at_last = now, 1
            self.since = match.group(1) + match.group(3)
        return text


def follow(
    cluster: Cluster,
    pod: str,
    container: str,
    on_line: Callable[[str], None],
    over: threading.Event,
    stopped: threading.Event,
    pause: float = 2.0,
) -> None:
    """Hand each line to `on_line` until the log has ended after `over` was set, or `stopped` was. Raises ApiError when it may not read."""
    position = Position()
    while not stopped.is_set():
        # What is over before a stream begins is whole in that stream.
        last = over.is_set()
        position.resume()
        try:
            for line in cluster.log(pod, container, follow=not last, since=position.since):
                text = position.take(line)
                if text is not None:
                    on_line(text)
                if stopped.is_set():
                    return
        except ApiError as error:
            if error.status in (401, 403):
                raise
            # Gone with its pod; anything else (torn, kubelet restarting, container not there yet) is tried again.
            if error.status == 404 or (last and error.status == 400):
                return
            last = False
        if last:
            return
        over.wait(pause)


def result_of(lines: Iterable[str], schema: str = "epbox.result/1") -> dict[str, Any] | None:
    """The last line that is a whole JSON document of this schema."""
    for line in reversed(list(lines)):
        if line.startswith("{") and schema in line[:200]:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and found.get("schema") == schema:
                return found
    return None


def doctor_of(lines: Iterable[str]) -> dict[str, Any] | None:
    """The JSON document that `doctor --format json` printed over many lines."""
    whole = list(lines)
    for start in (i for i, line in enumerate(whole) if line == "{"):
        end = next((i for i in range(start, len(whole)) if whole[i] == "}"), None)
        if end is not None:
            try:
                found = json.loads("\n".join(whole[start : end + 1]))
            except ValueError:
                continue
            return dict(found)
    return None

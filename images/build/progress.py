"""BuildKit's plain progress, read line by line: one line a step for people, the whole text for the log, the failed step for the error."""

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from entrypoints.toml import load_toml

CAUSES = Path(__file__).with_name("causes.toml")
_STEP = re.compile(r"#(\d+) \[(.+?)\] (.+)")
_END = re.compile(r"#(\d+) (DONE ([\d.]+)s|CACHED|ERROR\b.*|CANCELED)")
_OUTPUT = re.compile(r"#(\d+) (?:[\d.]+ )?(.*)")
_MOUNTS = re.compile(r"--mount=\S+\s+")


class Progress:
    """Feed it every line; it writes the log and tells steps to `say`."""

    def __init__(self, log: TextIO, stream: TextIO, live: bool) -> None:
        self._log = log
        self._stream = stream
        self._live = live
        self._titles: dict[str, str] = {}
        self._output: dict[str, list[str]] = {}
        self._started = time.monotonic()
        self.failed: str | None = None
        self.last = ""  # the CLI's own last line, which names the error when no step failed

    def feed(self, line: str) -> None:
        """One line of `docker build --progress plain`."""
        line = line.rstrip("\n")
        self._log.write(line + "\n")
        self.last = line.strip() or self.last
        step, end = _STEP.match(line), _END.match(line)
        if step and step[1] not in self._titles:
            self._titles[step[1]] = f"[{step[2]}] {_MOUNTS.sub('', step[3]).strip()}"
            self._show(f"{self._titles[step[1]]}")
        elif end and end[1] in self._titles:
            if end[2].startswith("ERROR"):
                self.failed = end[1]
            elif end[3] and float(end[3]) >= 1:
                self._print(f"  {self._titles[end[1]]}", f"{float(end[3]):.0f} s")
        elif output := _OUTPUT.match(line):
            self._output.setdefault(output[1], []).append(output[2])
            if output[2].strip():
                self._show(f"{self._titles.get(output[1], '')}: {output[2]}")
        elif not line.startswith("#"):
            self._output.setdefault(self.failed or "", []).append(line)

    def finish(self) -> None:
        """Clear the live line."""
        if self._live:
            self._stream.write("\r\033[K")
            self._stream.flush()

    def tail(self, count: int = 30) -> list[str]:
        """The last lines that the failed step printed."""
        return [line for line in self._output.get(self.failed or "", []) if line.strip()][-count:]

    def title(self) -> str:
        """The failed step, or a word for "before any step"."""
        return self._titles.get(self.failed or "", "before the first step")

    def _show(self, text: str) -> None:
        """The one line that is overwritten; only on a terminal."""
        if self._live:
            seconds = time.monotonic() - self._started
            self._stream.write(f"\r\033[K{seconds:4.0f} s  {text[:100]}")
            self._stream.flush()

    def _print(self, text: str, seconds: str) -> None:
        self.finish()
        self._stream.write(f"{text[:110]}  {seconds}\n")
        self._stream.flush()


def likely_cause(lines: Iterable[str], path: Path = CAUSES) -> str | None:
    """The first entry of build_causes.toml whose pattern matches what a failed step printed; None when none does."""
    text = "\n".join(lines)
    causes = load_toml(path)["cause"]
    return next((str(cause["text"]) for cause in causes if re.search(cause["pattern"], text, re.IGNORECASE)), None)

"""Output of ranks with bounded memory: lines, per-rank log files, and a console that never blocks the supervisor."""

import os
import select
from collections import deque
from pathlib import Path

#: One pipe read, and the longest line that is passed on whole.
CHUNK = 1 << 16
MAX_LINE = 1 << 16
#: With more than this waiting for a slow reader, the ranks' pipes are not read.
BACKLOG = 1 << 20


class Lines:
    """Splits a byte stream into lines; the excess of an over-long line is counted, not kept."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipped: int | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their newline."""
        lines: list[bytes] = []
        if self._skipped is not None:
            end = data.find(b"\n")
            if end < 0:
                self._skipped += len(data)
                return []
            lines.append(self._notice(self._skipped + end))
            self._skipped, data = None, data[end + 1 :]
        *complete, rest = (self._rest + data).split(b"\n")
        for line in complete:
            lines += [line] if len(line) <= MAX_LINE else [line[:MAX_LINE], self._notice(len(line) - MAX_LINE)]
        if len(rest) > MAX_LINE:
            lines.append(rest[:MAX_LINE])
            self._skipped, rest = len(rest) - MAX_LINE, b""
        self._rest = rest
        return lines

    def finish(self) -> list[bytes]:
        """The last line, which has no newline, at the end of the stream."""
        if self._skipped is not None:
            return [self._notice(self._skipped)]
        rest, self._rest = self._rest, b""
        return [rest] if rest else []

    @staticmethod
    def _notice(skipped: int) -> bytes:
        return b"[epbox: the line goes on for %d bytes, not shown]" % skipped


class RankLog:
    """A rank's raw output in a file: its first `limit` bytes, a notice, and its last `tail` bytes.

    A full disk or a lost folder ends the file, not the run: `error` says why.
    """

    def __init__(self, path: Path | None, limit: int, tail: int) -> None:
        self.path = path
        self.error: str | None = None
        self.full = False
        self._limit, self._tail_limit = limit, tail
        self._written = self._tail_size = 0
        #: Bytes that the file does not hold.
        self.left_out = 0
        self._tail: deque[bytes] = deque()
        self._file: int | None = None
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            except OSError as error:
                self._fail(error)

    def write(self, data: bytes) -> None:
        room = self._limit - self._written
        if room > 0:
            self._put(data[:room])
            self._written += min(room, len(data))
            data = data[room:]
        if data:
            self.full = True
            self._tail.append(data)
            self._tail_size += len(data)
            while self._tail_size - len(self._tail[0]) >= self._tail_limit:
                dropped = len(self._tail.popleft())
                self._tail_size -= dropped
                self.left_out += dropped

    def close(self) -> bytes:
        """Finish the file; the kept tail of a capped log, else nothing."""
        tail = b"".join(self._tail)
        if len(tail) > self._tail_limit:
            self.left_out += len(tail) - self._tail_limit
            tail = tail[-self._tail_limit :]
        if self.left_out:
            self._put(b"\n[epbox: %d bytes of output left out here]\n" % self.left_out)
        self._put(tail)
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._tail.clear()
        return tail

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._file is not None:
            try:
                view = view[os.write(self._file, view) :]
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.error = f"log {self.path} stopped: {error.strerror}"
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Console:
    """Writes to one descriptor only what it takes without blocking; the rest waits in `backlog`."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.gone = False
        self._waiting: deque[memoryview] = deque()
        self.backlog = 0
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def write(self, data: bytes) -> None:
        if data and not self.gone:
            self._waiting.append(memoryview(data))
            self.backlog += len(data)
            self.flush()

    def flush(self, timeout_s: float = 0.0) -> None:
        """Write while the reader takes it, waiting for it at most `timeout_s` in all for each step."""
        while self._waiting and not self.gone:
            try:
                if not self._poll.poll(timeout_s * 1000):
                    return
                # POLLOUT on a pipe promises PIPE_BUF bytes without blocking, no more.
                data = self._waiting.popleft()
                sent = os.write(self.descriptor, data[: select.PIPE_BUF])
            except (OSError, ValueError):
                # The reader went away (| head): the run and its logs go on.
                self.gone = True
                self._waiting.clear()
                self.backlog = 0
                return
            self.backlog -= sent
            if sent < len(data):
                self._waiting.appendleft(data[sent:])

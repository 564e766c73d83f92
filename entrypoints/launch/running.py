"""One running rank: its pipes, its log, what it said last, how it ended, what was seen of it."""

import json
import os
import re
import select
import selectors
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from entrypoints.launch import evidence
from entrypoints.launch.child import NOT_STARTED, Started
from entrypoints.launch.model import LaunchOptions, RankCommand, RankOutcome
from entrypoints.launch.streams import CHUNK, Console, Lines, RankLog
from entrypoints.launch.watching import Watch

#: What most often sends these.
HINTS: dict[int, str] = {
    signal.SIGKILL: ", by somebody or by the host's out-of-memory killer (dmesg tells)",
    signal.SIGBUS: ", often a full /dev/shm (docker --shm-size, a Memory emptyDir in Kubernetes)",
}
STACKS_LIMIT = 256 << 10
#: The last line of a traceback; torch puts the rank before each of its lines.
EXCEPTION = re.compile(rb"(?:\[rank\d+\]: ?)?[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit): ")
#: A pipe holds at most 1 MiB, so this empties it and still ends when something keeps on writing.
DRAIN_READS = 64


class Rank:
    """Owned by the supervisor's loop; `sources` are its descriptors with their read handlers."""

    def __init__(self, command: RankCommand, started: Started, options: LaunchOptions, stdout: Console, stderr: Console) -> None:
        self.command, self.started, self.options = command, started, options
        self.rank, self.pid = command.rank, started.pid
        self.alive = True
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.begun = time.monotonic()
        self.seconds = 0.0
        self.report: dict[str, Any] = {}
        self.failure: tuple[str, int] | None = None
        self.reported = self.told = False
        self.last_line = self.exception = ""
        self.log = RankLog(options.log_dir / f"rank-{self.rank}.log" if options.log_dir else None, options.log_limit, options.log_tail)
        self.watch = Watch(self.pid, command.plan.cpus if options.bind.cpu else (), self.begun)
        self._prefix = b"[rank %d] " % self.rank
        self._consoles = {started.output: stdout if options.split_output else stderr, started.errors: stderr}
        self._lines = {started.output: Lines()} | ({started.errors: Lines()} if started.errors is not None else {})
        self._open = {started.report, *self._lines}
        self._report_text = b""
        self._shown_full = False
        self._start: dict[str, Any] = {}
        self._nvshmem: list[str] = []

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    def sources(self) -> list[tuple[int, Callable[[], bool]]]:
        """Each open descriptor and a handler that returns False once it is at its end."""
        return [(fd, self._read_report if fd == self.started.report else self._reader(fd)) for fd in sorted(self._open)]

    def pause(self, selector: selectors.BaseSelector) -> None:
        for descriptor in self._lines:
            with suppress(KeyError):
                selector.unregister(descriptor)

    def resume(self) -> list[tuple[int, Callable[[], bool]]]:
        return [(fd, self._reader(fd)) for fd in self._lines if fd in self._open]

    def _reader(self, descriptor: int) -> Callable[[], bool]:
        return lambda: self._read(descriptor)

    def _read(self, descriptor: int) -> bool:
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return True
        if not data:
            self._close(descriptor)
            return False
        self.log.write(data)
        if self.log.full:
            # The log has its bound; a console or parser that took more would have none.
            if not self._shown_full:
                self._shown_full = True
                self._pass_on(descriptor, [b"[epbox: more than %d MiB of output, only its end is kept]" % (self.options.log_limit >> 20)])
            return True
        self._pass_on(descriptor, self._lines[descriptor].feed(data))
        return True

    def _pass_on(self, descriptor: int, lines: list[bytes]) -> None:
        """Lines to the console and the callback, and the last words of the rank."""
        if not lines:
            return
        if not self.options.quiet:
            prefix = self._prefix
            self._consoles[descriptor].write(b"".join([prefix + line + b"\n" for line in lines]))
        for line in lines:
            if b"dev_id" in line or b"NIC handler" in line:
                evidence.nvshmem_lines([line.decode(errors="replace")], self._nvshmem)
            if b": " in line[:80] and EXCEPTION.match(line):
                self.exception = line[:300].decode(errors="replace").strip()
        words = next((line for line in reversed(lines) if line.strip()), b"")
        if words:
            self.last_line = words[:300].decode(errors="replace").strip()
        if self.options.on_line is not None:
            for line in lines:
                self.options.on_line(self.rank, line.decode(errors="replace"))

    def _read_report(self) -> bool:
        if self.reported:
            return False
        with suppress(BlockingIOError):
            data = os.read(self.started.report, CHUNK)
            self._report_text += data
            if data:
                return True
            self._close(self.started.report)
            self._parse_report()
            return False
        return True

    def _parse_report(self) -> None:
        """The last JSON object counts: facts of the binding, or why exec never came."""
        self.reported = True
        text = self._report_text.strip().rpartition(b"\n")[2]
        found = json.loads(text) if text else {}
        if "error" in found:
            self.failure = (found["error"], found["exit_code"])
        else:
            self.report = found
            self._start = evidence.after_start(self.pid)

    def ended(self, status: int) -> None:
        """Called with the wait status once the process is reaped."""
        code = os.waitstatus_to_exitcode(status)
        self.alive = False
        self.seconds = time.monotonic() - self.begun
        self.exit_code, self.signal = (code, None) if code >= 0 else (None, -code)
        while not self.reported and self._read_report():
            pass
        if self.failure is None and code == NOT_STARTED and not self.report:
            self.failure = ("ended before its program was started", 4)
        for descriptor in self._lines:
            self._drain(descriptor)

    def _drain(self, descriptor: int) -> None:
        """What the rank wrote before it died is in the pipe; a child that holds it open is not waited for."""
        for _ in range(DRAIN_READS):
            if descriptor not in self._open or not self._has_data(descriptor):
                return
            self._read(descriptor)

    @staticmethod
    def _has_data(descriptor: int) -> bool:
        # poll, not select: a launch of hundreds of ranks has descriptors above 1023.
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def obituary(self, out_of_memory: bool = False) -> str:
        """How the rank died, in one phrase. `out_of_memory`: the cgroup counted an OOM kill during the run."""
        where = f"rank {self.rank} (pid {self.pid})"
        if self.signal is not None:
            text = f"{where} was killed by {_signal_name(self.signal)}"
            text += HINTS.get(self.signal, "") if not out_of_memory else ", by the kernel: the container's memory limit was reached"
        else:
            text = f"{where} exited with code {self.exit_code}"
        # Libraries have their say after the traceback, at exit: the exception tells more.
        if self.exception and self.exit_code == 1:
            return f"{text}; {self.exception}"
        return f"{text}; its last line: {self.last_line}" if self.last_line else text

    def stacks_size(self) -> int:
        return os.fstat(self.started.stacks).st_size

    def read_stacks(self) -> str:
        return os.pread(self.started.stacks, STACKS_LIMIT, 0).decode(errors="replace")

    def _close(self, descriptor: int) -> None:
        """At its end; it is closed in close(), for a fork on its way to exec may keep it known to epoll until then."""
        self._open.discard(descriptor)

    def close(self) -> None:
        """Read what is left without waiting, finish the log, close all descriptors."""
        for descriptor in self._lines:
            self._drain(descriptor)
        tail = self.log.close()
        if tail and self.log.full:
            self._pass_on(self.started.output, tail[-CHUNK:].split(b"\n"))
        else:
            for descriptor, lines in self._lines.items():
                self._pass_on(descriptor, lines.finish())
        if self.log.error:
            self._consoles[self.started.output].write(f"[epbox] rank {self.rank}: {self.log.error}\n".encode(errors="replace"))
        for descriptor in (self.started.report, *self._lines):
            os.close(descriptor)
        self._open.clear()
        self._final = os.pread(self.started.evidence, 64 << 20, 0).decode(errors="replace")
        self._stacks = self.read_stacks()
        os.close(self.started.evidence)
        os.close(self.started.stacks)
        if self._stacks and self.options.log_dir:
            with suppress(OSError):
                (self.options.log_dir / f"rank-{self.rank}.stacks").write_text(self._stacks)

    def outcome(self, moved: dict[str, dict[str, int]]) -> RankOutcome:
        plan = self.command.plan
        return RankOutcome(
            local_rank=plan.local_rank,
            rank=self.rank,
            pid=self.pid,
            exit_code=self.exit_code,
            signal=self.signal,
            seconds=self.seconds,
            log=self.log.path,
            evidence=self._evidence(moved),
            stacks=self._stacks,
        )

    def _evidence(self, moved: dict[str, dict[str, int]]) -> dict[str, Any]:
        plan = self.command.plan
        port = evidence.rail(plan)
        return {
            "planned": {"cpus": self.report.get("cpus_planned", "")},
            "cpus": self.report.get("cpus", ""),
            "memory": self.report.get("memory"),
            "degradations": self.report.get("degradations", []),
            **self._start,
            **self.watch.result(self._final),
            "nvshmem": self._nvshmem,
            "rail": port,
            "traffic": moved.get(port) if port else None,
            "output_left_out_bytes": self.log.left_out,
            "log_error": self.log.error,
        }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

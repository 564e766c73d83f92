"""One running rank: its pipes, its log, what it said last, how it ended, what was seen of it."""

import os
import re
import select
import selectors
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from entrypoints.errors import RankFailed
from entrypoints.launch.child import NOT_STARTED, Started, StartFailure, parse_report
from entrypoints.launch.evidence import PortCounters, Watch, after_start, rail
from entrypoints.launch.model import LaunchOptions, RankCommand, RankOutcome
from entrypoints.launch.streams import CHUNK, Console, Lines, RankLog
from entrypoints.results.ranks import Evidence, RankRecord

#: What most often sends these.
HINTS: dict[int, str] = {
    signal.SIGKILL: ", by somebody or by the host's out-of-memory killer (dmesg tells)",
    signal.SIGBUS: ", often a full /dev/shm (docker --shm-size, a Memory emptyDir in Kubernetes)",
}
STACKS_LIMIT = 256 << 10
#: Lines in which NVSHMEM names its device or NIC handler, kept of each rank.
NVSHMEM_LINES = 16
#: The last line of a traceback; torch puts the rank before each of its lines.
EXCEPTION = re.compile(rb"(?:\[rank\d+\]: ?)?[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit): ")
#: A pipe holds at most 1 MiB, so this empties it and still ends when something keeps on writing.
DRAIN_READS = 64
#: Evidence that is written even where there is none.
LOOKED_FOR = ("memory", "rail", "traffic", "log_error")


class Rank:
    """Owned by the supervisor's loop."""

    def __init__(self, command: RankCommand, started: Started, options: LaunchOptions, stdout: Console, stderr: Console) -> None:
        self.command, self.started, self.options = command, started, options
        self.rank, self.pid = command.rank, started.pid
        self.alive = True
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.begun = time.monotonic()
        self.seconds = 0.0
        #: Until `reported`, nothing is known of its start; then what it said of its binding, or why it was not started.
        self.reported = False
        self.binding: Evidence | None = None
        self.failure: StartFailure | None = None
        self.last_line = self.exception = ""
        self.log = RankLog(options.log_dir / f"rank-{self.rank}.log" if options.log_dir else None, options.log_limit, options.log_tail)
        self.watch = Watch(self.pid, command.plan.cpus if options.bind.cpu else (), self.begun)
        self._prefix = b"[rank %d] " % self.rank
        self._consoles = {started.output: stdout if options.split_output else stderr, started.errors: stderr}
        self._lines = {started.output: Lines()} | ({started.errors: Lines()} if started.errors is not None else {})
        self._open = {started.report, *self._lines}
        self._report_text = b""
        self._said_full = False
        self._allowed: dict[str, str] = {}
        #: An ordered set: ranks repeat these lines.
        self._nvshmem: dict[str, None] = {}
        self._stacks = ""

    def sources(self) -> dict[int, Callable[[], bool]]:
        """A reader for each open descriptor, output and report; it returns False at the end."""
        report = {self.started.report: self._read_report} if self.started.report in self._open else {}
        return report | self.output_sources()

    def output_sources(self) -> dict[int, Callable[[], bool]]:
        return {descriptor: partial(self._read, descriptor) for descriptor in self._lines if descriptor in self._open}

    def pause(self, selector: selectors.BaseSelector) -> None:
        """Read no output of it for now."""
        for descriptor in self._lines:
            with suppress(KeyError):
                selector.unregister(descriptor)

    def _read(self, descriptor: int) -> bool:
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return True
        if not data:
            # It is closed in close(): a fork on its way to exec may keep it known to epoll until then.
            self._open.discard(descriptor)
            return False
        self.log.write(data)
        if self.log.full:
            # The log has its bound; a console or parser that took more would have none.
            if not self._said_full:
                self._said_full = True
                self._pass_on(descriptor, [b"[epbox: more than %d MiB of output, only its end is kept]" % (self.options.log_limit >> 20)])
            return True
        self._pass_on(descriptor, self._lines[descriptor].feed(data))
        return True

    def _pass_on(self, descriptor: int, lines: list[bytes]) -> None:
        """Lines to the console, and what is kept of them: the last words of the rank, its exception, NVSHMEM's devices."""
        if not self.options.quiet:
            prefix = self._prefix
            self._consoles[descriptor].write(b"".join([prefix + line + b"\n" for line in lines]))
        for line in lines:
            if (b"dev_id" in line or b"NIC handler" in line) and len(self._nvshmem) < NVSHMEM_LINES:
                self._nvshmem.setdefault(line.decode(errors="replace").strip())
            if b": " in line[:80] and EXCEPTION.match(line):
                self.exception = line[:300].decode(errors="replace").strip()
        words = next((line for line in reversed(lines) if line.strip()), b"")
        if words:
            self.last_line = words[:300].decode(errors="replace").strip()

    def _read_report(self) -> bool:
        if self.reported:
            return False
        with suppress(BlockingIOError):
            data = os.read(self.started.report, CHUNK)
            self._report_text += data
            if data:
                return True
            self._open.discard(self.started.report)
            self.reported = True
            report = parse_report(self._report_text)
            if isinstance(report, StartFailure):
                self.failure = report
            else:
                self.binding = report
                self._allowed = after_start(self.pid)
            return False
        return True

    def ended(self, status: int) -> None:
        """Called with the wait status once the process is reaped."""
        code = os.waitstatus_to_exitcode(status)
        self.alive = False
        self.seconds = time.monotonic() - self.begun
        self.exit_code, self.signal = (code, None) if code >= 0 else (None, -code)
        while not self.reported and self._read_report():
            pass
        if self.failure is None and code == NOT_STARTED and self.binding is None:
            self.failure = StartFailure("ended before its program was started", RankFailed.exit_code)
        for descriptor in self._lines:
            self._drain(descriptor)

    def _drain(self, descriptor: int) -> None:
        """Read what the rank wrote before it died and is still in the pipe; a child that holds it open is not waited for."""
        # poll, not select: a launch of hundreds of ranks has descriptors above 1023.
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        for _ in range(DRAIN_READS):
            if descriptor not in self._open or not poll.poll(0):
                return
            self._read(descriptor)

    def obituary(self, out_of_memory: bool = False) -> str:
        """The rank's death in one phrase. `out_of_memory`: the cgroup counted an OOM kill during the run."""
        text = f"rank {self.rank} (pid {self.pid}) "
        if self.signal is None:
            text += f"exited with code {self.exit_code}"
        else:
            name = next((number.name for number in signal.Signals if number == self.signal), f"signal {self.signal}")
            by_kernel = ", by the kernel: the container's memory limit was reached"
            text += f"was killed by {name}{by_kernel if out_of_memory else HINTS.get(self.signal, '')}"
        # Libraries have their say after the traceback, at exit: the exception tells more.
        if self.exception and self.exit_code == 1:
            return f"{text}; {self.exception}"
        return f"{text}; its last line: {self.last_line}" if self.last_line else text

    def stacks_size(self) -> int:
        return os.fstat(self.started.stacks).st_size

    def read_stacks(self) -> str:
        return os.pread(self.started.stacks, STACKS_LIMIT, 0).decode(errors="replace")

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
        self.watch.finish(os.pread(self.started.evidence, 64 << 20, 0).decode(errors="replace"))
        self._stacks = self.read_stacks()
        os.close(self.started.evidence)
        os.close(self.started.stacks)
        if self._stacks and self.options.log_dir:
            with suppress(OSError):
                (self.options.log_dir / f"rank-{self.rank}.stacks").write_text(self._stacks)

    def outcome(self, moved: PortCounters) -> RankOutcome:
        """Its end, after close(). `moved` is the traffic of all ports during the run."""
        seen, port = self.watch.seen, rail(self.command.plan)
        binding = self.binding or Evidence(planned={"cpus": ""}, cpus="", degradations=())
        evidence = replace(
            binding,
            cpus=self._allowed.get("cpus", binding.cpus),
            mems=self._allowed.get("mems"),
            nvshmem=tuple(self._nvshmem),
            rail=port,
            traffic=moved.get(port) if port else None,
            output_left_out_bytes=self.log.left_out,
            log_error=self.log.error,
        )
        if seen is not None:
            evidence = replace(
                evidence,
                threads=seen.threads,
                policies=tuple(sorted(seen.policies)),
                policy=seen.pages.policy,
                memory_bytes=seen.pages.memory_bytes,
                file_bytes=seen.pages.file_bytes,
                threads_outside=self.watch.threads_outside,
                threads_moved=len(self.watch.threads_moved),
            )
        # Null, where it is not left out, says that this was looked for and is not there.
        evidence = replace(evidence, extra={name: None for name in LOOKED_FOR if getattr(evidence, name) is None})
        record = RankRecord(
            rank=self.rank,
            local_rank=self.command.plan.local_rank,
            exit_code=self.exit_code,
            signal=self.signal,
            seconds=round(self.seconds, 3),
            evidence=evidence,
        )
        return RankOutcome(record, self.pid, self.log.path, self._stacks)

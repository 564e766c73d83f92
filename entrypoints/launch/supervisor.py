"""Starts the ranks of one node, watches them, and ends them all together: one thread, every wait bounded.

It does what PID 1 must do (forwards signals, reaps orphans) and leaves no process behind, whoever started it.
"""

import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence

from entrypoints.binding import Kernel
from entrypoints.launch import child, evidence, processes
from entrypoints.launch.hang import StackDump
from entrypoints.launch.model import LaunchOptions, LaunchOutcome, RankCommand, RankOutcome
from entrypoints.launch.running import Rank
from entrypoints.launch.signals import ENDING, PASSED_ON, Signals
from entrypoints.launch.streams import BACKLOG, Console

__all__ = ["LaunchOptions", "LaunchOutcome", "RankCommand", "RankOutcome", "run"]

#: After KILL, a process that is still there (uninterruptible sleep) is given up on.
KILL_BOUND_S = 5.0
#: How long the console's reader may take for what is left at the end.
LAST_FLUSH_S = 5.0


def run(commands: Sequence[RankCommand], options: LaunchOptions | None = None, kernel: Kernel | None = None) -> LaunchOutcome:
    """Run the ranks to their end. Must be called from the main thread (signals).

    Raises UsageError before anything is started when a command does not exist; everything later is in the outcome.
    """
    options = options or LaunchOptions()
    environments = [command.environment(options.bind, len(commands)) for command in commands]
    programs = [child.find_program(command.argv[0], env) for command, env in zip(commands, environments, strict=True)]
    with Signals(options.on_stop) as signals:
        launch = _Launch(options, signals)
        try:
            launch.start(commands, programs, environments, kernel or Kernel())
            launch.watch()
        finally:
            launch.clean_up()
    return launch.outcome()


class _Launch:
    """The ranks of one run and the loop over them."""

    def __init__(self, options: LaunchOptions, signals: Signals) -> None:
        self.options, self.signals = options, signals
        self.ranks: list[Rank] = []
        self.selector = selectors.DefaultSelector()
        self.selector.register(signals.reader, selectors.EVENT_READ, self._on_signal)
        self.stdout, self.stderr = Console(1), Console(2)
        self.exit_code, self.cause = 0, ""
        self.begun = self.heard = time.monotonic()
        self.ending_since: float | None = None
        self.killed_at: float | None = None
        self.dump: StackDump | None = None
        self.paused = False
        self.degraded: dict[str, list[int]] = {}
        self.spared = set(processes.descendants(os.getpid()))
        self.counters: dict[str, dict[str, int]] = {}
        self.oom_kills = evidence.oom_kills()
        for descriptor in options.session.descriptors() if options.session else ():
            self.selector.register(descriptor, selectors.EVENT_READ, self._on_peer)
        # Orphaned grandchildren come to this process, not to the host's init, so they can be ended and reaped.
        child.prctl(child.PR_SET_CHILD_SUBREAPER, 1)

    def start(
        self, commands: Sequence[RankCommand], programs: Sequence[str], environments: Sequence[dict[str, str]], kernel: Kernel
    ) -> None:
        ports = sorted({(c.plan.hca, c.plan.port or 1) for c in commands if c.plan.hca})
        self.counters = evidence.port_counters(ports, self.options.sysfs)
        for command, program, env in zip(commands, programs, environments, strict=True):
            try:
                started = child.start(command, program, env, self.options.bind, self.options.strict, self.options.split_output, kernel)
            except OSError as error:
                self.end(4, f"rank {command.rank} could not be started: {error.strerror}", signal.SIGTERM)
                return
            rank = Rank(command, started, self.options, self.stdout, self.stderr)
            self.ranks.append(rank)
            for descriptor, handler in rank.sources():
                self.selector.register(descriptor, selectors.EVENT_READ, self._reader(rank, handler, descriptor))

    def watch(self) -> None:
        """Until every rank is reaped, or given up on."""
        while any(rank.alive for rank in self.ranks):
            if self.killed_at is not None and time.monotonic() - self.killed_at > KILL_BOUND_S:
                stuck = ", ".join(f"rank {r.rank} is {processes.state(r.pid)}" for r in self.ranks if r.alive)
                self.cause += f"; after KILL {stuck}"
                return
            self._step(self._wake_after())

    def _step(self, timeout_s: float) -> None:
        for key, _ in self.selector.select(timeout_s):
            key.data()
        self._reap()
        self._back_pressure()
        self._tick(time.monotonic())

    def _reader(self, rank: Rank, handler: Callable[[], bool], descriptor: int) -> Callable[[], None]:
        def read() -> None:
            if not handler():
                self.selector.unregister(descriptor)
                self._note_report(rank)
            elif descriptor != rank.started.report:
                self.heard = time.monotonic()
                if self.options.session is not None:
                    self.options.session.beat()

        return read

    def _note_report(self, rank: Rank) -> None:
        """Say once, when all ranks have reported, what could not be bound; a rank that did not start ends the run."""
        if rank.failure is not None:
            self.end(rank.failure[1], f"rank {rank.rank}: {rank.failure[0]}", signal.SIGTERM)
        if all(r.reported for r in self.ranks) and not any(r.told for r in self.ranks):
            for each in self.ranks:
                each.told = True
                for sentence in each.report.get("degradations", ()):
                    self.degraded.setdefault(sentence, []).append(each.rank)
            for sentence, ranks in self.degraded.items():
                self.say(f"{evidence.name_ranks(ranks)}: {sentence}")

    def say(self, text: str) -> None:
        self.stderr.write(f"[epbox] {text}\n".encode(errors="replace"))

    def _on_signal(self) -> None:
        for number in self.signals.received():
            if number in ENDING:
                name = signal.Signals(number).name
                if self.ending_since is not None and number == signal.SIGINT:
                    self._kill()
                self.end(128 + number, f"stopped by {name}", number)
            elif number in PASSED_ON:
                for rank in self.ranks:
                    if rank.alive:
                        processes.send(rank.pid, number)

    def _on_peer(self) -> None:
        """Something came from another node: its results, kept for later, or the news that the run is over."""
        session = self.options.session
        if session is not None and (found := session.lost()) is not None:
            for descriptor in session.descriptors():
                self.selector.unregister(descriptor)
            self.end(found[1], found[0], signal.SIGTERM)

    def _reap(self) -> None:
        gone = dict(processes.reap())
        ended = [rank for rank in self.ranks if rank.alive and rank.pid in gone]
        for rank in ended:
            rank.ended(gone[rank.pid])
            self._note_report(rank)
        # Of ranks that were found dead at once, one that a signal ended is more likely the first cause.
        for rank in sorted(ended, key=lambda rank: rank.signal is None):
            if not rank.ok and self.ending_since is None and self.dump is None:
                out_of_memory = rank.signal == signal.SIGKILL and (evidence.oom_kills() or 0) > (self.oom_kills or 0)
                self.end(4, rank.obituary(out_of_memory), signal.SIGTERM)

    def _tick(self, now: float) -> None:
        options = self.options
        for rank in self.ranks:
            if rank.alive:
                rank.watch.look(now, rank.reported)
        if self.dump is not None:
            if self.dump.finished(now):
                for text in self.dump.texts():
                    self.stderr.write(text.encode(errors="replace"))
                self.dump = None
                self.end(5, self.cause, signal.SIGTERM)
        elif self.ending_since is not None:
            if self.killed_at is None and now - self.ending_since >= options.grace_s:
                self._kill()
        elif options.timeout_s is not None and now - self._last_heard() >= options.timeout_s:
            self._hang(f"no output of any rank for {options.timeout_s:g} s (--timeout)")
        elif options.total_timeout_s is not None and now - self.begun >= options.total_timeout_s:
            self._hang(f"the run did not end within {options.total_timeout_s:g} s")

    def _last_heard(self) -> float:
        """When a rank of any node last printed: silence on one node is no hang while another one speaks."""
        return self.heard if self.options.session is None else max(self.heard, self.options.session.heard)

    def _hang(self, why: str) -> None:
        self.dump = StackDump([rank for rank in self.ranks if rank.alive])
        self.cause = f"{why}: {self.dump.states()}"
        self.exit_code = 5
        self.say(self.cause)

    def _wake_after(self) -> float:
        """Seconds until the next thing that time brings."""
        now = time.monotonic()
        due = [now + 1.0, *(rank.watch.due for rank in self.ranks if rank.alive)]
        if self.dump is not None:
            due.append(now + 0.05)
        if self.ending_since is not None:
            due.append(self.ending_since + self.options.grace_s)
        for bound, since in ((self.options.timeout_s, self._last_heard()), (self.options.total_timeout_s, self.begun)):
            if bound is not None:
                due.append(since + bound)
        return max(0.005, min(due) - now) if self.killed_at is None else 0.02

    def end(self, exit_code: int, cause: str, number: int) -> None:
        """Send the signal to every rank; the first call names the cause, KILL follows after the grace."""
        if self.ending_since is None:
            self.ending_since = time.monotonic()
            said, self.exit_code, self.cause = self.cause == cause, exit_code, cause
            if self.options.session is not None:
                self.options.session.abort(cause, exit_code)
            if any(rank.alive for rank in self.ranks):
                self.say("ending the ranks that are left" if said else f"{cause}; ending the ranks that are left")
        for rank in self.ranks:
            if rank.alive:
                processes.send(rank.pid, number)
                processes.send(rank.pid, signal.SIGCONT)

    def _kill(self) -> None:
        self.killed_at = time.monotonic()
        for rank in self.ranks:
            if rank.alive:
                processes.send(rank.pid, signal.SIGKILL)

    def _back_pressure(self) -> None:
        """Stop reading ranks while the console's reader is slow; they then wait in write, as with a plain pipe."""
        waiting = [console for console in (self.stdout, self.stderr) if console.backlog]
        for console in waiting:
            console.flush()
        full = any(console.backlog > BACKLOG for console in waiting)
        if full or self.paused:
            self.heard = time.monotonic()
        if full and not self.paused:
            self.paused = True
            for rank in self.ranks:
                rank.pause(self.selector)
        elif self.paused and not waiting:
            self.paused = False
            for rank in self.ranks:
                for descriptor, handler in rank.resume():
                    self.selector.register(descriptor, selectors.EVENT_READ, self._reader(rank, handler, descriptor))

    def clean_up(self) -> None:
        """Whatever happened: no process, descriptor or half-read pipe is left."""
        if any(rank.alive for rank in self.ranks):
            self._kill()
        left = processes.end_leftovers(self.spared)
        if left:
            self.say(f"{left} processes that the ranks had left behind were ended")
        for rank in self.ranks:
            rank.close()
        for console in (self.stdout, self.stderr):
            console.flush(LAST_FLUSH_S)
        self.selector.close()
        child.prctl(child.PR_SET_CHILD_SUBREAPER, 0)

    def outcome(self) -> LaunchOutcome:
        ports = [(c.plan.hca, c.plan.port or 1) for c in (rank.command for rank in self.ranks) if c.plan.hca]
        moved = evidence.traffic(self.counters, evidence.port_counters(ports, self.options.sysfs))
        return LaunchOutcome(tuple(rank.outcome(moved) for rank in self.ranks), self.exit_code, self.cause)

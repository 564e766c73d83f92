"""Starts the ranks of one node, watches them, and ends them all together: one thread, every wait bounded.

It does what PID 1 must do (forwards signals, reaps orphans) and leaves no process behind, whoever started it.
"""

import os
import selectors
import signal
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from entrypoints.errors import RankFailed, TimedOut
from entrypoints.launch import child, evidence
from entrypoints.launch.model import LaunchOptions, LaunchOutcome, RankCommand
from entrypoints.launch.rank import STACK_SIGNAL
from entrypoints.launch.running import Rank
from entrypoints.launch.signals import ENDING, PASSED_ON, Signals
from entrypoints.launch.streams import BACKLOG, Console

#: After KILL, a process that is still there (uninterruptible sleep) is given up on.
KILL_BOUND_S = 5.0
#: How long the console's reader may take for what is left at the end.
LAST_FLUSH_S = 5.0
#: How long the ranks of a hang have to write their stacks; the C handler needs milliseconds unless the process cannot run.
DUMP_BOUND_S = 2.0
DUMP_SETTLED_S = 0.15
#: States of a process, proc(5).
STATES = {"R": "running", "S": "sleeping", "D": "in uninterruptible sleep", "T": "stopped", "t": "traced", "Z": "zombie"}


def run(commands: Sequence[RankCommand], options: LaunchOptions) -> LaunchOutcome:
    """Run the ranks to their end. Must be called from the main thread (signals).

    Raises UsageError before anything is started when a command does not exist; everything later is in the outcome.
    """
    environments = [command.environment(options.bind, len(commands)) for command in commands]
    programs = [child.find_program(command.argv[0], env) for command, env in zip(commands, environments, strict=True)]
    with Signals(options.on_stop) as signals:
        launch = _Launch(options, signals)
        try:
            launch.start(commands, programs, environments)
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
        self.degradations_said = False
        self.spared = set(descendants(os.getpid()))
        self.counters: evidence.PortCounters = {}
        self.oom_kills = evidence.oom_kills()
        for descriptor in options.session.descriptors() if options.session else ():
            self.selector.register(descriptor, selectors.EVENT_READ, self._on_peer)
        # Orphaned grandchildren come to this process, not to the host's init, so they can be ended and reaped.
        child.prctl(child.PR_SET_CHILD_SUBREAPER, 1)

    def start(self, commands: Sequence[RankCommand], programs: Sequence[str], environments: Sequence[dict[str, str]]) -> None:
        self.counters = evidence.port_counters((command.plan for command in commands), self.options.sysfs)
        for command, program, env in zip(commands, programs, environments, strict=True):
            try:
                started = child.start(command, program, env, self.options.bind, self.options.strict, self.options.split_output)
            except OSError as error:
                self.end(RankFailed.exit_code, f"rank {command.rank} could not be started: {error.strerror}", signal.SIGTERM)
                return
            rank = Rank(command, started, self.options, self.stdout, self.stderr)
            self.ranks.append(rank)
            for descriptor, read in rank.sources().items():
                self.selector.register(descriptor, selectors.EVENT_READ, partial(self._on_output, rank, descriptor, read))

    def watch(self) -> None:
        """Until every rank is reaped, or given up on."""
        while any(rank.alive for rank in self.ranks):
            if self.killed_at is not None and time.monotonic() - self.killed_at > KILL_BOUND_S:
                stuck = ", ".join(f"rank {rank.rank} is {state(rank.pid)}" for rank in self.ranks if rank.alive)
                self.cause += f"; after KILL {stuck}"
                return
            for key, _ in self.selector.select(self._wake_after()):
                key.data()
            self._reap()
            self._back_pressure()
            self._tick(time.monotonic())

    def _on_output(self, rank: Rank, descriptor: int, read: Callable[[], bool]) -> None:
        """A rank wrote to its output or its report, or closed it."""
        if not read():
            self.selector.unregister(descriptor)
            self._note_report(rank)
        elif descriptor != rank.started.report:
            self.heard = time.monotonic()
            if self.options.session is not None:
                self.options.session.beat()

    def _note_report(self, rank: Rank) -> None:
        """Say once, when all ranks have reported, what could not be bound; a rank that did not start ends the run."""
        if rank.failure is not None:
            self.end(rank.failure.exit_code, f"rank {rank.rank}: {rank.failure.cause}", signal.SIGTERM)
        if not self.degradations_said and all(rank.reported for rank in self.ranks):
            self.degradations_said = True
            degradations = {reported.rank: reported.binding.degradations or () for reported in self.ranks if reported.binding}
            for sentence, ranks in evidence.ranks_by_sentence(degradations).items():
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
                        send(rank.pid, number)

    def _on_peer(self) -> None:
        """Something came from another node: its results, kept for later, or the news that the run is over."""
        session = self.options.session
        if session is not None and (lost := session.lost()) is not None:
            for descriptor in session.descriptors():
                self.selector.unregister(descriptor)
            self.end(lost.exit_code, lost.abort, signal.SIGTERM)

    def _reap(self) -> None:
        gone = reap()
        ended = [rank for rank in self.ranks if rank.alive and rank.pid in gone]
        for rank in ended:
            rank.ended(gone[rank.pid])
            self._note_report(rank)
        # Of ranks that were found dead at once, one that a signal ended is more likely the first cause.
        for rank in sorted(ended, key=lambda rank: rank.signal is None):
            if rank.exit_code != 0 and self.ending_since is None and self.dump is None:
                out_of_memory = rank.signal == signal.SIGKILL and (evidence.oom_kills() or 0) > (self.oom_kills or 0)
                self.end(RankFailed.exit_code, rank.obituary(out_of_memory), signal.SIGTERM)

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
                self.end(TimedOut.exit_code, self.cause, signal.SIGTERM)
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

    def _hang(self, reason: str) -> None:
        self.dump = StackDump([rank for rank in self.ranks if rank.alive])
        self.cause = f"{reason}: {self.dump.states()}"
        self.exit_code = TimedOut.exit_code
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
            said = self.cause == cause
            self.exit_code, self.cause = exit_code, cause
            if self.options.session is not None:
                self.options.session.abort(cause, exit_code)
            if any(rank.alive for rank in self.ranks):
                self.say("ending the ranks that are left" if said else f"{cause}; ending the ranks that are left")
        for rank in self.ranks:
            if rank.alive:
                send(rank.pid, number)
                send(rank.pid, signal.SIGCONT)

    def _kill(self) -> None:
        self.killed_at = time.monotonic()
        for rank in self.ranks:
            if rank.alive:
                send(rank.pid, signal.SIGKILL)

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
                for descriptor, read in rank.output_sources().items():
                    self.selector.register(descriptor, selectors.EVENT_READ, partial(self._on_output, rank, descriptor, read))

    def clean_up(self) -> None:
        """Leave no process, descriptor or half-read pipe behind, whatever happened."""
        if any(rank.alive for rank in self.ranks):
            self._kill()
        left = end_leftovers(self.spared)
        if left:
            self.say(f"{left} processes that the ranks had left behind were ended")
        for rank in self.ranks:
            rank.close()
        for console in (self.stdout, self.stderr):
            console.flush(LAST_FLUSH_S)
        self.selector.close()
        child.prctl(child.PR_SET_CHILD_SUBREAPER, 0)

    def outcome(self) -> LaunchOutcome:
        counters = evidence.port_counters((rank.command.plan for rank in self.ranks), self.options.sysfs)
        moved = evidence.traffic(self.counters, counters)
        return LaunchOutcome(tuple(rank.outcome(moved) for rank in self.ranks), self.exit_code, self.cause)


class StackDump:
    """The traces of a hang: each rank's state as the kernel sees it, and the Python stacks of all its threads. Polled by the loop."""

    def __init__(self, ranks: Sequence[Rank]) -> None:
        self._ranks = ranks
        self._states = {rank.rank: state(rank.pid) for rank in ranks}
        self._begun = self._changed = time.monotonic()
        self._writers = [rank for rank in ranks if catches(rank.pid, STACK_SIGNAL)]
        self._first = self._sizes = {rank.rank: rank.stacks_size() for rank in self._writers}
        for rank in self._writers:
            with suppress(ProcessLookupError):
                os.kill(rank.pid, STACK_SIGNAL)
                # A stopped process runs the handler only once it is continued.
                os.kill(rank.pid, signal.SIGCONT)

    def states(self) -> str:
        """The ranks grouped by state, stopped ones first: "rank 2 is stopped; ranks 0-1 are sleeping in ..."."""
        groups = evidence.ranks_by_sentence({rank: [state] for rank, state in self._states.items()})
        parts = [f"{evidence.name_ranks(ranks)} {'is' if len(ranks) == 1 else 'are'} {state}" for state, ranks in groups.items()]
        return "; ".join(sorted(parts, key=lambda part: "stopped" not in part)) or "no rank is left"

    def finished(self, now: float) -> bool:
        """True when every rank that can has written and none still writes, or the bound has passed."""
        sizes = {rank.rank: rank.stacks_size() for rank in self._writers}
        if sizes != self._sizes:
            self._sizes, self._changed = sizes, now
        written = all(sizes[name] > self._first[name] for name in sizes)
        return (written and now - self._changed >= DUMP_SETTLED_S) or now - self._begun >= DUMP_BOUND_S

    def texts(self) -> list[str]:
        """The dumps for people, one block a rank."""
        without = "(no Python stacks: not a script that EPBox runs, or it cannot run its signal handler)\n"
        ranks = [(rank.rank, rank.pid, rank.read_stacks() or without) for rank in self._ranks]
        return [f"[epbox] rank {rank}, pid {pid}, {self._states[rank]}:\n{stacks}" for rank, pid, stacks in ranks]


class Stat(NamedTuple):
    """A process by /proc/PID/stat: its state's letter, and its parent."""

    state: str
    parent: int


def _stat(pid: int) -> Stat | None:
    """None when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command name is in parentheses and may hold anything.
    state, parent = text.rpartition(")")[2].split()[:2]
    return Stat(state, int(parent))


def descendants(root: int) -> list[int]:
    """Every live descendant of `root`, zombies included, parents before children."""
    children: dict[int, list[int]] = {}
    # os.listdir: one string a process, no Path objects for thousands of them.
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and (stat := _stat(int(name))) is not None:
            children.setdefault(stat.parent, []).append(int(name))
    result = list(children.get(root, ()))
    for pid in result:
        result.extend(children.get(pid, ()))
    return result


def reap() -> dict[int, int]:
    """The wait status, by pid, of every child that has ended, orphans that were given to this process included."""
    statuses: dict[int, int] = {}
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            statuses[ended[0]] = ended[1]
    return statuses


def send(pid: int, number: int) -> None:
    """Signal a rank's process group, and the rank itself should it have left the group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
    with suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) != pid:
            os.kill(pid, number)


def end_leftovers(spared: Collection[int], grace_s: float = 0.5, bound_s: float = 3.0) -> int:
    """TERM, then KILL, everything below this process but `spared`. Returns how many there were. Bounded by `bound_s`."""
    start = time.monotonic()
    seen: set[int] = set()
    warned: set[int] = set()
    while True:
        reap()
        left = [pid for pid in descendants(os.getpid()) if pid not in spared]
        elapsed = time.monotonic() - start
        if not left or elapsed > bound_s:
            return len(seen)
        seen.update(left)
        for pid in left:
            if elapsed > grace_s or pid not in warned:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if elapsed > grace_s else signal.SIGTERM)
                    os.kill(pid, signal.SIGCONT)
            warned.add(pid)
        time.sleep(0.01)


def state(pid: int) -> str:
    """A process in one phrase, for the report of a hang: "stopped", "sleeping in futex_wait"."""
    stat = _stat(pid)
    if stat is None:
        return "gone"
    phrase = STATES.get(stat.state, stat.state)
    with suppress(OSError):
        function = Path(f"/proc/{pid}/wchan").read_text(errors="replace").strip()
        if function not in ("", "0") and stat.state in "SD":
            phrase += f" in {function}"
    return phrase


def catches(pid: int, number: int) -> bool:
    """True when the process has a handler for the signal (SigCgt), so that sending it cannot end the process."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False

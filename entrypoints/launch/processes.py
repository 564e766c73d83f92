"""Processes of a run as /proc shows them: descendants, states, and an end that leaves none behind."""

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path

STATES = {"R": "running", "S": "sleeping", "D": "in uninterruptible sleep", "T": "stopped", "t": "traced", "Z": "zombie"}


def _stat(pid: int) -> tuple[str, int] | None:
    """(state letter, parent pid), or None when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command name is in parentheses and may hold anything.
    state, parent = text.rpartition(")")[2].split()[:2]
    return state, int(parent)


def descendants(root: int) -> list[int]:
    """Every live descendant of `root`, zombies included, parents before children."""
    children: dict[int, list[int]] = {}
    # os.listdir: one string a process, no Path objects for thousands of them.
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and (found := _stat(int(name))) is not None:
            children.setdefault(found[1], []).append(int(name))
    result = list(children.get(root, ()))
    for pid in result:
        result.extend(children.get(pid, ()))
    return result


def reap() -> Iterator[tuple[int, int]]:
    """(pid, wait status) of every child that has ended, orphans that were given to us included."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def send(pid: int, number: int) -> None:
    """Signal a rank's process group, and the rank itself should it have left the group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) != pid:
            os.kill(pid, number)


def end_leftovers(spared: Collection[int], grace_s: float = 0.5, bound_s: float = 3.0) -> int:
    """TERM, then KILL, everything below this process but `spared`; how many there were. Bounded by `bound_s`."""
    start = time.monotonic()
    seen: set[int] = set()
    told: set[int] = set()
    while True:
        for _ in reap():
            pass
        left = [pid for pid in descendants(os.getpid()) if pid not in spared]
        elapsed = time.monotonic() - start
        if not left or elapsed > bound_s:
            return len(seen)
        seen.update(left)
        for pid in left:
            if elapsed > grace_s or pid not in told:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if elapsed > grace_s else signal.SIGTERM)
                    os.kill(pid, signal.SIGCONT)
            told.add(pid)
        time.sleep(0.01)


def state(pid: int) -> str:
    """A process in one phrase, for the report of a hang: "stopped", "sleeping in futex_wait"."""
    found = _stat(pid)
    if found is None:
        return "gone"
    phrase = STATES.get(found[0], found[0])
    with contextlib.suppress(OSError):
        where = Path(f"/proc/{pid}/wchan").read_text(errors="replace").strip()
        if where not in ("", "0") and found[0] in "SD":
            phrase += f" in {where}"
    return phrase


def catches(pid: int, number: int) -> bool:
    """True when the process has a handler for the signal (SigCgt), so that sending it cannot end the process."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False

"""What a hang leaves: each rank's state as the kernel sees it, and the Python stacks of all its threads."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

from entrypoints.launch import processes
from entrypoints.launch.evidence import name_ranks
from entrypoints.launch.rank import STACK_SIGNAL
from entrypoints.launch.running import Rank

#: How long the ranks have to write their stacks; the C handler needs milliseconds unless the process cannot run.
BOUND_S = 2.0
SETTLED_S = 0.15


class StackDump:
    """One dump over all ranks, polled by the supervisor's loop."""

    def __init__(self, ranks: Sequence[Rank]) -> None:
        self._ranks = ranks
        self._states = {rank.rank: processes.state(rank.pid) for rank in ranks}
        self._begun = self._changed = time.monotonic()
        self._asked = [rank for rank in ranks if processes.catches(rank.pid, STACK_SIGNAL)]
        self._sizes: dict[int, int] = {rank.rank: rank.stacks_size() for rank in self._asked}
        self._first = dict(self._sizes)
        for rank in self._asked:
            with suppress(ProcessLookupError):
                os.kill(rank.pid, STACK_SIGNAL)
                # A stopped process runs the handler only once it is continued.
                os.kill(rank.pid, signal.SIGCONT)

    def states(self) -> str:
        """The ranks grouped by state, stopped ones first: "rank 2 is stopped; ranks 0-1 are sleeping in ..."."""
        groups: dict[str, list[int]] = {}
        for rank, state in self._states.items():
            groups.setdefault(state, []).append(rank)
        parts = [f"{name_ranks(ranks)} {'is' if len(ranks) == 1 else 'are'} {state}" for state, ranks in groups.items()]
        return "; ".join(sorted(parts, key=lambda part: "stopped" not in part)) or "no rank is left"

    def finished(self, now: float) -> bool:
        """True when every asked rank has written and none still writes, or the bound has passed."""
        sizes = {rank.rank: rank.stacks_size() for rank in self._asked}
        if sizes != self._sizes:
            self._sizes, self._changed = sizes, now
        written = all(sizes[name] > self._first[name] for name in sizes)
        return (written and now - self._changed >= SETTLED_S) or now - self._begun >= BOUND_S

    def texts(self) -> list[str]:
        """The dumps for people, one block a rank."""
        blocks = []
        for rank in self._ranks:
            stacks = rank.read_stacks()
            body = stacks or "(no Python stacks: not a script that EPBox runs, or it cannot run its signal handler)\n"
            blocks.append(f"[epbox] rank {rank.rank}, pid {rank.pid}, {self._states[rank.rank]}:\n{body}")
        return blocks

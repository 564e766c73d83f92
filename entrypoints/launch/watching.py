"""When to look at a running rank, and what the looks add up to."""

import time
from collections.abc import Sequence
from typing import Any

from entrypoints.launch import evidence

#: First sample after this many seconds, then at doubling distance up to the last.
FIRST_SAMPLE_S, LAST_SAMPLE_S = 0.25, 15.0
#: Reading numa_maps holds the rank's memory map lock: after a sample the rank is left alone for this many times as long as it took.
SAMPLE_PAUSE = 100
#: A thread outside is looked at again after this: libraries move a thread for a moment while they load (libpsm2: 0.1 s) and put it back.
SECOND_LOOK_S = 0.5


class Watch:
    """The samples of one rank. `cpus` are those of its plan, empty where its threads may run anywhere."""

    def __init__(self, pid: int, cpus: Sequence[int], begun: float) -> None:
        self.pid, self.cpus = pid, cpus
        self.seen: dict[str, Any] = {}
        self._next = begun + FIRST_SAMPLE_S
        self._interval = FIRST_SAMPLE_S
        self._strays: frozenset[int] = frozenset()
        self._again = float("inf")
        self._moved: set[int] = set()
        self._outside = 0

    @property
    def due(self) -> float:
        """When to call `look` next (monotonic clock)."""
        return min(self._next, self._again)

    def look(self, now: float, bound: bool) -> None:
        """Look at threads and pages when it is time."""
        if now >= self._again:
            self._settle(evidence.outside(self.pid, self._strays, self.cpus))
        if now < self._next:
            return
        if not bound:
            # On a busy host: where it runs before its binding says nothing about the rank.
            self._next = now + FIRST_SAMPLE_S
            return
        # Not `now`, which is older by the samples of the ranks before.
        begun = time.monotonic()
        found = evidence.sample(self.pid, self.cpus)
        ended = time.monotonic()
        strays = frozenset(found.pop("strays", ()))
        if strays and not self._strays:
            self._strays, self._again = strays, ended + SECOND_LOOK_S
        self.seen = evidence.merge(self.seen, found)
        self._interval = min(LAST_SAMPLE_S, self._interval * 2)
        self._next = ended + max(self._interval, SAMPLE_PAUSE * (ended - begun))

    def _settle(self, outside: frozenset[int]) -> None:
        """Those of the strays that still are outside have left the plan; the others were moved for a moment."""
        self._outside = max(self._outside, len(outside))
        self._moved |= self._strays - outside
        self._strays, self._again = frozenset(), float("inf")

    def result(self, final_maps: str) -> dict[str, Any]:
        """All samples as one; `final_maps` is the numa_maps text that the rank wrote of itself at its end."""
        # It ended before the second look: what was seen counts.
        self._settle(self._strays)
        seen = dict(self.seen)
        if final_maps:
            last = evidence.numa_maps_summary(final_maps)
            policies = sorted({*seen.get("policies", ()), str(last["policy"])})
            seen = evidence.merge(seen, {"threads": seen.get("threads", 1), **last, "policies": policies})
        if seen:
            seen |= {"threads_outside": self._outside, "threads_moved": len(self._moved)}
        return seen

"""Bounds of time that hold on a busy machine: a figure that a user is promised, times what the machine is short of."""

import os


def busy(seconds: float) -> float:
    """`seconds` where every runnable task has a CPU, else as many times more as there are tasks for one (at least twice, for bursts)."""
    return seconds * max(2.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))

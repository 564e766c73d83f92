"""Bounds of time that hold on a busy machine: a figure that a user is promised, times what the machine is short of."""

import os


def busy(seconds: float) -> float:
    """`seconds` times the tasks that run for each CPU, at least four: the load average of a minute understates a sudden burst."""
    return seconds * max(4.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))

"""The thresholds --min-gbps, --min-ratio and --require-complete, of bench and of results alike.

Judged are the medians over the runs of one test and shape, of the runs that are bound as the plan says and are not the baseline's.
A run of several copies (nodes that print the same figures) is one run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from entrypoints.errors import UsageError
from entrypoints.output import say
from entrypoints.results.metrics import Metric, by_group, limiting, on_plan
from entrypoints.results.model import Run
from entrypoints.results.references import beside_published, strictest

#: Runs that a sentence names.
MOST_NAMED = 8


class Judgement(NamedTuple):
    """One figure held against a threshold: a sentence in `missed` where it is below, in `noted` where only single runs are; else ""."""

    missed: str = ""
    noted: str = ""


@dataclass(frozen=True)
class Bandwidth:
    """A least bandwidth, of one operation (`dispatch`, `dispatch/fp8`) or, with name "", of every limiting one."""

    gbps: float
    name: str = ""

    def __str__(self) -> str:
        return f"--min-gbps {self.name}{'=' if self.name else ''}{self.gbps:g}"

    def names(self, metric: Metric) -> bool:
        return self.name in ("", metric.op, f"{metric.op}/{metric.dtype}")


def parse_bandwidth(text: str) -> Bandwidth:
    """`45` or `combine=45`. Raises UsageError."""
    name, _, least = text.rpartition("=")
    try:
        return Bandwidth(float(least), name)
    except ValueError:
        raise UsageError(f"--min-gbps {text}: not a number", hint="for example 40 or combine=45") from None


def judge_bandwidth(runs: Sequence[Run], least: Bandwidth) -> list[Judgement]:
    """Hold the limiting bandwidth of each operation against a threshold; a named one reaches the kernels of low latency alone too."""

    def named(run: Run) -> dict[Metric, float]:
        return {sample.metric: sample.gbps for sample in limiting(run, kernels=bool(least.name)) if least.names(sample.metric)}

    judgements = []
    for figures in by_group(on_plan(runs), named).values():
        for metric, by_run in figures.items():
            middle = median(by_run.values())
            figure = f"{metric.operation} {middle:.2f} GB/s ({metric.direction}) is"
            judgements.append(_judge(figure, middle, least.gbps, str(least), by_run))
    return judgements


def judge_ratio(runs: Sequence[Run], least: float, reference: str | None = None) -> list[Judgement]:
    """Hold each figure against the best published one that is not said to be unbound, or against one reference by its id."""
    judgements = []
    for _, row, ratios in strictest(beside_published(on_plan(runs)), reference):
        figure = f"{row.metric} {row.value:.2f} is {row.ratio:.2f} of {row.reference} ({row.id}: {row.source}),"
        judgements.append(_judge(figure, row.ratio, least, f"--min-ratio {least:g}", ratios))
    return judgements


def _judge(figure: str, middle: float, least: float, threshold: str, by_run: Mapping[int, float]) -> Judgement:
    """One figure by its median over runs; the runs that alone are below are named either way."""
    below = [f"run {position + 1} ({value:.2f})" for position, value in by_run.items() if value < least]
    named = ", ".join(below[:MOST_NAMED]) + (f" and {len(below) - MOST_NAMED} more" if len(below) > MOST_NAMED else "")
    if middle < least:
        over_runs = f" (median of {len(by_run)} runs; below it alone: {named})" if len(by_run) > 1 else ""
        return Judgement(missed=f"{figure} below {threshold}{over_runs}")
    return Judgement(noted=f"{figure} not below {threshold}, but {named} alone is" if below else "")


def judge_completeness(runs: Sequence[Run]) -> list[Judgement]:
    """Every run must have printed all that its test prints."""
    incomplete = [run for run in on_plan(runs) if not run.complete]
    return [
        Judgement(f"{f'{run.source}: ' if run.source else ''}{run.test} is not complete: {'; '.join(run.missing or ())}")
        for run in incomplete
    ]


def missed(judgements: Sequence[Judgement], quiet: bool = False) -> list[str]:
    """The sentences of what is below its threshold. Unless `quiet`, stderr gets what only single runs are below."""
    for judgement in judgements:
        if judgement.noted and not quiet:
            say(f"note: {judgement.noted}")
    return [judgement.missed for judgement in judgements if judgement.missed]

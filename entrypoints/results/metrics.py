"""The figures of a run, their names, and their medians over runs: one Metric for bench, results, history and the report."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, NamedTuple

from entrypoints.results.model import BASELINE, AblationRow, Best, ComparisonRow, FigureRow, OfOperation, Run, SummaryRow

#: Arms of bench that are bound as the plan says: their figures are those of a run without arms.
PLANNED = (None, "", "nic+cpu+mem", BASELINE)


@dataclass(frozen=True)
class Metric:
    """One figure: GB/s in a direction (RDMA, NVL, or total of a low-latency kernel), or a time (direction "us")."""

    op: str
    dtype: str | None
    direction: str

    @property
    def operation(self) -> str:
        """`dispatch FP8`, `combine`."""
        return operation(self)

    @property
    def unit(self) -> str:
        return {"us": "us", "total": "GB/s"}.get(self.direction, f"GB/s ({self.direction})")

    @property
    def label(self) -> str:
        """`dispatch FP8, GB/s (RDMA)`."""
        return f"{self.operation}, {self.unit}"

    def fields(self) -> dict[str, Any]:
        """Its fields in a row of a result."""
        return {"op": self.op, "dtype": self.dtype, "direction": self.direction}

    def ratio(self, value: float, reference: float) -> float:
        """Above 1 where the value is better: a higher bandwidth or a shorter time."""
        return reference / value if self.direction == "us" else value / reference


class Sample(NamedTuple):
    """A figure of one run; `low` and `high` are the quartiles of the repeats inside the run, where its test tells them."""

    metric: Metric
    gbps: float
    low: float
    high: float


class Group(NamedTuple):
    """The test and sizes that two runs must have in common to be compared; unknown sizes are left out."""

    test: str
    shape: tuple[tuple[str, int | str], ...]


class Quartiles(NamedTuple):
    p25: float
    p75: float


def operation(item: "OfOperation | Metric") -> str:
    """The name of an operation: `dispatch FP8`, `combine`."""
    return f"{item.op} {item.dtype.upper()}" if item.dtype else item.op


def metric_of(row: SummaryRow | AblationRow | ComparisonRow) -> Metric:
    """The metric that a row of a result is about."""
    return Metric(row.op, row.dtype, row.direction)


def metrics(run: Run) -> dict[Metric, float]:
    """The figures of one run. Several copies (nodes that print the same) and all ranks of low latency give their median."""
    values: dict[Metric, list[float]] = defaultdict(list)
    for best in run.best:
        for direction, gbps in (("RDMA", best.rdma_gbps), ("NVL", best.nvl_gbps)):
            if gbps is not None:
                values[Metric(best.op, best.dtype, direction)].append(float(gbps))
    for both in run.low_latency:
        values[Metric("dispatch+combine", None, "total")].append(both.dispatch_combine_gbps)
        values[Metric("dispatch+combine", None, "us")].append(both.avg_us)
    for rank in run.low_latency_kernels or ():
        for op, gbps, us in (("dispatch", rank.dispatch_gbps, rank.dispatch_us), ("combine", rank.combine_gbps, rank.combine_us)):
            for direction, figure in (("total", gbps), ("us", us)):
                if figure is not None:
                    values[Metric(op, None, direction)].append(figure)
    return {metric: median(figures) for metric, figures in values.items()}


def limiting(run: Run, kernels: bool = False) -> list[Sample]:
    """One bandwidth an operation, in the direction that limits it: RDMA between nodes, NVL within one or without an RDMA figure.

    Low latency has that of both kernels together, and with `kernels` that of each alone as well. Where the number of nodes is
    unknown, an RDMA figure tells that there are several.
    """
    within_node = run.shape.nodes is not None and run.shape.nodes < 2
    figures = metrics(run)
    samples = []
    for metric, gbps in figures.items():
        has_rdma = Metric(metric.op, metric.dtype, "RDMA") in figures and not within_node
        wanted = {
            "RDMA": has_rdma,
            "NVL": not has_rdma,
            "total": kernels or not run.low_latency or metric.op == "dispatch+combine",
            "us": False,
        }
        if not wanted[metric.direction]:
            continue
        spread = _spread(run.best, metric)
        samples.append(Sample(metric, gbps, gbps * spread.p25, gbps * spread.p75))
    return samples


def _spread(bests: Iterable[Best], metric: Metric) -> Quartiles:
    """The quartiles of the repeats inside a run, as factors of its bandwidth."""
    times = [best.us for best in bests if best.us is not None and (best.op, best.dtype) == (metric.op, metric.dtype)]
    low, high = ([time.median / edge for time in times if (edge := getattr(time, name))] for name in ("p75", "p25"))
    return Quartiles(median(low) if low else 1.0, median(high) if high else 1.0)


def workload_runs(runs: Iterable[Run]) -> list[Run]:
    """The workload's runs, without those of the baseline."""
    return [run for run in runs if run.arm != BASELINE]


def on_plan(runs: Sequence[Run]) -> list[Run]:
    """The runs that a threshold is for: not a baseline's, and of an ablation those of the whole plan; all where there are no others."""
    return [run for run in runs if run.arm in PLANNED and run.arm != BASELINE] or list(runs)


def group_of(run: Run) -> Group:
    """The test and shape of a run; an arm that is not bound as the plan says counts as a shape of its own."""
    names = ("nodes", "ranks", "num_tokens", "hidden", "num_topk", "num_experts")
    sizes: list[tuple[str, int | str]] = [(name, size) for name in names if (size := getattr(run.shape, name)) is not None]
    if run.arm is not None and run.arm not in PLANNED:
        sizes.append(("arm", run.arm))
    return Group(run.test, tuple(sizes))


def by_group(
    runs: Iterable[Run], figures: Callable[[Run], Mapping[Metric, float]] = metrics
) -> dict[Group, dict[Metric, dict[int, float]]]:
    """The figures of the runs of each test and shape, in order of appearance: per metric the value of each run, by its position."""
    groups: dict[Group, dict[Metric, dict[int, float]]] = {}
    for position, run in enumerate(runs):
        group = groups.setdefault(group_of(run), {})
        for metric, value in figures(run).items():
            group.setdefault(metric, {})[position] = value
    return groups


def figure_rows(runs: Iterable[Run]) -> tuple[FigureRow, ...]:
    """Median, minimum, maximum and spread ((max - min) / median) per metric over runs of the same test and shape."""
    rows = []
    for group, figures in by_group(runs).items():
        for metric, by_run in figures.items():
            values = list(by_run.values())
            middle = median(values)
            rows.append(
                FigureRow(
                    test=group.test,
                    shape=dict(group.shape),
                    metric=metric.label,
                    runs=len(values),
                    median=round(middle, 4),
                    min=min(values),
                    max=max(values),
                    spread=round((max(values) - min(values)) / middle, 4) if middle else None,
                    statistic="median over runs, each the best its test printed" if len(values) > 1 else "one run",
                )
            )
    return tuple(rows)


def summary_rows(runs: Iterable[Run]) -> tuple[SummaryRow, ...]:
    """Median and spread of the limiting bandwidth of each operation over the runs of each arm."""
    values: dict[tuple[str | None, Metric], list[float]] = defaultdict(list)
    for run in runs:
        for sample in limiting(run):
            values[run.arm or None, sample.metric].append(sample.gbps)
    rows = []
    for (arm, metric), figures in values.items():
        edges = quartiles(figures)
        row = SummaryRow(
            arm=arm,
            **metric.fields(),
            median_gbps=round(median(figures), 4),
            min_gbps=min(figures),
            max_gbps=max(figures),
            p25_gbps=round(edges.p25, 4),
            p75_gbps=round(edges.p75, 4),
            runs=len(figures),
        )
        rows.append(row)
    return tuple(rows)


def quartiles(values: Sequence[float]) -> Quartiles:
    """The quartiles by linear interpolation between order statistics (the common "type 7")."""
    if len(values) < 2:
        return Quartiles(values[0], values[0])
    p25, _, p75 = quantiles(values, n=4, method="inclusive")
    return Quartiles(p25, p75)

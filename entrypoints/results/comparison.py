"""Runs side by side, and what can be said of the difference.

Two sets of one shape (`results --compare`), DeepEP and the all-to-all (`bench --baseline`), the arms of an ablation (`bench --ablate`).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from math import comb, erfc, sqrt
from statistics import median

from entrypoints.errors import UsageError
from entrypoints.results.metrics import Group, Metric, Sample, by_group, limiting, metric_of, operation, quartiles, workload_runs
from entrypoints.results.model import BASELINE, AblationRow, Change, ComparedRow, Comparison, ComparisonRow, Run, Shape

#: Differences with a larger probability under "nothing changed" are called noise.
ALPHA = 0.05
#: Outcomes that are counted one by one; above, the normal distribution stands in.
MOST_COUNTED = 50_000
#: Runs of an arm below which nothing is called a difference.
LEAST_RUNS = 3
#: What must be equal for two results to be of one shape.
SIZES = ("nodes", "ranks", "num_tokens", "hidden", "num_topk", "num_topk_groups", "num_experts")
#: Tests that move tokens to experts and back; the others have nothing in common with an all-to-all.
HIGH_THROUGHPUT, TIMED = ("internode", "intranode"), ("low_latency", "elastic_ep")


def compare(before: Sequence[Run], after: Sequence[Run]) -> list[ComparedRow]:
    """Rows of the metrics that both have, for the same test and shape. Raises UsageError where they have no shape in common."""
    left, right = by_group(before), by_group(after)
    shared = [group for group in left if group in right]
    if not shared:
        raise UsageError(f"nothing to compare: no two runs of the same test and shape ({_names(left)} against {_names(right)})")
    pairs = ((group, metric) for group in shared for metric in left[group] if metric in right[group])
    return [_row(group, metric, *(list(side[group][metric].values()) for side in (left, right))) for group, metric in pairs]


def _names(groups: Iterable[Group]) -> str:
    return "; ".join(f"{group.test} {dict(group.shape)}" for group in groups) or "no run"


def _row(group: Group, metric: Metric, before: Sequence[float], after: Sequence[float]) -> ComparedRow:
    a, b = median(before), median(after)
    change = (b - a) / a if a else 0.0
    probability = rank_sum_p(before, after)
    better = None
    if probability is None:
        note = f"{len(before)} and {len(after)} runs: too few to tell a change from noise (4 each are the least)"
    elif probability > ALPHA:
        note = f"noise: p = {probability:.2f}"
    else:
        note = f"significant: p = {probability:.3f}"
        better = change < 0 if metric.direction == "us" else change > 0
    return ComparedRow(
        test=group.test,
        shape=dict(group.shape),
        metric=metric.label,
        a=round(a, 4),
        b=round(b, 4),
        runs=(len(before), len(after)),
        change=round(change, 4),
        better=better,
        p=None if probability is None else round(probability, 4),
        note=note,
    )


def rank_sum_p(one: Sequence[float], two: Sequence[float]) -> float | None:
    """Two-sided p of the rank-sum test: exact for few runs, by the normal distribution for many.

    None where no outcome of so few runs could reach ALPHA.
    """
    total = comb(len(one) + len(two), len(one))
    if 2 / total > ALPHA:
        return None
    pooled = sorted([*one, *two])
    # Equal values share the mean of their ranks.
    ranks = {value: (pooled.index(value) + len(pooled) - pooled[::-1].index(value) + 1) / 2 for value in set(pooled)}
    expected = len(one) * (len(pooled) + 1) / 2
    distance = abs(sum(ranks[value] for value in one) - expected)
    if total > MOST_COUNTED:
        return erfc(max(0.0, distance - 0.5) / sqrt(len(one) * len(two) * (len(one) + len(two) + 1) / 12) / sqrt(2))
    all_ranks = [ranks[value] for value in pooled]
    extreme = sum(abs(sum(chosen) - expected) >= distance - 1e-9 for chosen in combinations(all_ranks, len(one)))
    return extreme / total


def beside_alltoall(runs: Iterable[Run], job: Shape) -> Comparison:
    """The ratios DeepEP / all-to-all of a job's runs (above 1: DeepEP is faster); without rows where there is no ratio.

    Value, baseline and ratio are medians over runs; the ratio's range is that of runs taken in turns.
    """
    runs = list(runs)
    workload, baseline = workload_runs(runs), [run for run in runs if run.arm == BASELINE]
    if not workload or not baseline:
        return Comparison(workload="alltoall", compared="one of the two printed no figures")
    shape = workload[0].shape
    sizes = [(name, getattr(shape, name), getattr(baseline[0].shape, name)) for name in SIZES]
    differing = [f"{name} {size} and {other}" for name, size, other in sizes if size is not None and size != other]
    if differing:
        text = f"shapes differ ({', '.join(differing)}), so there is no ratio"
        return Comparison(workload="alltoall", backend=baseline[0].backend, compared=text)
    deepep, alltoall = ([_values(run) for run in side] for side in (workload, baseline))
    rows = []
    for metric in deepep[0]:
        values, references = ([figures[metric] for figures in side if metric in figures] for side in (deepep, alltoall))
        if values and references:
            rows.append(_ratio_row(metric, values, references))
    nodes = job.nodes or shape.nodes or 1
    return Comparison(
        workload="alltoall", backend=baseline[0].backend, rows=tuple(rows), compared=_compared(workload[0], baseline[0], nodes)
    )


def baseline_verdict(comparison: Comparison) -> str:
    """The ratios in one phrase, or why there are none."""
    ratios = ", ".join(f"{operation(row)} {row.ratio:.2f}" for row in comparison.rows)
    return f"DeepEP / all-to-all: {ratios}" if ratios else f"no ratio to the all-to-all: {comparison.compared}"


def _values(run: Run) -> dict[Metric, float]:
    """A run's figures. Where bytes are counted otherwise than by the all-to-all, times take their place."""
    values: dict[Metric, float] = {}
    if run.test in (*HIGH_THROUGHPUT, "alltoall"):
        values |= {sample.metric: sample.gbps for sample in limiting(run)}
    for best in run.best:
        time = best.us.median if best.us and best.us.median else best.time_us
        if time and run.test not in HIGH_THROUGHPUT:
            values[Metric(best.op, best.dtype, "us")] = time
    kernels = run.low_latency_kernels or ()
    for metric, times in (
        (Metric("dispatch", "fp8", "us"), [rank.dispatch_us for rank in kernels if rank.dispatch_us]),
        (Metric("combine", None, "us"), [rank.combine_us for rank in kernels if rank.combine_us]),
    ):
        if times:
            values[metric] = median(times)
    return values


def _ratio_row(metric: Metric, values: Sequence[float], references: Sequence[float]) -> ComparisonRow:
    """One metric over the runs of both, taken in pairs."""
    ratios = [metric.ratio(value, reference) for value, reference in zip(values, references, strict=False)]
    value, reference = median(values), median(references)
    figures = {"value": value, "baseline": reference, "ratio": metric.ratio(value, reference)}
    figures |= {"ratio_min": min(ratios), "ratio_max": max(ratios)}
    # Six digits, not four places: on a slow host bandwidths are thousandths.
    cells = metric.fields() | {name: float(f"{figure:.6g}") for name, figure in figures.items()}
    return ComparisonRow(**cells, runs=len(ratios))


def _compared(workload: Run, baseline: Run, nodes: int) -> str:
    """In words what the ratio sets side by side, from the tests' own definitions (DeepEP tests/test_internode.py, v1.2.1)."""
    tokens, hidden, topk, experts = (
        "?" if size is None else size
        for size in (workload.shape.num_tokens, workload.shape.hidden, workload.shape.num_topk, workload.shape.num_experts)
    )
    size = f"{tokens} tokens x {hidden} a rank, top-{topk} of {experts} experts"
    alltoall = f"all-to-all on {baseline.backend}, median over repeats of their slowest rank"
    if workload.test in HIGH_THROUGHPUT:
        text = (
            f"Both: {size}, routes by one rule, so both count the same algorithm bytes and the ratio of GB/s is that of times. "
            f"DeepEP: best of its sweep as rank 0 prints it, kernels alone; {alltoall}."
        )
    elif workload.test == "low_latency":
        text = (
            f"Both: {size}; compared are times, for low latency sends a copy for each expert and the all-to-all one a rank. "
            f"DeepEP: median over ranks of their mean, the cast to FP8 inside; {alltoall}, cast before."
        )
    else:
        text = (
            f"Both: {size}; compared are times, for V2 counts bytes by domains of its own (SO, SU). "
            f"DeepEP: fastest configuration, median over ranks; {alltoall}."
        )
    sent = next((best.bytes for best in baseline.best if best.dtype == "bf16" and best.bytes), None)
    if nodes > 1 and sent and workload.test == "internode":
        once = sent["rdma"] * (nodes - 1) / nodes
        text += (
            f" Bytes off the node, a rank and BF16 dispatch: DeepEP {once / 1e6:.1f} MB (one copy a node, then NVLink), "
            f"all-to-all {sent['off_node'] / 1e6:.1f} MB (one copy a rank)."
        )
    elif nodes == 1:
        text += " One node: nothing goes over the network."
    return text


def ablation(runs: Sequence[Run], equal: Collection[str] = ()) -> tuple[AblationRow, ...]:
    """A row for each arm and operation.

    A change counts only when it is larger than the wider of the two spreads; anything smaller is noise. Arms in `equal` cannot
    differ from the one before: their change is noise by definition, and no smaller change of that operation counts. Fewer than
    LEAST_RUNS runs leave it undecided (None): runs differ by more than the repeats inside one show.
    """
    samples: dict[Metric, dict[str, list[Sample]]] = {}
    for run in runs:
        for sample in limiting(run):
            samples.setdefault(sample.metric, {}).setdefault(run.arm or "", []).append(sample)
    rows = []
    for metric, by_arm in samples.items():
        arms = [arm_row(arm, metric, by_arm[arm]) for arm in by_arm]
        # What arms that cannot differ differ by is what chance makes here.
        floor = max((abs(relative(*pair) or 0.0) for pair in pairwise(arms) if pair[1].arm in equal), default=0.0)
        for number, row in enumerate(arms):
            # The first has none before it.
            step = change(arms[number - 1], row, floor, row.arm in equal) if number else Change()
            against_none = change(arms[0], row, floor) if number else Change()
            written = {name: round(getattr(row, name), 4) for name in ("median_gbps", "low_gbps", "high_gbps")}
            written["floor"] = round(floor, 4) if equal else None
            rows.append(replace(row, **written, change=step.change, noise=step.noise, against_none=against_none))
    order = list(dict.fromkeys(run.arm or "" for run in runs))
    return tuple(sorted(rows, key=lambda row: order.index(row.arm)))


def arm_row(arm: str, metric: Metric, samples: Sequence[Sample]) -> AblationRow:
    """Median and spread of one arm: the spread of the runs, or of the repeats inside them where that is wider."""
    values = [sample.gbps for sample in samples]
    edges = quartiles(values)
    return AblationRow(
        arm=arm,
        **metric.fields(),
        median_gbps=median(values),
        low_gbps=min(edges.p25, median(sample.low for sample in samples)),
        high_gbps=max(edges.p75, median(sample.high for sample in samples)),
        runs=len(values),
    )


def relative(before: AblationRow, after: AblationRow) -> float | None:
    """The relative change of the median; None from 0."""
    return (after.median_gbps - before.median_gbps) / before.median_gbps if before.median_gbps else None


def change(before: AblationRow, after: AblationRow, floor: float, equal: bool = False) -> Change:
    """The relative change, noise where it is not above what chance makes; whether it is noise is None where one has too few runs."""
    step = relative(before, after)
    if step is None:
        return Change()
    noise = None
    if min(before.runs, after.runs) >= LEAST_RUNS:
        spread = max(row.high_gbps - row.low_gbps for row in (before, after))
        noise = equal or abs(step) <= floor or abs(after.median_gbps - before.median_gbps) <= spread
    return Change(change=round(step, 4), noise=noise)


def in_words(step: Change | AblationRow) -> str:
    """A change as "+12.0%", "+12.0% noise", "+12.0% ?" for undecided, "-" for none."""
    if step.change is None:
        return "-"
    return f"{step.change:+.1%}" + {True: " noise", False: "", None: " ?"}[step.noise]


def ablation_verdict(rows: Sequence[AblationRow]) -> str:
    """The sense of the rows, in one sentence."""
    if any(row.noise is None and row.change is not None for row in rows):
        return f"fewer than {LEAST_RUNS} runs decide nothing"
    real = [row for row in rows if row.noise is False]
    if not real:
        return "no arm differs from the one before by more than noise"
    return "beyond noise: " + ", ".join(f"{row.arm} {row.change:+.0%} ({operation(row)})" for row in real)


def ablation_legend(rows: Sequence[AblationRow]) -> list[str]:
    """Lines that explain the table of these rows."""
    lines = ["noise: not larger than the wider p25 .. p75 of the two arms, or than what arms that are equal here differ by"]
    floors = {metric_of(row).operation: row.floor for row in rows if row.floor}
    if floors:
        lines.append("equal arms differ by: " + ", ".join(f"{name} {floor:.0%}" for name, floor in floors.items()))
    if any(row.runs < LEAST_RUNS for row in rows):
        lines.append(f"?: fewer than {LEAST_RUNS} runs decide nothing, use --runs")
    return lines

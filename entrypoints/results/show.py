"""Results for people: each table is built once, here; `results.tables` renders it as text, Markdown or HTML.

`origin` is the name of the file that a page's figures point into, such as "result.json".
"""

from collections.abc import Callable, Sequence
from textwrap import fill

from entrypoints.results import comparison, model
from entrypoints.results.history import Series, spark
from entrypoints.results.metrics import metric_of, operation, workload_runs
from entrypoints.results.model import BASELINE, Run
from entrypoints.results.ranks import JsonObject, RankRecord, Record
from entrypoints.results.tables import Number, Span, Table, number, percent, to_text

Render = Callable[[Table], str]

#: Rows of ranks in a terminal; a larger run shows those that matter, and result.json has all.
MOST_ROWS = 64
SLOWEST = 16
#: Runs that are listed one by one; of more the first and last half of as many are.
MOST_RUNS = 20


def _numbers(record: Record, at: str, *names: str, digits: int | None = None) -> list[Number | str | None]:
    """Fields of a record as cells; None where one is None, and words as they are."""
    values = [(name, getattr(record, name)) for name in names]
    return [value if value is None or isinstance(value, str) else Number(value, digits, f"{at}.{name}") for name, value in values]


def _span(record: Record, at: str, low: str, high: str, digits: int | None = None) -> Span:
    """From one field of a record to another."""
    return Span(Number(getattr(record, low), digits, f"{at}.{low}"), Number(getattr(record, high), digits, f"{at}.{high}"))


def best_table(runs: Sequence[Run], origin: str = "") -> Table:
    """The best lines of each run, without columns that none of them has."""
    rows: list[list[object]] = []
    several = len(runs) > 1
    for i, run in enumerate(runs):
        for j, best in enumerate(run.best):
            at = f"{origin}#runs[{i}].best[{j}]"
            figures = _numbers(best, at, "rdma_gbps", "nvl_gbps", "time_us" if best.transmit_us is None else "transmit_us")
            spread = best.us and _span(best.us, f"{at}.us", "p25", "p75", 1)
            others = _numbers(best, at, "notify_us", "sms", "nvl_chunk", "rdma_chunk")
            number_of_run, arm = (i + 1, run.arm or run.test) if several else (None, None)
            rows.append([number_of_run, operation(best), *figures, spread, *others, arm])
    # Figures first: on a phone they are in sight.
    columns = ["GB/s (RDMA)", "GB/s (NVL)", "us", "us p25 .. p75", "notify us", "SMs", "NVL chunk", "RDMA chunk"]
    return Table(["run", "best", *columns, "test or arm"], rows, right=(0, 2, 3, 4, 5, 6, 7, 8, 9)).without_empty_columns()


def low_latency_table(ranks: Sequence[model.LowLatency | model.LowLatencyKernels]) -> Table:
    """The low-latency kernels rank by rank: both together, or each alone."""
    columns = {"dispatch_combine_gbps": "dispatch + combine GB/s", "avg_us": "avg us", "min_us": "min us", "max_us": "max us"}
    if isinstance(ranks[0], model.LowLatencyKernels):
        columns = {"dispatch_gbps": "dispatch GB/s", "dispatch_us": "us", "combine_gbps": "combine GB/s", "combine_us": "us"}
    return Table(["rank", *columns.values()], [[rank.rank, *_numbers(rank, "", *columns)] for rank in ranks], right=(0, 1, 2, 3, 4))


def summary_table(rows: Sequence[model.SummaryRow], origin: str = "") -> Table:
    """Medians over the runs of each arm, the arms of an operation together."""
    cells = []
    order = list(dict.fromkeys(map(operation, rows)))
    for i, row in sorted(enumerate(rows), key=lambda pair: order.index(operation(pair[1]))):
        at = f"{origin}#summary[{i}]"
        (middle, runs), span = _numbers(row, at, "median_gbps", "runs"), _span(row, at, "min_gbps", "max_gbps")
        cells.append([operation(row), row.arm, middle, span, metric_of(row).unit, runs])
    headers = ["operation", "arm", "median", "min .. max", "figure", "runs"]
    return Table(headers, cells, right=(2, 3, 5)).without_empty_columns()


def figures_table(rows: Sequence[model.FigureRow]) -> Table:
    """Every metric over the runs of each test and shape."""
    cells = [
        [_test(row.test, row.shape), row.metric, row.runs, *_numbers(row, "", "median", "min", "max"), percent(row.spread)] for row in rows
    ]
    return Table(["test", "figure", "runs", "median", "min", "max", "spread"], cells, right=(2, 3, 4, 5, 6))


def _test(test: str, shape: JsonObject) -> str:
    return f"{test}, {shape['arm']}" if "arm" in shape else test


def references_table(rows: Sequence[model.ReferenceRow], origin: str = "") -> Table:
    """Published results of the same test and shape."""
    cells = []
    for i, row in enumerate(rows):
        hardware = row.hardware + (" (not bound)" if row.bound is False else "")
        cells.append([row.metric, *_numbers(row, f"{origin}#references[{i}]", "value", "reference", "ratio"), hardware, row.source])
    return Table(["figure", "here", "there", "ratio", "hardware", "source"], cells, right=(1, 2, 3), wide=(4, 5))


def wire_table(rows: Sequence[model.WireRow], origin: str = "") -> Table:
    """Bandwidths off the node, beside the line rate."""
    cells = []
    for i, row in enumerate(rows):
        at = f"{origin}#wire[{i}]"
        share = Number(row.share * 100, 0, f"{at}.share", "%")
        cells.append([row.metric, *_numbers(row, at, "value", "off_node_gbps", "line_rate_gbps"), share])
    return Table(["figure", "counted", "off the node", "line rate", "share"], cells, right=(1, 2, 3, 4))


def alltoall_table(comparison: model.Comparison, origin: str = "") -> Table:
    """DeepEP beside the all-to-all."""
    cells = []
    for i, row in enumerate(comparison.rows):
        at = f"{origin}#baseline.rows[{i}]"
        *figures, runs = _numbers(row, at, "value", "baseline", "ratio", "runs")
        span = _span(row, at, "ratio_min", "ratio_max") if row.runs > 1 else None
        cells.append([operation(row), metric_of(row).unit, *figures, span, runs])
    headers = ["operation", "figure", "DeepEP", "all-to-all", "DeepEP / all-to-all", "over runs", "runs"]
    return Table(headers, cells, right=(2, 3, 4, 5, 6))


def ablation_table(rows: Sequence[model.AblationRow], origin: str = "") -> Table:
    """Each arm beside the one before it, the arms of an operation together."""
    cells = []
    order = list(dict.fromkeys(map(operation, rows)))
    for i, row in sorted(enumerate(rows), key=lambda pair: order.index(operation(pair[1]))):
        at = f"{origin}#ablation[{i}]"
        figures = (*_numbers(row, at, "median_gbps", digits=3), _span(row, at, "low_gbps", "high_gbps", 3))
        changes = (comparison.in_words(row), comparison.in_words(row.against_none))
        cells.append([operation(row), row.arm, *figures, *changes, *_numbers(row, at, "runs")])
    figure = f"GB/s ({' or '.join(dict.fromkeys(row.direction for row in rows))}), median"
    return Table(["operation", "arm", figure, "p25 .. p75", "against the arm before", "against none", "runs"], cells, right=(2, 3, 6))


def compared_table(rows: Sequence[model.ComparedRow]) -> Table:
    """Two sets of runs, and what can be said of the difference."""
    cells = []
    for row in rows:
        figures = (*_numbers(row, "", "a", "b"), percent(row.change, signed=True), "/".join(map(str, row.runs)))
        cells.append([_test(row.test, row.shape), row.metric, *figures, row.note])
    return Table(["test", "figure", "A", "B", "change", "runs", "what can be said"], cells, right=(2, 3, 4))


def shape_text(shape: model.Shape) -> str:
    """The known sizes in a line: `nodes 2, ranks 16`."""
    return ", ".join(f"{name} {size}" for name, size in shape.sizes().items())


def run_text(run: Run, render: Render) -> str:
    """One run: what it is, its best lines or ranks, and what it lacks."""
    shape = shape_text(run.shape)
    parts = [f"{run.test} (format {run.format})" + (f": {shape}" if shape else ""), ""]
    if run.best:
        parts.append(render(best_table([run])))
        parts += [f"({best.op}: {best.statistic})" for best in run.best if best.statistic][:1]
    if run.low_latency:
        parts.append(render(low_latency_table(sorted(run.low_latency, key=lambda rank: rank.rank))))
    elif run.low_latency_kernels:
        parts.append(render(low_latency_table(run.low_latency_kernels)))
    if run.metrics:
        keys = [key for key in run.metrics[0] if key != "shape"]
        parts.append(render(Table(keys, [[row.get(key) for key in keys] for row in run.metrics])))
    cases = f", {run.passed_cases} of {run.expected_cases} cases passed" if run.expected_cases else ""
    parts += ["", f"complete{cases}" if run.complete else "not complete: " + "; ".join(run.missing or ("?",))]
    return "\n".join(parts)


def runs_text(document: model.ParsedRuns, render: Render) -> str:
    """All runs, then statistics, references and the wire."""
    runs = document.runs
    half = MOST_RUNS // 2
    listed = runs if len(runs) <= MOST_RUNS else (*runs[:half], *runs[-half:])
    parts = [run_text(run, render) for run in listed]
    if len(runs) > len(listed):
        parts.insert(half, f"... {len(runs) - len(listed)} more runs ...")
    if len(runs) > 1:
        parts.append("Over runs (median of what each run printed as its best)\n\n" + render(figures_table(document.summary)))
    if document.references:
        parts.append("Against published results of the same test and shape\n\n" + render(references_table(document.references)))
    if document.wire:
        parts.append("Against the wire (DeepEP also counts what stays on the node)\n\n" + render(wire_table(document.wire)))
    parts += [f"note: {note}" for note in document.notes]
    return "\n\n".join(parts)


def history_text(series: Sequence[Series], render: Render) -> str:
    """Each series with its course and its points."""
    parts = []
    for one in series:
        shape = ", ".join(f"{name} {size}" for name, size in one.shape.items())
        arm = f", {one.arm}" if one.arm else ""
        parts.append(f"{one.workload} {one.op} ({shape}; bind {one.bind}{arm})  {spark([point.gbps for point in one.points])}")
        rows = [
            [point.created, Number(point.gbps), percent(point.change, signed=True), "REGRESSION" if point.regression else "", point.result]
            for point in one.points
        ]
        parts.append(render(Table(["when", "GB/s", "change", "", "result"], rows, right=(1, 2))))
    return "\n\n".join(parts)


def placement_text(nodes: Sequence[model.Node]) -> str:
    """Where each rank was: from the evidence where the kernel tells, else from the plan."""
    rows = [_placed(node, rank) for node in nodes for rank in node.ranks]
    count, more = len(rows), ""
    if count > MOST_ROWS:
        # sort is stable: failed ranks first, in order of their number.
        rows = sorted(rows, key=lambda row: row[-1] == "ok")[:MOST_ROWS]
        more = f"\n{MOST_ROWS} of {count} ranks, failed ones first; result.json has all"
    arms = dict.fromkeys(node.placement_arm for node in nodes if node.placement_arm)
    of_arm = f"\nranks of arm {', '.join(map(str, arms))}" if arms else ""
    return to_text(Table(["rank", "host", "GPU", "HCA", "CPUs", "memory", "end"], rows)) + more + of_arm


def _placed(node: model.Node, rank: RankRecord) -> list[object]:
    plan: JsonObject = next((plan for plan in node.plan.get("ranks", ()) if plan.get("local_rank") == rank.local_rank), {})
    memory, evidence = plan.get("memory") or {}, rank.evidence
    planned = f"{memory.get('policy') or 'default'}:{','.join(map(str, memory.get('nodes') or ()))} (planned)"
    return [
        rank.rank,
        node.hostname,
        (plan.get("gpu") or {}).get("index"),
        plan.get("hca") or "-",
        evidence.cpus or plan.get("cpus") or "-",
        evidence.policy or planned.replace(": ", " "),
        end_text(rank),
    ]


def end_text(rank: RankRecord) -> str:
    """The end of a rank: ok, a signal, or its exit code."""
    if rank.exit_code == 0:
        return "ok"
    return f"signal {rank.signal}" if rank.signal else f"exit {rank.exit_code}"


def bandwidth_text(result: model.Result) -> str:
    """The best rows of a single run, or medians and spreads of several."""
    runs = workload_runs(result.runs)
    table = best_table(runs) if len(runs) == 1 else summary_table([row for row in result.summary if row.arm != BASELINE])
    return to_text(table) if table.rows else ""


def low_latency_text(runs: Sequence[Run]) -> str:
    """The ranks of low latency; of many, the slowest."""
    ranks = [rank for run in runs for rank in run.low_latency]
    if not ranks:
        return ""
    more = ""
    if len(ranks) > MOST_ROWS:
        ordered = sorted(ranks, key=lambda rank: rank.dispatch_combine_gbps)
        middle = number(ordered[len(ordered) // 2].dispatch_combine_gbps)
        ranks, more = ordered[:SLOWEST], f"\nthe slowest {SLOWEST} of {len(ranks)} ranks; median {middle} GB/s"
    return to_text(low_latency_table(ranks)) + more


def baseline_text(comparison: model.Comparison) -> str:
    """The ratios to the all-to-all, and what they compare."""
    table = alltoall_table(comparison)
    return "\n".join([*([to_text(table)] if table.rows else []), fill(f"Baseline. {comparison.compared}", 120)])


def ablation_text(rows: Sequence[model.AblationRow]) -> str:
    """The arms, and how to read them."""
    return "\n".join([to_text(ablation_table(rows)), *comparison.ablation_legend(rows)])


def bench_text(result: model.Result) -> str:
    """Everything that bench shows, in reading order."""
    parts = [
        placement_text(result.nodes),
        # An ablation has a table of its own.
        "" if result.bind == "ablation" else bandwidth_text(result),
        low_latency_text(result.runs),
        to_text(references_table(result.references)) if result.references else "",
        "\n".join(f"wire: {row.metric}: {row.explanation}" for row in result.wire),
        baseline_text(result.baseline) if result.baseline else "",
    ]
    if any(run.test in ("alltoall", "internode") for run in result.runs):
        parts.append(
            "Algorithm bandwidth as DeepEP counts it: RDMA = a token for every node it goes to, the local one too; NVL = tokens received."
        )
    ending = f"{result.status.upper()}: {result.verdict}"
    checked = result.correctness
    if checked is not None and checked.passed and checked.received_tokens_checked:
        tokens = f"{checked.received_tokens_checked} received and {checked.combined_tokens_checked} combined tokens as expected"
        ending = f"correct: {checked.cases} cases; {tokens}\n{ending}"
    return "\n\n".join(part for part in [*parts, ending] if part)

"""The sections of a page: first figures (best lines, references, all-to-all, wire, ablation, ranks, sweep), then hosts (drawing and rails,
evidence rank by rank, doctor, environment, logs)."""

from base64 import b64encode
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from html import escape
from statistics import median
from typing import NamedTuple, TypeVar

from entrypoints.cpulist import format_list
from entrypoints.report.html import Bar, bars, folded, heading, heat_map, section, shown, soft
from entrypoints.report.load import Material
from entrypoints.results import show
from entrypoints.results.codec import encode
from entrypoints.results.comparison import ablation_legend
from entrypoints.results.metrics import operation
from entrypoints.results.model import AblationRow, Node, Run, Sweep
from entrypoints.results.ranks import RankRecord
from entrypoints.results.tables import Markup, Number, Span, Table, Tagged, html_cell, percent

MOST_RUNS, MOST_ROWS = 12, 60
#: Rank bars are drawn up to this number of ranks; beyond it, quantiles and the slowest.
MOST_BARS = 64
MOST_RANKS, MOST_FINDINGS = 64, 40
#: Ranks on plan, and rails, that stand for all of a larger world.
FEW = 16
#: Groups of nodes that say the same, and ranges of node ranks in one of them.
MOST_GROUPS, MOST_RANGES = 16, 8
MOST_VARIABLES = 400

T = TypeVar("T", bound=Hashable)


def best(material: Material) -> str:
    """The best figures as the runs printed them; of several runs median and range first, and the runs folded."""
    result = material.result
    runs = result.runs
    summary = shown(show.summary_table(result.summary[:MOST_ROWS], material.origin)) if len(runs) > 1 else ""
    by_run = shown(show.best_table(runs[:MOST_RUNS], material.origin))
    more = soft(f"The first {MOST_RUNS} of {len(runs)} runs; all are in result.json." if len(runs) > MOST_RUNS else "")
    if summary and by_run:
        by_run = folded("Run by run", by_run, more)
    low_latency = note = ""
    if runs:
        low_latency = shown(_low_latency(runs[0], material.origin))
        if result.status != "incomplete" and not runs[0].complete and runs[0].missing:
            note = f"not complete: {'; '.join(runs[0].missing[:6])}"
    return section("best", "Best figures", summary, low_latency, by_run, "" if summary else more, soft(note))


def _low_latency(run: Run, origin: str) -> Table:
    """Both kernels together and each alone: median over the ranks, and their range."""
    rows: list[list[object]] = []
    kernels = run.low_latency_kernels or ()
    for label, part, ranks, names in (
        ("dispatch + combine", "low_latency", run.low_latency, ("dispatch_combine_gbps", "avg_us")),
        ("dispatch", "low_latency_kernels", kernels, ("dispatch_gbps", "dispatch_us")),
        ("combine", "low_latency_kernels", kernels, ("combine_gbps", "combine_us")),
    ):
        cells: list[object] = []
        for name in names:
            values = [float(value) for rank in ranks if (value := getattr(rank, name)) is not None]
            at = f"over ranks: {origin}#runs[0].{part}[*].{name}"
            if values:
                cells += [Number(median(values), source=at), Span(Number(min(values), source=at), Number(max(values), source=at))]
        if cells:
            rows.append([label, *cells])
    return Table(["median over ranks", "GB/s", "slowest .. fastest", "us", "fastest .. slowest"], rows, (1, 2, 3, 4))


def references(material: Material) -> str:
    """The run beside published ones."""
    table = show.references_table(material.result.references[:40], material.origin)
    text = "Ratio: above 1 is better here, for bandwidths and times alike. Only results of the same test and shape."
    if not table.rows:
        text = "No published result has this test and shape, so there is no ratio."
    return section("references", "Against published results", shown(table), soft(text))


def alltoall(material: Material) -> str:
    """The run beside the all-to-all."""
    comparison = material.result.baseline
    if comparison is None:
        return ""
    # A baseline of another folder is in no result.json: it is added to the JSON in the page.
    table = show.alltoall_table(comparison, "this page" if comparison.origin else material.origin)
    text = comparison.compared + (f" Baseline from {comparison.origin}." if comparison.origin else "")
    return section("alltoall", "Against the all-to-all of the same cluster", shown(table), soft(text))


def wire(material: Material) -> str:
    """The part of the bandwidth that left the node, beside the line rate."""
    rows = material.result.wire[:MOST_RUNS]
    if not rows:
        return ""
    items = []
    for i, row in enumerate(rows):
        at = f"{material.origin}#wire[{i}]."
        items.append(Bar(f"{row.metric.split(',')[0]}, counted", row.value, f"{row.value:.2f}", f"{at}value", tone="bar2"))
        items.append(Bar("off the node", row.off_node_gbps, f"{row.off_node_gbps:.2f}", f"{at}off_node_gbps"))
    rate = rows[0].line_rate_gbps
    items.append(Bar("line rate", rate, f"{rate:.0f}", f"{material.origin}#wire[0].line_rate_gbps", tone="grey bar2"))
    text = (
        "DeepEP counts a token once for every node it goes to, its own included. "
        "What leaves the node is (N - 1) / N of that; only this meets the wire."
    )
    table = shown(show.wire_table(rows, material.origin))
    return section("wire", "Against the wire", soft(text), bars("GB/s a rank", items), table)


def ablation(material: Material) -> str:
    """A chart an operation: its bandwidth under each arm."""
    rows = material.result.ablation or ()
    if not rows:
        return ""
    charts = []
    for name in dict.fromkeys(map(operation, rows)):
        items = [_arm_bar(row, f"{material.origin}#ablation[{i}].") for i, row in enumerate(rows) if operation(row) == name]
        charts.append(heading(name) + bars(name, items))
    text = "Each arm against the one before it. Whisker: p25 to p75. Strong colour: a difference."
    arms = Table(["arm", "--bind", "what it binds"], [[arm.arm, arm.bind, arm.about] for arm in material.result.arms or ()], (), (2,))
    title = "What each part of the binding is worth here"
    return section("ablation", title, soft(text), *charts, *map(soft, ablation_legend(rows)), shown(arms))


def _arm_bar(row: AblationRow, at: str) -> Bar:
    verdict = {True: " (noise)", None: " (undecided)", False: ""}[row.noise]
    return Bar(
        label=row.arm,
        value=row.median_gbps,
        text=f"{Number(row.median_gbps)} GB/s",
        source=f"{at}median_gbps",
        low=row.low_gbps,
        high=row.high_gbps,
        tone="bar2" if row.noise is not False else "bar",
        more="" if row.change is None else f", {percent(row.change, signed=True)}{verdict}",
        more_source=f"{at}change",
    )


def ranks(material: Material) -> str:
    """Rank by rank of one run: of an ablation the first that was bound by the plan, else the first."""
    runs = material.result.runs
    chosen = next((i for i, run in enumerate(runs) if run.arm == "nic+cpu+mem"), 0)
    if not runs:
        return ""
    run, at, parts = runs[chosen], f"{material.origin}#runs[{chosen}].", []
    low = sorted(enumerate(run.low_latency), key=lambda pair: pair[1].rank)
    if low:
        items = [
            Bar(f"rank {rank.rank}", gbps := rank.dispatch_combine_gbps, f"{gbps:.1f} GB/s", f"{at}low_latency[{j}].dispatch_combine_gbps")
            for j, rank in low
        ]
        parts.append(_rank_chart("dispatch + combine", items, slow_is_high=False))
    for j, best in enumerate(run.best):
        times = best.per_rank_us or ()
        items = [Bar(f"rank {rank}", us, f"{us:.1f} us", f"{at}best[{j}].per_rank_us[{rank}]") for rank, us in enumerate(times)]
        if items:
            parts.append(_rank_chart(f"{operation(best)}, median time of each rank", items, slow_is_high=True))
    which = f"Run {chosen + 1} of {len(runs)}" + (f", arm {run.arm}." if run.arm else ".") if parts and len(runs) > 1 else ""
    return section("ranks", "Rank by rank", soft(which), *parts)


def _rank_chart(title: str, ranks: Sequence[Bar], slow_is_high: bool) -> str:
    """A bar a rank; of many ranks the quantiles and the slowest."""
    if len(ranks) <= MOST_BARS:
        return heading(title) + bars(title, ranks)
    ordered = sorted(ranks, key=lambda bar: bar.value)
    last = len(ordered) - 1
    quantiles = {"min": 0, "p25": last // 4, "median": last // 2, "p75": last * 3 // 4, "max": last}
    items = [replace(ordered[i], label=f"{label} ({ordered[i].label})", tone="bar2") for label, i in quantiles.items()]
    items += [replace(bar, label=f"slow: {bar.label}") for bar in (ordered[::-1] if slow_is_high else ordered)[:8]]
    return heading(f"{title}: {len(ranks)} ranks, quantiles and the slowest") + bars(title, items)


def sweep(material: Material) -> str:
    """The tuning sweeps as heat maps; within a node, where there are no RDMA chunks, as bars."""
    parts = []
    for source, item in material.sweeps[:6]:
        column = 2 if any(point[2] is not None for point in item.points) else 3
        if all(point[1] is None for point in item.points):
            parts.append(heading(f"{operation(item)}, GB/s by NVL chunk") + _sweep_bars(source, item, column))
            continue
        chart = heat_map(f"{operation(item)} sweep", source, item.points, column)
        parts.append(f'{heading(operation(item))}<div class="scroll heat">{chart}</div>' if chart else "")
    return section("sweep", "Tuning sweep", *parts)


def _sweep_bars(source: str, item: Sweep, column: int) -> str:
    """One bar a chunk size, the best one strong."""
    points = [(point[0] or 0, point[column] or 0) for point in item.points]
    top = max(gbps for _, gbps in points)
    tones = {True: "bar", False: "bar2"}
    items = [
        Bar(f"{chunk:g}" if chunk else "default", gbps, f"{gbps:.1f}", f"{source}: NVL chunk {chunk:g}", tone=tones[gbps == top])
        for chunk, gbps in points
    ]
    return bars(f"{operation(item)} sweep", items)


class _Rank(NamedTuple):
    """A rank with its node, and the path of its record in result.json."""

    node: Node
    rank: RankRecord
    at: str


def _all_ranks(material: Material) -> list[_Rank]:
    nodes = material.result.nodes
    return [
        _Rank(node, rank, f"{material.origin}#nodes[{i}].ranks[{j}].") for i, node in enumerate(nodes) for j, rank in enumerate(node.ranks)
    ]


def drawing(material: Material) -> str:
    """The topology with the plan on it; as an image, so that its style stays its own."""
    image = ""
    if material.topology is not None:
        from entrypoints.drawing.topology import draw

        data = b64encode(draw(material.topology, material.plan).encode()).decode()
        image = f'<div class="scroll drawing"><img alt="topology of node 0 with its plan" src="data:image/svg+xml;base64,{data}"></div>'
    rails = [item for item in _all_ranks(material) if item.rank.evidence.rail]
    count, more = len(rails), ""
    if count > MOST_RANKS:
        rails.sort(key=lambda item: _sent(item.rank)[1])
        rails, more = rails[:FEW], f"{count} rails; the {FEW} that sent least."
    rows = [_rail_row(item) for item in rails]
    traffic = ""
    if rows:
        table = Table(["node", "rank", "rail", "sent", "received", "unit"], rows, (0, 1, 3, 4))
        traffic = f"<h3>Traffic per rail during the run</h3>{soft(more)}{shown(table)}"
    elif material.result.nodes:
        traffic = soft("No rail was planned or seen: this run used no HCA.")
    return section("topology", "Topology, plan and rails", image, traffic)


def _sent(rank: RankRecord) -> tuple[str, float]:
    """(counter, its value) of what a rank's rail sent; packets where no bytes were counted, and 0 without a counter."""
    traffic = rank.evidence.traffic or {}
    counter = "xmit_bytes" if "xmit_bytes" in traffic else "xmit_packets"
    return counter, float(traffic.get(counter) or 0)


def _rail_row(item: _Rank) -> list[object]:
    traffic = item.rank.evidence.traffic or {}
    counter, _ = _sent(item.rank)
    counters = (counter, counter.replace("xmit", "rcv"))
    figures = [Number(traffic.get(name), 0, f"{item.at}evidence.traffic.{name}") for name in counters]
    unit = counter.rpartition("_")[2] if traffic else "no counter"
    return [item.node.node_rank, item.rank.rank, item.rank.evidence.rail, *figures, unit]


def _faults(rank: RankRecord) -> list[str]:
    """Reasons why a rank is not simply on plan; empty when it is. One that a signal ended has no exit code."""
    outside = rank.evidence.threads_outside
    return [
        *([show.end_text(rank)] if rank.exit_code != 0 else []),
        *(rank.evidence.degradations or ()),
        *([f"{outside} thread{'s' * (outside != 1)} outside"] if outside else []),
    ]


def evidence(material: Material) -> str:
    """On plan or not, rank by rank; those that failed or deviate come first, and a large world is cut after MOST_RANKS."""
    ranks = sorted(_all_ranks(material), key=lambda item: not _faults(item.rank))
    off = sum(bool(_faults(item.rank)) for item in ranks)
    # In a large world ranks on plan look alike: a few stand for them.
    listed = ranks if len(ranks) <= MOST_RANKS else ranks[: min(MOST_RANKS, off + FEW)]
    head = ["rank", "node", "state", "CPUs", "memory policy", "threads outside", "threads", "memory per node"]
    table = Table(head, [_evidence_row(item) for item in listed], (0, 1, 5, 6), (2,) if off else ())
    nodes = material.result.nodes
    names = {node.node_rank: node.hostname for node in nodes}
    groups = alike((node.node_rank, node.placement.text) for node in nodes if node.placement)
    lines = [
        f"node {ranks_text(members)}{f' ({names[members[0]]})' if len(members) == 1 else ''}: {text}"
        for text, members in list(groups.items())[:MOST_GROUPS]
    ]
    more = f"{len(ranks)} ranks, {off} of them off plan or failed; {len(listed)} shown, those first." if len(ranks) > len(listed) else ""
    return section("evidence", "Evidence: what the kernel says of each rank", *map(soft, lines), shown(table), soft(more))


def _evidence_row(item: _Rank) -> list[object]:
    seen, faults = item.rank.evidence, _faults(item.rank)
    state = Tagged("; ".join(faults), "off") if faults else Tagged("on plan", "ok")
    outside = Number(seen.threads_outside, 0, f"{item.at}evidence.threads_outside")
    threads = Number(seen.threads, 0, f"{item.at}evidence.threads")
    memory = [
        f"node {escape(node)}: {html_cell(Number(size / 2**20, 0, f'{item.at}evidence.memory_bytes.{node}', ' MiB'))}"
        for node, size in (seen.memory_bytes or {}).items()
    ]
    pages = Markup(", ".join(memory) or "-")
    return [item.rank.rank, item.node.node_rank, state, seen.cpus, seen.policy, outside, threads, pages]


def alike(items: Iterable[tuple[int, T]]) -> dict[T, list[int]]:
    """Node ranks by what they say, in order of first mention."""
    groups: dict[T, list[int]] = {}
    for node, item in items:
        groups.setdefault(item, []).append(node)
    return groups


def ranks_text(ranks: Sequence[int]) -> str:
    """0, 0-999, or the first ranges and how many more."""
    ranges = format_list(ranks).split(",")
    text = ",".join(ranges[:MOST_RANGES])
    return text if len(ranges) <= MOST_RANGES else f"{text} and more, {len(ranks)} in all"


def checks_table(nodes: Sequence[Node]) -> Table:
    """Doctor's failures, then its warnings. What many nodes say in the same words is one row: one BIOS setting is one finding."""
    groups = alike(
        (node.node_rank, (check.status, check.id, check.evidence, check.remedy))
        for node in nodes
        if node.doctor
        for check in (*node.doctor.checks, *(node.doctor.differences or ()))
        if check.status in ("FAIL", "WARN")
    )
    rows = [
        [ranks_text(members), Tagged(status, "off" if status == "FAIL" else "warn"), *rest] for (status, *rest), members in groups.items()
    ]
    rows.sort(key=lambda row: str(row[1]) != "FAIL")
    return Table(["node", "status", "check", "evidence", "remedy"], rows, (), (3, 4))


def doctor(material: Material) -> str:
    """Doctor's counts and findings, and the diagnosis of a run that failed."""
    nodes = material.result.nodes
    totals = alike(
        (node.node_rank, ", ".join(f"{count} {status}" for status, count in node.doctor.counts.items())) for node in nodes if node.doctor
    )
    counts = [f"node {ranks_text(members)}: {text}" for text, members in list(totals.items())[:MOST_GROUPS]]
    table = checks_table(nodes)
    more = f"{len(table.rows)} findings, {MOST_FINDINGS} shown." if len(table.rows) > MOST_FINDINGS else ""
    causes = [[finding.severity, finding.cause, finding.remedy] for finding in (material.result.findings or ())[:MOST_FINDINGS]]
    tables = replace(table, rows=table.rows[:MOST_FINDINGS]), Table(["severity", "cause", "remedy"], causes, (), (1, 2))
    return section("doctor", "Doctor and diagnosis", *map(soft, counts), *map(shown, tables), soft(more))


def environment(material: Material) -> str:
    """When, of what shape, in which image, with which versions and variables."""
    result = material.result
    named = {"created": result.created, "workload": result.workload, "why": result.workload_reason, "bind": result.bind}
    rows: list[list[object]] = [[name, value] for name, value in {**named, "engine": result.engine}.items() if value]
    rows += [[f"shape: {name}", size] for name, size in encode(result.shape).items()]
    rows += [[f"image: {name}", value] for name, value in encode(result.image).items()] if result.image else []
    rows += [[name, version] for name, version in result.versions.items()]
    variables = shown(Table(["local rank", "variable"], material.variables[:MOST_VARIABLES], (0,), (1,)))
    exported = folded(f"Variables of the ranks of node 0 ({len(material.variables)})", variables) if variables else ""
    return section("environment", "Environment and lock", shown(Table(["what", "value"], rows, (), (1,))), exported)


def logs(material: Material) -> str:
    """The logs, folded."""
    parts = [folded(f"{log.name}, {log.size} bytes", f"<pre>{escape(log.text)}</pre>") for log in material.logs if log.size]
    empty = [log.name for log in material.logs if not log.size]
    notes = [
        f"Empty: {', '.join(empty[:6])}{f' and {len(empty) - 6} more' if len(empty) > 6 else ''}." if empty else "",
        f"{material.more_logs} more logs are in the folder." if material.more_logs else "",
    ]
    return section("logs", "Logs", *parts, *map(soft, notes))

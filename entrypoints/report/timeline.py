"""The same test over time: one chart a series of results/index.jsonl, regressions marked."""

from html import escape
from pathlib import Path

from entrypoints.errors import UsageError
from entrypoints.report.charts import line
from entrypoints.report.html import number, section, soft, table, tagged
from entrypoints.report.page import fill
from entrypoints.results import history

MOST_POINTS, MOST_SERIES = 200, 60


def render(index: Path) -> str:
    """The page of an index. Raises UsageError when it cannot be read or holds no result."""
    try:
        every = history.series(history.load(index))
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"not an index of bench ({type(error).__name__}: {error})", where=str(index)) from error
    rows, parts = [], []
    for i, item in enumerate(every[:MOST_SERIES]):
        shape = item["shape"]
        place = f"{shape.get('nodes', '?')} x {shape.get('ranks_per_node', '?')}"
        sizes = [
            f"{shape[key]} {what}"
            for key, what in (("num_tokens", "tokens"), ("hidden", "wide"), ("num_experts", "experts"))
            if key in shape
        ]
        label = ", ".join([item["op"], item["workload"], place, *sizes, item["arm"] or item["bind"]])
        skipped = max(0, len(item["points"]) - MOST_POINTS)
        points = [(str(p["created"]), float(p["gbps"]), bool(p["regression"]), f"{p['result']}#summary") for p in item["points"][skipped:]]
        parts.append(f"<h3 id='s{i}'>{escape(label)}</h3>" + line(label, points))
        bad = [p for p in item["points"] if p["regression"]]
        last = item["points"][-1]
        state = tagged(f"{len(bad)}, last {str(bad[-1]['created'])[:10]}", "off") if bad else tagged("none", "ok")
        rows.append([label, len(item["points"]), number(last["gbps"], f"{last['result']}#summary"), state])
    if not every:
        parts.append(soft("No result in this index went well."))
    text = (
        f"A regression is lower than the median of up to eight before it, at least {history.LEAST_BEFORE}, "
        f"by more than {history.LEAST_DROP:.0%} and by more than their spread (highest to lowest)."
    )
    more = f"{MOST_SERIES} of {len(every)} series shown." if len(every) > MOST_SERIES else ""
    head = table(["series", "results", "last GB/s", "regressions"], rows, (1, 2)) if rows else ""
    return fill("EPBox: history", "<h1>Results over time</h1>" + soft(text) + head + section("history", "Series", *parts, soft(more)))

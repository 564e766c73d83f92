"""The sections with tables of figures: best lines, references, all-to-all, wire."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from entrypoints.report.charts import Bar, bars
from entrypoints.report.html import Safe, number, section, soft, table
from entrypoints.report.load import Material

MOST_RUNS = 12


def name(item: dict[str, Any]) -> str:
    return f"{item['op']} {item['dtype'].upper()}" if item.get("dtype") else str(item["op"])


def best(material: Material) -> str:
    """What the runs printed as their best; several runs of a bench are told by median and range first, and folded one by one."""
    runs = material.document["runs"]
    summary = material.document.get("summary") or [] if len(runs) > 1 else []
    rows = []
    order = list(dict.fromkeys(map(name, summary)))
    for i, row in sorted(enumerate(summary[:60]), key=lambda pair: order.index(name(pair[1]))):
        at = f"{material.origin}#summary[{i}]."
        span = f"{number(row['min_gbps'], at + 'min_gbps')} .. {number(row['max_gbps'], at + 'max_gbps')}"
        unit = "" if row["direction"] == "total" else f" ({row['direction']})"
        middle = number(row["median_gbps"], at + "median_gbps")
        rows.append([name(row), row.get("arm"), middle, Safe(span), f"GB/s{unit}", number(row["runs"], at + "runs", 0)])
    parts = [_columns(["best", "arm", "median", "min .. max", "figure", "runs"], rows, (2, 3, 5))] if rows else []
    each = _each_run(material)
    more = f"The first {MOST_RUNS} of {len(runs)} runs; all are in result.json." if len(runs) > MOST_RUNS else ""
    if parts and each:
        each = f"<details><summary>Run by run</summary>{each}{soft(more)}</details>"
    notes = [
        f"not complete: {'; '.join(map(str, run['missing'][:6]))}"
        for run in runs[:1]
        if material.document.get("status") != "incomplete" and not run.get("complete") and run.get("missing")
    ]
    return section("best", "Best figures", *parts, _low_latency(material), each, "" if parts else soft(more), *map(soft, notes))


def _low_latency(material: Material) -> str:
    """Both kernels together and each alone: median over the ranks, and their range."""
    rows = []
    for i, run in enumerate(material.document["runs"][:1]):
        for label, part, keys in (
            ("dispatch + combine", "low_latency", ("dispatch_combine_gbps", "avg_us")),
            ("dispatch", "low_latency_kernels", ("dispatch_gbps", "dispatch_us")),
            ("combine", "low_latency_kernels", ("combine_gbps", "combine_us")),
        ):
            cells: list[Any] = []
            for key in keys:
                values = [float(entry[key]) for entry in run.get(part) or () if entry.get(key) is not None]
                at = f"over ranks: {material.origin}#runs[{i}].{part}[*].{key}"
                if values:
                    cells += [number(median(values), at), Safe(f"{number(min(values), at)} .. {number(max(values), at)}")]
            if cells:
                rows.append([label, *cells])
    head = ["median over ranks", "GB/s", "slowest .. fastest", "us", "fastest .. slowest"]
    return table(head, rows, (1, 2, 3, 4)) if rows else ""


def _each_run(material: Material) -> str:
    rows = []
    runs = material.document["runs"]
    for i, run in enumerate(runs[:MOST_RUNS]):
        for j, item in enumerate(run.get("best") or ()):
            at = f"{material.origin}#runs[{i}].best[{j}]."
            chunks = " / ".join(str(item[key]) for key in ("nvl_chunk", "rdma_chunk") if item.get(key) is not None)
            time = "transmit_us" if item.get("transmit_us") is not None else "time_us"
            figures = [
                number(item.get(key), at + key, digits) if item.get(key) is not None else None
                for key, digits in (("rdma_gbps", 2), ("nvl_gbps", 2), (time, 0), ("notify_us", 0))
            ]
            which = [i + 1, run.get("arm") or run["test"]] if len(runs) > 1 else [None, None]
            rows.append([which[0], name(item), *figures, _count(item.get("sms"), at + "sms"), chunks or None, which[1]])
    head = ["run", "best", "GB/s (RDMA)", "GB/s (NVL)", "us", "notify us", "SMs", "NVL / RDMA chunk", "test or arm"]
    return _columns(head, rows, (0, 2, 3, 4, 5, 6)) if rows else ""


def _count(value: Any, source: str) -> Safe | None:
    return None if value is None else number(value, source, 0)


def _columns(head: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[int]) -> str:
    """A table without the columns that hold nothing: on a phone every one pushes a figure out of sight."""
    kept = [i for i in range(len(head)) if any(row[i] is not None for row in rows)]
    shown = [[row[i] for i in kept] for row in rows]
    return table([head[i] for i in kept], shown, [place for place, i in enumerate(kept) if i in right])


def references(material: Material) -> str:
    rows = material.document.get("references") or []
    cells = []
    for i, row in enumerate(rows[:40]):
        at = f"{material.origin}#references[{i}]."
        where = str(row["hardware"]) + (" (not bound)" if row.get("bound") is False else "")
        figures = (number(row["value"], at + "value"), number(row["reference"], at + "reference"), number(row["ratio"], at + "ratio"))
        cells.append([row["metric"], *figures, where, row["source"]])
    if not cells:
        return section(
            "references", "Against published results", soft("No published result has this test and shape, so there is no ratio.")
        )
    text = "Ratio: above 1 is better here, for bandwidths and times alike. Only results of the same test and shape."
    head = ["figure", "here", "there", "ratio", "hardware", "source"]
    return section("references", "Against published results", table(head, cells, (1, 2, 3), (4, 5)), soft(text))


def alltoall_rows(material: Material) -> tuple[list[list[Any]], str]:
    """(operation, ratio, here, all-to-all, figure, range of the ratio) a row, and what is compared."""
    beside = material.document.get("baseline")
    if not beside:
        return [], ""
    # A baseline of another folder is in no result.json: it is added to the JSON in the page.
    at = f"{'this page' if beside.get('from') else material.origin}#baseline.rows"
    rows = []
    for i, row in enumerate(beside["rows"]):
        figures = [number(row[key], f"{at}[{i}].{key}") for key in ("value", "baseline", "ratio", "ratio_min", "ratio_max")]
        unit = "us" if row["direction"] == "us" else f"GB/s ({row['direction']})"
        rows.append([name(row), figures[2], *figures[:2], unit, Safe(f"{figures[3]} .. {figures[4]}") if row["runs"] > 1 else None])
    return rows, beside["compared"] + (f" Baseline from {beside['from']}." if beside.get("from") else "")


#: The heads of alltoall_rows.
ALLTOALL = ["operation", "DeepEP / all-to-all", "DeepEP", "all-to-all", "figure", "ratio over runs"]


def alltoall(material: Material) -> str:
    rows, text = alltoall_rows(material)
    shown = table(ALLTOALL, rows, (1, 2, 3, 5)) if rows else ""
    return section("alltoall", "Against the all-to-all of the same cluster", shown, soft(text))


def wire(material: Material) -> str:
    rows = material.document.get("wire") or []
    if not rows:
        return ""
    items, cells = [], []
    for i, row in enumerate(rows[:12]):
        at = f"{material.origin}#wire[{i}]."
        items.append(Bar(f"{row['metric'].split(',')[0]}, counted", row["value"], f"{row['value']:.2f}", at + "value", tone="bar2"))
        items.append(Bar("off the node", row["off_node_gbps"], f"{row['off_node_gbps']:.2f}", at + "off_node_gbps"))
        cells.append([row["metric"], number(row["share"] * 100, at + "share", 0, " %"), row["explanation"]])
    items.append(
        Bar(
            "line rate",
            rows[0]["line_rate_gbps"],
            f"{rows[0]['line_rate_gbps']:.0f}",
            f"{material.origin}#wire[0].line_rate_gbps",
            tone="grey bar2",
        )
    )
    text = (
        "DeepEP counts a token once for every node it goes to, its own included. "
        "What leaves the node is (N - 1) / N of that; only this meets the wire."
    )
    return section(
        "wire", "Against the wire", soft(text), bars("GB/s a rank", items), table(["figure", "of line rate", "why"], cells, (1,), (2,))
    )

"""The sections with figures: best lines, references, all-to-all, wire, sweep, ranks, ablation."""

from collections.abc import Sequence
from typing import Any

from entrypoints.report.charts import Bar, bars, heat_map
from entrypoints.report.html import Safe, number, section, soft, table, tagged
from entrypoints.report.load import Material

#: Rank bars are drawn up to this number of ranks; beyond it, quantiles and the slowest.
MOST_BARS = 64
MOST_RUNS = 12


def name(item: dict[str, Any]) -> str:
    return f"{item['op']} {item['dtype'].upper()}" if item.get("dtype") else str(item["op"])


def best(material: Material) -> str:
    rows = []
    runs = material.document["runs"]
    for i, run in enumerate(runs[:MOST_RUNS]):
        for j, item in enumerate(run.get("best") or ()):
            at = f"{material.origin}#runs[{i}].best[{j}]."
            chunks = " / ".join(str(item[key]) for key in ("nvl_chunk", "rdma_chunk") if item.get(key) is not None)
            time = "transmit_us" if item.get("transmit_us") is not None else "time_us"
            figures = [
                number(item.get(key), at + key, digits) for key, digits in (("rdma_gbps", 2), ("nvl_gbps", 2), (time, 0), ("notify_us", 0))
            ]
            rows.append([i + 1, run.get("arm") or run["test"], name(item), item.get("sms"), chunks or None, *figures])
    head = ["run", "test or arm", "best", "SMs", "NVL / RDMA chunk", "GB/s (RDMA)", "GB/s (NVL)", "us", "notify us"]
    more = f"The first {MOST_RUNS} of {len(runs)} runs; all are in result.json." if len(runs) > MOST_RUNS else ""
    notes = [
        f"not complete: {'; '.join(map(str, run['missing'][:6]))}" for run in runs[:1] if not run.get("complete") and run.get("missing")
    ]
    return section("best", "Best figures", table(head, rows, (0, 3, 5, 6, 7, 8)) if rows else "", soft(more), *map(soft, notes))


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
    return section("references", "Against published results", table(head, cells, (1, 2, 3), (4,)), soft(text))


def alltoall_rows(material: Material) -> tuple[list[list[Any]], str]:
    """(operation, figure, here, all-to-all, ratio, range of the ratio) a row, and what is compared."""
    beside = material.document.get("baseline")
    if not beside:
        return [], ""
    # A baseline of another folder is in no result.json: it is added to the JSON in the page.
    at = f"{'this page' if beside.get('from') else material.origin}#baseline.rows"
    rows = []
    for i, row in enumerate(beside["rows"]):
        figures = [number(row[key], f"{at}[{i}].{key}") for key in ("value", "baseline", "ratio", "ratio_min", "ratio_max")]
        unit = "us" if row["direction"] == "us" else f"GB/s ({row['direction']})"
        rows.append([name(row), unit, *figures[:3], Safe(f"{figures[3]} .. {figures[4]}") if row["runs"] > 1 else None])
    return rows, beside["compared"] + (f" Baseline from {beside['from']}." if beside.get("from") else "")


#: The heads of alltoall_rows.
ALLTOALL = ["operation", "figure", "DeepEP", "all-to-all", "DeepEP / all-to-all", "over runs"]


def alltoall(material: Material) -> str:
    rows, text = alltoall_rows(material)
    shown = table(ALLTOALL, rows, (2, 3, 4, 5)) if rows else ""
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


def sweep(material: Material) -> str:
    parts = []
    for source, item in material.sweeps[:6]:
        column = 2 if any(point[2] is not None for point in item["points"]) else 3
        chart = heat_map(f"{name(item)} sweep", source, item["points"], column)
        parts.append(f'<h3>{cell_title(item)}</h3><div class="scroll heat">{chart}</div>' if chart else "")
    return section("sweep", "Tuning sweep: NVL chunk x RDMA chunk", *parts)


def cell_title(item: dict[str, Any]) -> Safe:
    return tagged(name(item), "t")


def _rank_chart(title: str, unit: str, values: Sequence[float], sources: Sequence[str], ranks: Sequence[Any], slow_is_high: bool) -> str:
    if len(values) <= MOST_BARS:
        every = [Bar(f"rank {r}", v, f"{v:.1f} {unit}", s) for r, v, s in zip(ranks, values, sources, strict=True)]
        return f"<h3>{cell_title({'op': title})}</h3>" + bars(title, every)
    order = sorted(range(len(values)), key=lambda i: values[i])
    last = len(order) - 1
    quantiles = {"min": 0, "p25": last // 4, "median": last // 2, "p75": last * 3 // 4, "max": last}
    picked = [(label, order[position]) for label, position in quantiles.items()]
    shown = [Bar(f"{label} (rank {ranks[i]})", values[i], f"{values[i]:.1f} {unit}", sources[i], tone="bar2") for label, i in picked]
    worst = order[::-1][:8] if slow_is_high else order[:8]
    shown += [Bar(f"slow: rank {ranks[i]}", values[i], f"{values[i]:.1f} {unit}", sources[i]) for i in worst]
    return f"<h3>{cell_title({'op': f'{title}: {len(values)} ranks, quantiles and the slowest'})}</h3>" + bars(title, shown)


def ranks(material: Material) -> str:
    parts = []
    for i, run in enumerate(material.document["runs"][:2]):
        at = f"{material.origin}#runs[{i}]."
        low = sorted(enumerate(run.get("low_latency") or ()), key=lambda pair: int(pair[1]["rank"]))
        if low:
            names, gbps = [item["rank"] for _, item in low], [float(item["dispatch_combine_gbps"]) for _, item in low]
            sources = [f"{at}low_latency[{j}].dispatch_combine_gbps" for j, _ in low]
            parts.append(_rank_chart("dispatch + combine", "GB/s", gbps, sources, names, False))
        for j, item in enumerate(run.get("best") or ()):
            values = item.get("per_rank_us") or []
            if values:
                sources = [f"{at}best[{j}].per_rank_us[{k}]" for k in range(len(values))]
                parts.append(_rank_chart(f"{name(item)}, median time of each rank", "us", values, sources, range(len(values)), True))
    return section("ranks", "Rank by rank", *parts)


def ablation(material: Material) -> str:
    rows = material.document.get("ablation") or []
    parts = []
    for operation in dict.fromkeys(name(row) for row in rows):
        items = []
        for i, row in enumerate(rows):
            if name(row) == operation:
                change = "" if row["change"] is None else f", {row['change']:+.1%}"
                verdict = {True: " (noise)", None: " (undecided)" if change else "", False: ""}[row["noise"]]
                text = f"{row['median_gbps']:.3g} GB/s{change}{verdict}"
                at = f"{material.origin}#ablation[{i}].median_gbps"
                items.append(
                    Bar(
                        str(row["arm"]),
                        row["median_gbps"],
                        text,
                        at,
                        row["low_gbps"],
                        row["high_gbps"],
                        "bar2" if row["noise"] is not False else "bar",
                    )
                )
        parts.append(f"<h3>{cell_title({'op': operation})}</h3>" + bars(operation, items))
    if not rows:
        return ""
    floors = [f"{name(row)} {row['floor']:.0%}" for row in rows if row.get("floor") and row["arm"] == rows[0]["arm"]]
    text = (
        "Each arm against the one before it. Whisker: p25 to p75; a change within the wider one is noise, and so is one that is smaller "
        "than what arms that cannot differ here differ by"
        + (f" ({', '.join(floors)}). " if floors else ". ")
        + "Strong colour: a difference."
    )
    about = [[arm["arm"], arm["bind"], arm["about"]] for arm in material.document.get("arms") or ()]
    legend = table(["arm", "--bind", "what it binds"], about, (), (2,)) if about else ""
    return section("ablation", "What each part of the binding is worth here", soft(text), *parts, legend)

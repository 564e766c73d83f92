"""The sections that are charts: tuning sweep, ranks, ablation."""

from collections.abc import Sequence
from typing import Any

from entrypoints.report.charts import Bar, bars, heat_map
from entrypoints.report.figures import name
from entrypoints.report.html import Safe, section, soft, table, tagged
from entrypoints.report.load import Material

#: Rank bars are drawn up to this number of ranks; beyond it, quantiles and the slowest.
MOST_BARS = 64


def sweep(material: Material) -> str:
    parts = []
    for source, item in material.sweeps[:6]:
        column = 2 if any(point[2] is not None for point in item["points"]) else 3
        if all(point[1] is None for point in item["points"]):
            parts.append(f"<h3>{cell_title(item)}, GB/s by NVL chunk</h3>" + _sweep_bars(source, item, column))
            continue
        chart = heat_map(f"{name(item)} sweep", source, item["points"], column)
        parts.append(f'<h3>{cell_title(item)}</h3><div class="scroll heat">{chart}</div>' if chart else "")
    return section("sweep", "Tuning sweep", *parts)


def _sweep_bars(source: str, item: dict[str, Any], column: int) -> str:
    """Within a node there are no RDMA chunks: bars, the best one strong."""
    top = max(point[column] for point in item["points"])
    return bars(
        f"{name(item)} sweep",
        [
            Bar(
                f"{point[0]:g}" if point[0] else "default",
                point[column],
                f"{point[column]:.1f}",
                f"{source}: NVL chunk {point[0]:g}",
                tone="bar" if point[column] == top else "bar2",
            )
            for point in item["points"]
        ],
    )


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
    """Rank by rank of one run: of an ablation the first that was bound by the plan, else the first."""
    runs = material.document["runs"]
    chosen = next((i for i, run in enumerate(runs) if run.get("arm") == "nic+cpu+mem"), 0)
    parts = []
    for i, run in list(enumerate(runs))[chosen : chosen + 1]:
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
    which = f"Run {chosen + 1} of {len(runs)}" + (f", arm {runs[chosen]['arm']}." if runs[chosen].get("arm") else ".") if parts else ""
    return section("ranks", "Rank by rank", soft(which) if len(runs) > 1 else "", *parts)


def ablation(material: Material) -> str:
    rows = material.document.get("ablation") or []
    parts = []
    for operation in dict.fromkeys(name(row) for row in rows):
        items = []
        for i, row in enumerate(rows):
            if name(row) == operation:
                verdict = {True: " (noise)", None: " (undecided)", False: ""}[row["noise"]]
                change = "" if row["change"] is None else f", {row['change']:+.1%}{verdict}"
                text = f"{row['median_gbps']:.{3 if row['median_gbps'] < 1 else 2}f} GB/s"
                at = f"{material.origin}#ablation[{i}]."
                items.append(
                    Bar(
                        str(row["arm"]),
                        row["median_gbps"],
                        text,
                        at + "median_gbps",
                        row["low_gbps"],
                        row["high_gbps"],
                        "bar2" if row["noise"] is not False else "bar",
                        change,
                        at + "change",
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

"""Results for people: tables on a terminal, Markdown for an issue."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Sequence[object]
Renderer = Callable[[Sequence[str], Sequence[Row]], str]


#: What the low-latency test says of each kernel alone.
_KERNELS = ("rank", "dispatch_gbps", "dispatch_us", "combine_gbps", "combine_us")


def markdown(headers: Sequence[str], rows: Sequence[Row]) -> str:
    """A GitHub table."""
    lines = ["| " + " | ".join(headers) + " |", "|" + " --- |" * len(headers)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _number(value: Any, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def run_text(run: Mapping[str, Any], render: Renderer) -> str:
    """One run: what it is, its best lines or ranks, and what it lacks."""
    shape = ", ".join(f"{key} {value}" for key, value in (run.get("shape") or {}).items() if value is not None)
    head = f"{run['test']} (format {run.get('format')})" + (f": {shape}" if shape else "")
    parts = [head, ""]
    rows: list[Row]
    if run.get("best"):
        rows = [
            (
                item["op"] + (f" {item['dtype'].upper()}" if item.get("dtype") else ""),
                _number(item.get("sms")),
                _number(item.get("nvl_chunk")),
                _number(item.get("rdma_chunk")),
                _number(item.get("rdma_gbps")),
                _number(item.get("nvl_gbps")),
                _number(item.get("transmit_us") if item.get("transmit_us") is not None else item.get("time_us")),
                _number(item.get("notify_us")),
            )
            for item in run["best"]
        ]
        parts.append(render(("best", "SMs", "NVL chunk", "RDMA chunk", "GB/s (RDMA)", "GB/s (NVL)", "us", "notify us"), rows))
        parts += [f"({item['op']}: {item['statistic']})" for item in run["best"] if item.get("statistic")][:1]
    if run.get("low_latency"):
        rows = [
            (
                item["rank"],
                _number(item["dispatch_combine_gbps"]),
                _number(item["avg_us"]),
                _number(item["min_us"]),
                _number(item["max_us"]),
            )
            for item in sorted(run["low_latency"], key=lambda item: int(item["rank"]))
        ]
        parts.append(render(("rank", "dispatch + combine GB/s", "avg us", "min us", "max us"), rows))
    elif run.get("low_latency_kernels"):
        rows = [[_number(item.get(key)) for key in _KERNELS] for item in run["low_latency_kernels"]]
        parts.append(render(("rank", "dispatch GB/s", "us", "combine GB/s", "us"), rows))
    if run.get("metrics"):
        keys = [key for key in run["metrics"][0] if key != "shape"]
        parts.append(render(keys, [[_number(item.get(key)) for key in keys] for item in run["metrics"]]))
    cases = f", {run['passed_cases']} of {run['expected_cases']} cases passed" if run.get("expected_cases") else ""
    parts += ["", f"complete{cases}" if run.get("complete") else "not complete: " + "; ".join(run.get("missing", ["?"]))]
    return "\n".join(parts)


def document_text(document: Mapping[str, Any], render: Renderer) -> str:
    """All runs, then statistics, references and the wire."""
    runs = document["runs"]
    shown = runs if len(runs) <= 20 else [*runs[:10], *runs[-10:]]
    parts = [run_text(run, render) for run in shown]
    if len(runs) > len(shown):
        parts.insert(10, f"... {len(runs) - len(shown)} more runs ...")
    rows: list[Row]
    if len(runs) > 1:
        rows = [
            (
                item["test"] + (f", {item['shape']['arm']}" if "arm" in item["shape"] else ""),
                item["metric"],
                item["runs"],
                _number(item["median"]),
                _number(item["min"]),
                _number(item["max"]),
                _percent(item["spread"]),
            )
            for item in document["summary"]
        ]
        parts.append(
            "Over runs (median of what each run printed as its best)\n\n"
            + render(("test", "figure", "runs", "median", "min", "max", "spread"), rows)
        )
    if document["references"]:
        rows = [
            (
                item["metric"],
                _number(item["value"]),
                _number(item["reference"]),
                f"{item['ratio']:.2f}",
                item["hardware"] + _bound(item),
                item["source"],
            )
            for item in document["references"]
        ]
        parts.append(
            "Against published results of the same test and shape\n\n"
            + render(("figure", "here", "there", "ratio", "hardware", "source"), rows)
        )
    if document["wire"]:
        rows = [
            (
                item["metric"],
                _number(item["value"]),
                _number(item["off_node_gbps"]),
                _number(item["line_rate_gbps"]),
                _percent(item["share"]),
            )
            for item in document["wire"]
        ]
        parts.append(
            "Against the wire (DeepEP also counts what stays on the node)\n\n"
            + render(("figure", "counted", "off the node", "line rate", "share"), rows)
        )
    parts += [f"note: {note}" for note in document["notes"]]
    return "\n\n".join(parts)


def _bound(item: Mapping[str, Any]) -> str:
    return " (not bound)" if item.get("bound") is False else ""


def _percent(value: Any) -> str:
    return "-" if value is None else f"{value:.0%}"


def comparison_text(rows: Sequence[Mapping[str, Any]], render: Renderer) -> str:
    cells = [
        (
            row["test"] + (f", {row['shape']['arm']}" if "arm" in row["shape"] else ""),
            row["metric"],
            f"{row['a']:.2f}",
            f"{row['b']:.2f}",
            f"{row['change']:+.1%}",
            f"{row['runs'][0]}/{row['runs'][1]}",
            row["note"],
        )
        for row in rows
    ]
    return render(("test", "figure", "A", "B", "change", "runs", "what can be said"), cells)


def history_text(series: Sequence[Mapping[str, Any]], spark: Callable[[Sequence[float]], str], render: Renderer) -> str:
    parts = []
    for item in series:
        shape = ", ".join(f"{key} {value}" for key, value in item["shape"].items())
        values = [point["gbps"] for point in item["points"]]
        arm = f", {item['arm']}" if item["arm"] else ""
        parts.append(f"{item['workload']} {item['op']} ({shape}; bind {item['bind']}{arm})  {spark(values)}")
        rows = [
            (
                point["created"],
                f"{point['gbps']:.2f}",
                "-" if point["change"] is None else f"{point['change']:+.1%}",
                "REGRESSION" if point["regression"] else "",
                point["result"],
            )
            for point in item["points"]
        ]
        parts.append(render(("when", "GB/s", "change", "", "result"), rows))
    return "\n\n".join(parts)

"""The summary to paste into an issue."""

import re
from collections.abc import Sequence
from typing import Any

from entrypoints.errors import UsageError
from entrypoints.report.figures import ALLTOALL, alltoall_rows, name
from entrypoints.report.hosts import alike, ranks_text
from entrypoints.report.load import Material


def render(material: Material) -> str:
    """Verdict, shape, figures, references, ablation, what doctor found; a page of GitHub Markdown."""
    try:
        return _render(material)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(f"not the form that bench writes ({type(error).__name__}: {error})", where=material.origin) from error


def _render(material: Material) -> str:
    document = material.document
    parts = [f"**{_plain(document['verdict'])}**"]
    shape = ", ".join(f"{key} {value}" for key, value in document["shape"].items() if value is not None)
    image = document.get("image") or {}
    versions = ", ".join(f"{key} {value}" for key, value in (document.get("versions") or {}).items())
    facts = [
        f"{key}: {_plain(value)}"
        for key, value in (("shape", shape), ("bind", document.get("bind")), ("image", image.get("id")), ("versions", versions))
        if value
    ]
    parts.append("\n".join(f"- {fact}" for fact in facts))
    best = [
        [number + 1, run.get("arm") or run["test"], name(item), _figure(item.get("rdma_gbps")), _figure(item.get("nvl_gbps"))]
        for number, run in enumerate(document["runs"][:12])
        for item in run.get("best") or ()
    ]
    parts.append(_table(["run", "test or arm", "best", "GB/s (RDMA)", "GB/s (NVL)"], best))
    rows = [
        [row["metric"], _figure(row["value"]), _figure(row["reference"]), _figure(row["ratio"]), row["hardware"], row["source"]]
        for row in document.get("references") or ()
    ]
    parts.append(_table(["figure", "here", "there", "ratio", "hardware", "source"], rows))
    parts += [_plain(row["explanation"]) for row in (document.get("wire") or ())[:3]]
    rows = [
        [name(row), row["arm"], _figure(row["median_gbps"], 3), f"{row['low_gbps']:.3f} .. {row['high_gbps']:.3f}", _change(row)]
        for row in document.get("ablation") or ()
    ]
    parts.append(_table(["operation", "arm", "median GB/s", "spread", "against the arm before"], rows))
    compared, text = alltoall_rows(material)
    if text:
        cells = [[re.sub(r"<[^>]*>", "", "-" if value is None else str(value)) for value in row] for row in compared]
        parts += [f"Baseline: {_plain(text)}", _table(ALLTOALL, cells)]
    groups = alike(
        (node["node_rank"], (check["status"], check["id"], check["evidence"]))
        for node in document["nodes"]
        for check in (node.get("doctor") or {}).get("checks", ())
        if check["status"] in ("FAIL", "WARN")
    )
    findings = [[ranks_text(ranks), *check] for check, ranks in groups.items()]
    parts.append(_table(["node", "status", "check", "evidence"], findings[:20]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _change(row: dict[str, Any]) -> str:
    if row["change"] is None:
        return "-"
    return f"{row['change']:+.1%}" + {True: " noise", False: "", None: " ?"}[row["noise"]]


def _figure(value: Any, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits + (digits == 2 and 0 < abs(value) < 1)}f}"


def _plain(value: Any) -> str:
    """Text that cannot become markup: one line, no HTML, no table cell, link, mention or code of its own."""
    text = " ".join(str(value).split())
    for sign in "\\`|[]*_":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "@\u200b")


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    lines = [f"| {' | '.join(headers)} |", "|" + " --- |" * len(headers)]
    return "\n".join([*lines, *(f"| {' | '.join(_plain(value) for value in row)} |" for row in rows)])

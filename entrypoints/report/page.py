"""What is handed out: the page of a result, its summary in Markdown, and the page of many results over time.

A page is one file, nothing is fetched. The numbers lie in it once more as JSON, which every data-source path points into.
"""

import json
from html import escape
from pathlib import Path
from string import Template

from entrypoints.report import sections
from entrypoints.report.html import line, section, shown, soft
from entrypoints.report.load import Material
from entrypoints.results import history, show
from entrypoints.results.codec import encode
from entrypoints.results.model import Result
from entrypoints.results.tables import Number, Table, Tagged, plain, to_markdown

PAGE = Path(__file__).with_name("page.html")
#: A larger result.json is not repeated in the page.
MOST_JSON, MOST_NODES = 2 * 1024 * 1024, 128
#: Doctor's findings in a summary.
MOST_CHECKS = 20
#: Points of a series, and series, in a page over time.
MOST_POINTS, MOST_SERIES = 200, 60
_FIGURES = (sections.best, sections.references, sections.alltoall, sections.wire, sections.ablation, sections.ranks, sections.sweep)
_HOSTS = (sections.drawing, sections.evidence, sections.doctor, sections.environment, sections.logs)


def render(material: Material) -> str:
    """The HTML of a result."""
    result = material.result
    title = f"EPBox: {result.workload or '?'}, {material.folder}"
    tone = result.status if result.status in ("failed", "incomplete") else "ok"
    parts = [
        f"<header><h1>{escape(title)}</h1>{soft(result.created or '')}</header>",
        f'<div class="verdict {tone}" id="verdict" data-source="{escape(material.origin)}#verdict">{escape(result.verdict)}</div>',
        *map(soft, (*result.notes, *material.notes)),
        *(make(material) for make in (*_FIGURES, *_HOSTS)),
        _island(result),
    ]
    return fill(title, "\n".join(part for part in parts if part))


def fill(title: str, body: str) -> str:
    """A page of this title and body."""
    return Template(PAGE.read_text(encoding="utf-8")).substitute(title=escape(title), body=body)


def _island(result: Result) -> str:
    """The result as JSON, or that it is too large for a page."""
    size = f"{len(result.nodes)} nodes"
    if len(result.nodes) <= MOST_NODES:
        text = json.dumps(encode(result), separators=(",", ":"))
        size = f"{len(text)} bytes"
        if len(text) <= MOST_JSON:
            # In a script element nothing is unescaped: no < may stand in it.
            text = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
            return f'<script type="application/json" id="result">{text}</script>'
    return soft(f"result.json ({size}) is not repeated in this page; data-source attributes point into the file.")


def summary(material: Material) -> str:
    """The Markdown to paste into an issue: verdict, shape, figures, references, ablation, what doctor found."""
    result = material.result
    facts = {
        "shape": show.shape_text(result.shape),
        "bind": result.bind,
        "image": result.image.id if result.image else None,
        "versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
    }
    parts = [
        f"**{plain(result.verdict)}**",
        "\n".join(f"- {name}: {plain(value)}" for name, value in facts.items() if value),
        to_markdown(show.best_table(result.runs[: sections.MOST_RUNS])),
        to_markdown(show.references_table(result.references)),
        *(plain(row.explanation) for row in result.wire[:3]),
        to_markdown(show.ablation_table(result.ablation or ())),
    ]
    if result.baseline:
        origin = f" Baseline from {result.baseline.origin}." if result.baseline.origin else ""
        parts += [f"Baseline: {plain(result.baseline.compared + origin)}", to_markdown(show.alltoall_table(result.baseline))]
    checks = sections.checks_table(result.nodes)
    parts.append(to_markdown(Table(checks.headers[:-1], [row[:-1] for row in checks.rows[:MOST_CHECKS]])))  # without remedies
    return "\n\n".join(part for part in parts if part) + "\n"


def over_time(index: Path) -> str:
    """The page of an index. Raises UsageError when it cannot be read or holds no result."""
    every = history.series(history.load(index))
    rows: list[list[object]] = []
    charts = []
    for i, series in enumerate(every[:MOST_SERIES]):
        label = _label(series)
        points = [(str(point.created), point.gbps, point.regression, f"{point.result}#summary") for point in series.points[-MOST_POINTS:]]
        charts.append(f"<h3 id='s{i}'>{escape(label)}</h3>" + line(label, points))
        bad = [point for point in series.points if point.regression]
        last = series.points[-1]
        state = Tagged(f"{len(bad)}, last {str(bad[-1].created)[:10]}", "off") if bad else Tagged("none", "ok")
        rows.append([label, len(series.points), Number(last.gbps, source=f"{last.result}#summary"), state])
    if not every:
        charts.append(soft("No result in this index went well."))
    text = (
        f"A regression is lower than the median of up to eight before it, at least {history.LEAST_BEFORE}, "
        f"by more than {history.LEAST_DROP:.0%} and by more than their spread (highest to lowest)."
    )
    more = f"{MOST_SERIES} of {len(every)} series shown." if len(every) > MOST_SERIES else ""
    table = shown(Table(["series", "results", "last GB/s", "regressions"], rows, (1, 2)))
    return fill("EPBox: history", "<h1>Results over time</h1>" + soft(text) + table + section("history", "Series", *charts, soft(more)))


def _label(series: history.Series) -> str:
    shape = series.shape
    layout = f"{shape.get('nodes', '?')} x {shape.get('ranks_per_node', '?')}"
    sizes = [
        f"{shape[key]} {unit}" for key, unit in (("num_tokens", "tokens"), ("hidden", "wide"), ("num_experts", "experts")) if key in shape
    ]
    return ", ".join([series.op, series.workload, layout, *sizes, series.arm or series.bind])

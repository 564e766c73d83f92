"""The whole page: one file, nothing fetched. The numbers lie in it once more as JSON, which every data-source path points into."""

import json
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from entrypoints.errors import UsageError
from entrypoints.report import drawn, figures, hosts
from entrypoints.report.html import soft
from entrypoints.report.load import Material

PAGE = Path(__file__).with_name("page.html")
#: A larger result.json is not repeated in the page.
MOST_JSON, MOST_NODES = 2 * 1024 * 1024, 128


def render(material: Material) -> str:
    """The HTML of a result. Raises UsageError where result.json has not the form that bench gives it."""
    document = material.document
    try:
        title = f"EPBox: {document.get('workload', '?')}, {material.folder}"
        status = str(document.get("status"))
        tone = status if status in ("failed", "incomplete") else "ok"
        parts = [
            f"<header><h1>{escape(title)}</h1>{soft(str(document.get('created') or ''))}</header>",
            f'<div class="verdict {tone}" id="verdict" data-source="{escape(material.origin)}#verdict">{escape(document["verdict"])}</div>',
            *(soft(str(note)) for note in [*(document.get("notes") or ()), *material.notes]),
            *(make(material) for make in (figures.best, figures.references, figures.alltoall, figures.wire, drawn.ablation)),
            *(make(material) for make in (drawn.ranks, drawn.sweep, hosts.drawing, hosts.evidence, hosts.doctor)),
            hosts.environment(material),
            hosts.logs(material),
            _island(document),
        ]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(f"not the form that bench writes ({type(error).__name__}: {error})", where=material.origin) from error
    return fill(title, "\n".join(part for part in parts if part))


def fill(title: str, body: str) -> str:
    return Template(PAGE.read_text(encoding="utf-8")).substitute(title=escape(title), body=body)


def _island(document: dict[str, Any]) -> str:
    if len(document["nodes"]) > MOST_NODES:
        return soft(
            f"result.json ({len(document['nodes'])} nodes) is not repeated in this page; data-source attributes point into the file."
        )
    text = json.dumps(document, separators=(",", ":"))
    if len(text) > MOST_JSON:
        return soft(f"result.json ({len(text)} bytes) is not repeated in this page; data-source attributes point into the file.")
    # In a script element nothing is unescaped: no < may stand in it.
    safe = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return f'<script type="application/json" id="result">{safe}</script>'

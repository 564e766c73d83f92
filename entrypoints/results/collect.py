"""Runs from logs and from result.json files alike."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from entrypoints.errors import UsageError
from entrypoints.logs.parse import Parser, parse_into


def collect(paths: Iterable[str | Path], sweep: bool = False) -> tuple[list[dict[str, Any]], int]:
    """(runs, runs left out because there were too many). A folder with result.json stands for that file.

    Raises UsageError when a path cannot be read or when none holds a result.
    """
    names = [str(path) for path in paths]
    runs: list[dict[str, Any]] = []
    parser = Parser(sweep)
    logs = []
    for name in names:
        document = _document(Path(name)) if name != "-" else None
        if document is None:
            logs.append(name)
        else:
            shape = document.get("shape") or {}
            ranks = shape.get("ranks") or (shape.get("nodes") or 1) * (shape.get("ranks_per_node") or 1)
            common = {key: value for key, value in shape.items() if value is not None}
            for run in document["runs"]:
                runs.append({**run, "shape": {**(run.get("shape") or {}), **common, "ranks": ranks}, "source": name})
    runs += parse_into(parser, logs) if logs else []
    if not runs:
        raise UsageError(
            "no result of a DeepEP test in it", where=", ".join(names), hint="it may have failed before it printed one: try epbox diagnose"
        )
    return runs, parser.omitted


def _document(path: Path) -> dict[str, Any] | None:
    """The result.json at or in this path, None when it is something else."""
    file = path / "result.json" if path.is_dir() else path
    if file.suffix != ".json" or not file.is_file():
        return None
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"no valid JSON: {error}", where=str(file)) from error
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(file)) from error
    if not isinstance(document, dict) or not isinstance(document.get("runs"), list):
        raise UsageError("no epbox.result/1 document", where=str(file))
    return document

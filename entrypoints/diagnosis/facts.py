"""What is known of the hosts beside the log: the result folder that bench writes, or files a person put there."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from entrypoints.errors import UsageError

_NAMES = ("result.json", "plan.json", "doctor.json", "topology.json", "versions.json")
_LIMIT = 64 << 20


def newest_result(root: Path = Path("results")) -> Path:
    """The newest result folder below `root`. Raises UsageError when there is none."""
    found = sorted(root.glob("*/result.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UsageError("no log given, and no result folder below results/", hint="epbox diagnose LOG")
    return found[-1].parent


def beside(logs: Iterable[Path]) -> Path | None:
    """The folder of these logs, or the one above it, that holds result.json, plan.json or doctor.json."""
    for log in logs:
        if str(log) == "-":
            continue
        for folder in (log, log.parent, log.parent.parent):
            if any((folder / name).is_file() for name in _NAMES):
                return folder
    return None


def gather(folder: Path | None) -> dict[str, Any]:
    """`doctor` (list of checks), `plans`, `results` and `folder`; parts that are absent or unreadable are left out."""
    if folder is None:
        return {}
    documents = {name: _read(folder / name) for name in _NAMES}
    told = of_result(documents["result.json"] or {})
    plan = documents["plan.json"]
    return {
        "folder": folder,
        "doctor": _checks(documents["doctor.json"]) + told.get("doctor", []),
        # Node 0's plan is in result.json too.
        "plans": told.get("plans") or ([plan] if plan else []),
        "results": told.get("results", []),
    }


def of_result(result: dict[str, Any]) -> dict[str, Any]:
    """The facts that a result.json (epbox.result/1) holds: `doctor`, `plans` and `results`; empty when it has no nodes."""
    nodes = [node for node in result.get("nodes") or [] if isinstance(node, dict)]
    if not nodes:
        return {}
    return {
        "doctor": [check for node in nodes for check in _checks(node.get("doctor"))],
        "plans": [node["plan"] for node in nodes if isinstance(node.get("plan"), dict)],
        "results": [result],
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > _LIMIT:
            return None
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _checks(document: Any) -> list[dict[str, Any]]:
    checks = document.get("checks", []) if isinstance(document, dict) else []
    return [check for check in checks if isinstance(check, dict) and "id" in check]

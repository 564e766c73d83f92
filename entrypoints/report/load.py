"""What a report is made of: result.json of a folder (or what its logs say), its logs, topology, sweep and a baseline."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from entrypoints.errors import EPBoxError, UsageError

#: Logs shown, the bytes shown of each (first and last half), and the largest log that is parsed again for its sweep.
MOST_LOGS, LOG_BYTES, SWEEP_BYTES = 24, 48 * 1024, 64 * 1024 * 1024


@dataclass(frozen=True)
class Log:
    """One log; `text` leaves out `omitted` bytes in the middle."""

    name: str
    size: int
    text: str
    omitted: int


@dataclass(frozen=True)
class Material:
    """Everything a page is rendered from. `origin` is what data-source paths point into."""

    folder: str
    origin: str
    document: dict[str, Any]
    logs: tuple[Log, ...] = ()
    more_logs: int = 0
    sweeps: tuple[tuple[str, dict[str, Any]], ...] = ()
    topology: Any = None
    notes: tuple[str, ...] = field(default=())


def load(folder: Path, baseline: Path | None = None) -> Material:
    """Read a result folder (or its result.json). Raises UsageError (exit 2) when there is nothing whole to show."""
    file = folder / "result.json" if folder.is_dir() else folder
    home = folder if folder.is_dir() else folder.parent
    if not folder.exists():
        raise UsageError("no such folder", where=str(folder), hint="bench writes results/TIME/ with a result.json in it")
    paths = _logs(home) if folder.is_dir() or file.name == "result.json" else []
    if file.is_file() and file.suffix == ".json":
        document, origin = read_document(file), file.name
    else:
        document, origin = _from_logs(folder), "results --format json"
    notes: list[str] = []
    if baseline is None and folder.is_dir() and (folder / "alltoall" / "result.json").is_file():
        baseline = folder / "alltoall"
    if baseline is not None:
        document = _beside(document, baseline)
    return Material(
        home.resolve().name,
        origin,
        document,
        tuple(_read(home, path) for path in paths[:MOST_LOGS]),
        max(0, len(paths) - MOST_LOGS),
        tuple(_sweeps(home, document, notes)),
        _topology(home, notes),
        tuple(notes),
    )


def read_document(file: Path) -> dict[str, Any]:
    """A result.json whose skeleton is right."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(file)) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"no valid JSON, perhaps torn: {error}", where=str(file), hint="run bench again, or give the logs") from error
    if not isinstance(document, dict) or document.get("schema") != "epbox.result/1":
        raise UsageError("no epbox.result/1 document", where=str(file))
    for key, kind in (("runs", list), ("nodes", list), ("shape", dict), ("verdict", str)):
        if not isinstance(document.get(key), kind):
            raise UsageError(f"`{key}` is missing or no {kind.__name__}: not what bench writes", where=str(file))
    for key in ("runs", "nodes"):
        if not all(isinstance(item, dict) for item in document[key]):
            raise UsageError(f"`{key}` holds something else than objects: not what bench writes", where=str(file))
    return document


def _beside(document: dict[str, Any], baseline: Path) -> dict[str, Any]:
    """The document with what `bench --baseline` would have put in it, from another result; `from` names that."""
    from entrypoints.bench import baseline as comparison
    from entrypoints.bench.measured import BASELINE, workload_runs

    file = baseline / "result.json" if baseline.is_dir() else baseline
    theirs = [{**run, "arm": BASELINE} for run in read_document(file)["runs"] if run.get("test") == "alltoall"]
    if not theirs:
        raise UsageError("holds no all-to-all", where=str(file), hint="epbox bench --workload alltoall, or epbox results --compare A B")
    try:
        found = comparison.compare({**document, "runs": [*workload_runs(document["runs"]), *theirs]})
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"not the form that bench writes ({type(error).__name__}: {error})", where=str(file)) from error
    return {**document, "baseline": {**found, "from": baseline.name}}


def _from_logs(path: Path) -> dict[str, Any]:
    """A document of what the logs alone tell; its status is that of completeness."""
    from entrypoints.logs.parse import parse_paths
    from entrypoints.results.compare import against_references, with_nodes

    runs = [with_nodes(run, None) for run in parse_paths([path])]
    if not runs:
        raise UsageError("no result.json, and no result in its logs", where=str(path), hint="epbox diagnose tells why a run failed")
    whole = all(run.get("complete") for run in runs)
    tests = ", ".join(dict.fromkeys(str(run["test"]) for run in runs))
    state = "complete" if whole else "not complete: " + "; ".join(dict.fromkeys(text for run in runs for text in run.get("missing", ())))
    return {
        "schema": "epbox.result/1",
        "workload": tests,
        "status": "ok" if whole else "incomplete",
        "verdict": f"{len(runs)} run(s) of {tests}, read from logs; {state}",
        "shape": runs[0].get("shape") or {},
        "runs": runs,
        "references": [row for run in runs[:1] for row in against_references(run)],
        "nodes": [],
    }


def _logs(home: Path) -> list[Path]:
    from entrypoints.logs.parse import log_files

    try:
        return [Path(name) for name in log_files([home])]
    except EPBoxError:
        return []


def _read(home: Path, path: Path) -> Log:
    name = str(path.relative_to(home))
    try:
        from entrypoints.logs.reader import open_log

        size = path.stat().st_size
        if path.suffix in (".gz", ".xz", ".bz2", ".zst"):
            with open_log(str(path)) as packed:
                return Log(name, size, packed.read(LOG_BYTES).decode("utf-8", "replace"), 0)
        with path.open("rb") as stream:
            if size <= LOG_BYTES:
                return Log(name, size, stream.read().decode("utf-8", "replace"), 0)
            first = stream.read(LOG_BYTES // 2)
            stream.seek(size - LOG_BYTES // 2)
            last = stream.read()
    except (OSError, EPBoxError) as error:
        return Log(name, 0, f"cannot be read: {error}", 0)
    omitted = size - LOG_BYTES
    return Log(
        name, size, f"{first.decode('utf-8', 'replace')}\n... {omitted} bytes left out ...\n{last.decode('utf-8', 'replace')}", omitted
    )


def _sweeps(home: Path, document: dict[str, Any], notes: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """(source, sweep) of tuning runs: from the document where it keeps them, else from the log a run names."""
    from entrypoints.logs.parse import parse_paths

    found: list[tuple[str, dict[str, Any]]] = []
    for number, run in enumerate(document["runs"][:4]):
        if run.get("sweep"):
            found += [(f"runs[{number}].sweep", each) for each in run["sweep"]]
            continue
        if not run.get("tuning_lines") or not isinstance(run.get("source"), str):
            continue
        path = home / run["source"] if not Path(run["source"]).exists() else Path(run["source"])
        if not path.is_file() or not path.resolve().is_relative_to(home.resolve()):
            notes.append(f"no heat map: {run['source']} is not in the folder")
        elif path.stat().st_size > SWEEP_BYTES:
            notes.append(f"no heat map: {run['source']} is larger than {SWEEP_BYTES >> 20} MiB")
        else:
            parsed = parse_paths([path], sweep=True)[:1]
            found += [(f"{path.name}, tuning lines", each) for each in (parsed[0].get("sweep") or () if parsed else ())]
    return found


def _topology(home: Path, notes: list[str]) -> Any:
    file = home / "topology.json"
    if not file.is_file():
        return None
    from entrypoints.topology import load as load_topology

    try:
        return load_topology(str(file))
    except EPBoxError as error:
        notes.append(f"no drawing: {error}")
        return None

"""The material of a report: result.json of a folder (or what its logs say), its logs, topology, sweep and a baseline."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from entrypoints.errors import EPBoxError, UsageError
from entrypoints.logs.parse import parse_paths
from entrypoints.logs.reader import ends, log_files
from entrypoints.placement.model import Plan
from entrypoints.results.codec import read_result
from entrypoints.results.comparison import beside_alltoall
from entrypoints.results.metrics import workload_runs
from entrypoints.results.model import BASELINE, Result, Sweep
from entrypoints.results.references import against_references, with_nodes
from entrypoints.topology.model import Topology

#: Logs shown, the bytes shown of each (first and last half), and the largest log that is parsed again for its sweep.
MOST_LOGS, LOG_BYTES, SWEEP_BYTES = 24, 48 * 1024, 64 * 1024 * 1024
#: Runs whose sweep is shown.
MOST_SWEEPS = 4


@dataclass(frozen=True)
class Log:
    """One log; a long `text` leaves out its middle."""

    name: str
    size: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything a page is rendered from. `origin` is what data-source paths point into."""

    folder: str
    origin: str
    result: Result
    logs: tuple[Log, ...] = ()
    more_logs: int = 0
    #: Each with the name of what it was read from.
    sweeps: tuple[tuple[str, Sweep], ...] = ()
    topology: Topology | None = None
    #: Node 0's, and the variables of its ranks: (local rank, NAME=value).
    plan: Plan | None = None
    variables: tuple[tuple[int, str], ...] = ()
    notes: tuple[str, ...] = ()


def load(folder: Path, baseline: Path | None = None) -> Material:
    """Read a result folder (or its result.json). Raises UsageError (exit 2) when there is nothing whole to show."""
    file = folder / "result.json" if folder.is_dir() else folder
    home = folder if folder.is_dir() else folder.parent
    if not folder.exists():
        raise UsageError("no such folder", where=str(folder), hint="bench writes results/TIME/ with a result.json in it")
    paths: list[str] = []
    if folder.is_dir() or file.name == "result.json":
        with suppress(EPBoxError):  # a result without logs
            paths = list(log_files([home]))
    if file.is_file() and file.suffix == ".json":
        result, origin = read_result(file), file.name
    else:
        result, origin = _from_logs(folder), "results --format json"
    if baseline is None and folder.is_dir() and (folder / "alltoall" / "result.json").is_file():
        baseline = folder / "alltoall"
    if baseline is not None:
        result = _beside(result, baseline)
    notes: list[str] = []
    sweeps = tuple(_sweeps(home, result, notes))
    topology = _topology(home, notes)
    plan, variables = _plan(result, notes)
    return Material(
        folder=home.resolve().name,
        origin=origin,
        result=result,
        logs=tuple(_read(home, Path(path)) for path in paths[:MOST_LOGS]),
        more_logs=max(0, len(paths) - MOST_LOGS),
        sweeps=sweeps,
        topology=topology,
        plan=plan,
        variables=variables,
        notes=tuple(notes),
    )


def _beside(result: Result, baseline: Path) -> Result:
    """The result with what `bench --baseline` would have put in it, from another result, which `baseline.origin` names."""
    file = baseline / "result.json" if baseline.is_dir() else baseline
    alltoall = [replace(run, arm=BASELINE) for run in read_result(file).runs if run.test == "alltoall"]
    if not alltoall:
        raise UsageError("holds no all-to-all", where=str(file), hint="epbox bench --workload alltoall, or epbox results --compare A B")
    comparison = beside_alltoall([*workload_runs(result.runs), *alltoall], result.shape)
    return replace(result, baseline=replace(comparison, origin=baseline.name))


def _from_logs(path: Path) -> Result:
    """A result of what the logs alone tell; its status is that of completeness."""
    runs = [with_nodes(run, None) for run in parse_paths([path])]
    if not runs:
        raise UsageError("no result.json, and no result in its logs", where=str(path), hint="epbox diagnose tells why a run failed")
    complete = all(run.complete for run in runs)
    tests = ", ".join(dict.fromkeys(run.test for run in runs))
    missing = "; ".join(dict.fromkeys(text for run in runs for text in run.missing or ()))
    state = "complete" if complete else f"not complete: {missing}"
    return Result(
        workload=tests,
        status="ok" if complete else "incomplete",
        verdict=f"{len(runs)} run(s) of {tests}, read from logs; {state}",
        shape=runs[0].shape,
        runs=tuple(runs),
        references=against_references(runs[:1]),
        nodes=(),
    )


def _read(home: Path, path: Path) -> Log:
    name = str(path.relative_to(home))
    try:
        return Log(name, path.stat().st_size, ends(path, LOG_BYTES // 2, LOG_BYTES // 2))
    except (OSError, EPBoxError) as error:
        return Log(name, 0, f"cannot be read: {error}")


def _sweeps(home: Path, result: Result, notes: list[str]) -> Iterator[tuple[str, Sweep]]:
    """The sweeps of tuning runs: from the result where it keeps them, else from the log a run names."""
    for number, run in enumerate(result.runs[:MOST_SWEEPS]):
        if run.sweep:
            yield from ((f"runs[{number}].sweep", sweep) for sweep in run.sweep)
            continue
        if not run.tuning_lines or run.source is None:
            continue
        path = home / run.source if not Path(run.source).exists() else Path(run.source)
        if not path.is_file() or not path.resolve().is_relative_to(home.resolve()):
            notes.append(f"no heat map: {run.source} is not in the folder")
        elif path.stat().st_size > SWEEP_BYTES:
            notes.append(f"no heat map: {run.source} is larger than {SWEEP_BYTES >> 20} MiB")
        else:
            for parsed in parse_paths([path], sweep=True)[:1]:
                yield from ((f"{path.name}, tuning lines", sweep) for sweep in parsed.sweep or ())


def _topology(home: Path, notes: list[str]) -> Topology | None:
    file = home / "topology.json"
    if not file.is_file():
        return None
    from entrypoints.topology import load as load_topology

    try:
        return load_topology(str(file))
    except EPBoxError as error:
        notes.append(f"no drawing: {error}")
        return None


def _plan(result: Result, notes: list[str]) -> tuple[Plan | None, tuple[tuple[int, str], ...]]:
    """Node 0's plan and the variables of its ranks; nothing, and a note, where result.json holds no plan."""
    if not result.nodes:
        return None, ()
    document = result.nodes[0].plan
    try:
        variables = tuple(
            (rank["local_rank"], f"{name}={value}") for rank in document["ranks"] for name, value in rank.get("env", {}).items()
        )
        return Plan.from_json(document), variables
    except (KeyError, TypeError, ValueError, AttributeError, EPBoxError) as error:
        notes.append(f"no plan: not the form that bench writes ({type(error).__name__}: {error})")
        return None, ()

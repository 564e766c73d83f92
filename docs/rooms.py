"""The rooms of EPBox, and who imports whom: read from the sources, nothing is run.

`ROOMS` is the one table of the rooms and of their order. tests/test_architecture.py holds the code to it; docs/draw_architecture.py
draws it.
"""

import ast
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Room:
    """A package (with all below it that is no room of its own) or a module, and why it stands where it stands."""

    name: str
    modules: tuple[str, ...]
    #: Whose walk passes here: that of an image, a plan or a result.
    walk: Literal["image", "plan", "result", "every"] = "every"
    #: Two short lines for the drawing.
    holds: tuple[str, str]
    reason: str


#: From the ground to the roof. A room imports rooms above it in this list, none below it.
ROOMS = (
    Room(
        name="entrypoints/*.py",
        modules=("entrypoints",),
        holds=("errors, output, CPU lists,", "JSON, TOML, the command line"),
        reason="No word of the subject is in it, so every room may stand on it.",
    ),
    Room(
        name="facts",
        modules=("entrypoints.facts",),
        holds=("pairs of versions, NICs,", "rights of a container"),
        reason="Data that others judge by. It judges nobody, so that each fact has one owner.",
    ),
    Room(
        name="topology",
        modules=("entrypoints.topology",),
        walk="plan",
        holds=("a host as it is: /sys,", "nvidia-smi, NCCL, hwloc"),
        reason="What a host has, before anybody decides anything.",
    ),
    Room(
        name="placement",
        modules=("entrypoints.placement",),
        walk="plan",
        holds=("which GPU, NIC, cores", "a rank gets, and why"),
        reason="Decides from a topology alone, so that a plan of a dumped host is the plan of that host.",
    ),
    Room(
        name="binding",
        modules=("entrypoints.binding",),
        walk="plan",
        holds=("a rank's share, set and", "read back in the kernel"),
        reason="Carries out one rank's part of a plan; knows of no other rank.",
    ),
    Room(
        name="nodes",
        modules=("entrypoints.nodes",),
        walk="plan",
        holds=("how nodes meet, agree", "and exchange records"),
        reason="Moves records between nodes and does not look into them, so it needs neither plan nor result.",
    ),
    Room(
        name="results",
        modules=("entrypoints.results",),
        walk="result",
        holds=("the shape of a result,", "codec, gates, tables"),
        reason="The shape comes before those that fill it: ranks, logs, a bench, a file of last year.",
    ),
    Room(
        name="launch",
        modules=("entrypoints.launch",),
        walk="plan",
        holds=("starts ranks bound,", "ends them together"),
        reason="Runs any command as ranks; what the command measures is not its business.",
    ),
    Room(
        name="logs",
        modules=("entrypoints.logs",),
        walk="result",
        holds=("what tests print, read", "into that shape"),
        reason="Knows formats and their versions; nobody above it parses a line of a log.",
    ),
    Room(
        name="workloads",
        modules=("entrypoints.workloads",),
        walk="plan",
        holds=("DeepEP's tests,", "the plain all-to-all"),
        reason="What is run: a command, a shape, and how its log is read.",
    ),
    Room(
        name="drawing",
        modules=("entrypoints.drawing",),
        walk="plan",
        holds=("a topology and a plan", "as SVG"),
        reason="Shows what topology and placement hold; they must not know that they are shown.",
    ),
    Room(
        name="diagnosis",
        modules=("entrypoints.diagnosis",),
        walk="result",
        holds=("the cause in a log,", "its remedy and source"),
        reason="Judges logs and results, so it stands on both.",
    ),
    Room(
        name="preflight",
        modules=("entrypoints.preflight",),
        walk="plan",
        holds=("doctor: one function", "a check, before a run"),
        reason="Judges a host by facts, topology and plan for the workload that is to run.",
    ),
    Room(
        name="bench",
        modules=("entrypoints.bench",),
        walk="result",
        holds=("plan, doctor, meet, run,", "check, write result.json"),
        reason="The one room that walks through all the others; so no other may need it.",
    ),
    Room(
        name="report",
        modules=("entrypoints.report",),
        walk="result",
        holds=("a result folder", "as a page"),
        reason="Shows what bench left, by its files.",
    ),
    Room(
        name="verbs",
        modules=("entrypoints.verbs", "entrypoints.__main__"),
        holds=("one file a verb:", "options in, a code out"),
        reason="The program's doors. `__main__` imports a verb when it is named, so that none pays for another.",
    ),
    Room(
        name="images/*.py",
        modules=("images",),
        walk="image",
        holds=("menu, templates,", "calling a program"),
        reason="What building and running images share.",
    ),
    Room(
        name="images/build",
        modules=("images.build",),
        walk="image",
        holds=("recipes and their locks,", "engine, verify, SBOM"),
        reason="How a recipe becomes an image; the image's use is not its business.",
    ),
    Room(
        name="images/run",
        modules=("images.run",),
        walk="image",
        holds=("containers as nodes", "on this host"),
        reason="Takes an image and runs it; needs build for the image's name and engine.",
    ),
    Room(
        name="images/run/schedulers",
        modules=("images.run.schedulers",),
        walk="image",
        holds=("Slurm, Open MPI, docker:", "one interface"),
        reason="Somebody else's machine runs the image: one interface, a module a scheduler.",
    ),
    Room(
        name="images/run/kubernetes",
        modules=("images.run.kubernetes",),
        walk="image",
        holds=("manifests, and a job", "followed to its result"),
        reason="As schedulers, with an API server to talk to.",
    ),
    Room(
        name="tasks.py",
        modules=("tasks",),
        walk="image",
        holds=("./inv: options in,", "one call, exit code out"),
        reason="The host's door, and the roof.",
    ),
)
GROUND = ROOMS[0].name


@dataclass(frozen=True)
class Import:
    """One module imports another, at this line: also within a function or under TYPE_CHECKING."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def modules(root: Path = ROOT) -> dict[str, Path]:
    """The file of each module of the program, by the module's name."""
    files = [root / "tasks.py", *sorted(root.glob("entrypoints/**/*.py")), *sorted(root.glob("images/**/*.py"))]
    return {_module_name(path.relative_to(root)): path for path in files if path.exists()}


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(files: Mapping[str, Path]) -> list[Import]:
    """Every import of one of these modules by another, in the order of the text; one that a name stands for twice is there twice."""
    arrows = []
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                arrows += [Import(name, target, node.lineno) for target in _targets(node, package, files) if target != name]
    return sorted(arrows, key=lambda arrow: (arrow.importer, arrow.line, arrow.imported))


def _targets(node: ast.Import | ast.ImportFrom, package: str, files: Mapping[str, Path]) -> Iterator[str]:
    """The modules among `files` that the statement names: `from a import b` names a.b where that is a module, else a."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in files)
        return
    base = node.module or ""
    if node.level:
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parents, *([node.module] if node.module else [])])
    for alias in node.names:
        whole = f"{base}.{alias.name}"
        if whole in files or base in files:
            yield whole if whole in files else base


def room_of(module: str, files: Mapping[str, Path]) -> str:
    """The name of the room that holds a module.

    Raises LookupError for a module of a new package: no room is made by accident.
    """
    names = {package: room.name for room in ROOMS for package in room.modules}
    package = module
    while package not in names and "." in package:
        package = package.rpartition(".")[0]
    # The two top folders are rooms by the files that lie in them, not by what folders are below.
    stray = "." not in package and package != module and (module.count(".") > 1 or files[module].name == "__init__.py")
    if package not in names or stray:
        raise LookupError(f"{module} is in no room: give its package a row in ROOMS of docs/rooms.py")
    return names[package]


def room_imports(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """The rooms that each room imports, in the order of ROOMS; rooms without a module are left out."""
    holders = {module: room_of(module, files) for module in files}
    graph: dict[str, set[str]] = {room.name: set() for room in ROOMS if room.name in holders.values()}
    for arrow in imports(files):
        importer, imported = holders[arrow.importer], holders[arrow.imported]
        if importer != imported:
            graph[importer].add(imported)
    return graph


def circle(graph: Mapping[str, Set[str]]) -> list[str]:
    """A circle of a graph, its first node again at the end; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        nodes: list[str] = error.args[1]
        return nodes[::-1]
    return []


def floors(graph: Mapping[str, Set[str]]) -> dict[str, int]:
    """The floor of each room: 0 for one that imports none, else one above the highest that it imports. Raises CycleError."""
    heights: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        heights[room] = 1 + max((heights[below] for below in graph[room]), default=-1)
    return heights


def reachable(graph: Mapping[str, Set[str]], start: str) -> set[str]:
    """All that `start` imports, and what that imports, and so on; of a graph without circles."""
    return set(graph[start]).union(*(reachable(graph, below) for below in graph[start]))


def direct(graph: Mapping[str, Set[str]]) -> dict[str, set[str]]:
    """The graph without the arrows that a longer way tells as well: a -> c, where a -> b -> c."""
    return {
        room: {below for below in under if not any(below in reachable(graph, other) for other in under)} for room, under in graph.items()
    }

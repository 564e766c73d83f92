"""`bench` from the build host: the recipe that fits, two nodes (as containers, or as processes of this host), one result folder."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entrypoints import ROOT
from entrypoints.bench.outdir import stamp
from entrypoints.bench.setup import check_words
from entrypoints.errors import EngineError, UsageError
from entrypoints.output import say
from images.build.image import BuildOptions, Image, build
from images.build.recipe import names

from .containers import Container, Node, Process

_GRACE_SECONDS = 20  # for the other nodes to notice that one is gone, before they are told


@dataclass(frozen=True)
class BenchOptions:
    """`recipe` None picks the one that fits; `arguments` go to `epbox bench` as they are."""

    recipe: str | None = None
    engine: str = "auto"
    nodes: int = 2
    ranks: int | None = None
    out: Path | None = None
    port: int = 8361
    arguments: Sequence[str] = ()


def bench(options: BenchOptions) -> int:
    """Run the bench on all nodes and return its exit code; nothing of it runs any more when this returns or raises."""
    if options.nodes < 1:
        raise UsageError(f"--nodes {options.nodes} is not allowed", hint="allowed: 1 and more")
    gpus = gpu_count()
    check_words(node_arguments(options, 0, "/results", gpus)[1:])  # building an image takes minutes
    image = None
    if options.engine != "host":
        recipe, why = (options.recipe, "as asked") if options.recipe else pick_recipe(gpus)
        say(f"bench: recipe {recipe}: {why}")
        image = build(BuildOptions(recipe, engine=options.engine))
    out = options.out or ROOT / "results" / stamp()
    out.mkdir(parents=True, exist_ok=True)
    import docker
    import requests

    with interruptible():
        nodes: list[Node] = []
        try:
            for rank in range(options.nodes):
                nodes.append(_node(image, options, rank, out, gpus))
            for node in nodes:
                node.start()
            code = _watch(nodes)
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            raise EngineError(f"a container does not start: {getattr(error, 'explanation', None) or error}") from None
        finally:
            for node in nodes:
                node.remove()
            if not any(out.iterdir()):
                out.rmdir()
    if out.exists():
        if image is not None:
            _index(out)
        say(f"bench: results in {_shown(out)}")
    return code


def _index(out: Path) -> None:
    """The line of index.jsonl beside the folder, which a container cannot reach: it sees only the folder itself."""
    from entrypoints.bench.flow import append_index

    with suppress(OSError, ValueError, KeyError):  # a run that failed early has written none, or half
        append_index(out, json.loads((out / "result.json").read_text(encoding="utf-8")))


def gpu_count(root: Path = Path("/")) -> int:
    """NVIDIA GPUs that this host's driver shows."""
    return len(list((root / "proc/driver/nvidia/gpus").glob("*")))


def pick_recipe(gpus: int) -> tuple[str, str]:
    """The recipe for this host, and the reason in words."""
    if gpus == 0:
        return "cpu", "no NVIDIA GPU on this host"
    if "deepep-v1" in names():
        return "deepep-v1", f"{gpus} NVIDIA GPU{'s' * (gpus > 1)} on this host"
    return "cpu", f"{gpus} NVIDIA GPU{'s' * (gpus > 1)} on this host, but no recipe for them here"


def node_arguments(options: BenchOptions, rank: int, out: str, gpus: int) -> list[str]:
    """The words after `epbox` for one node."""
    ranks = options.ranks or (None if gpus else 2)
    words = ["bench", "--nodes", str(options.nodes), "--node-rank", str(rank), "--master-addr", "127.0.0.1"]
    words += ["--master-port", str(options.port), "--out", out]
    words += ["--ranks", str(ranks)] if ranks else []
    return [*words, *options.arguments]


def _node(image: Image | None, options: BenchOptions, rank: int, out: Path, gpus: int) -> Node:
    if image is None:
        return Process(node_arguments(options, rank, str(out), gpus))
    return Container(image, node_arguments(options, rank, "/results", gpus), rank, out, gpus)


def _watch(nodes: Sequence[Node]) -> int:
    """Stream every node's lines and return the first failure's exit code; when one node fails the others get a grace, then TERM."""
    import docker
    import requests

    codes: dict[int, int] = {}
    finished = threading.Condition()
    over = threading.Event()

    def follow(index: int, node: Node) -> None:
        code = EngineError.exit_code
        try:
            for line in node.lines():
                _print(index, line)
            code = node.wait()
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            if not over.is_set():  # after Ctrl-C the containers are removed under this thread's hands
                say(f"bench: the engine lost node {index}: {getattr(error, 'explanation', None) or error}")
        finally:
            with finished:
                codes[index] = code
                finished.notify()

    for index, node in enumerate(nodes):
        threading.Thread(target=follow, args=(index, node), daemon=True).start()
    deadline = None
    try:
        with finished:
            while len(codes) < len(nodes):
                finished.wait(0.5)
                if deadline is None and any(codes.values()):
                    deadline = time.monotonic() + _GRACE_SECONDS
                if deadline is not None and time.monotonic() > deadline:
                    for index, node in enumerate(nodes):
                        if index not in codes:
                            node.stop()
                    deadline = float("inf")
    finally:
        over.set()
    # The node that failed first knows the cause; the others only lost it.
    return next((code for code in codes.values() if code), 0)


def _print(index: int, line: str) -> None:
    """Node 0 tells the run's story and table as it is; other nodes get a prefix. A rank's result as JSON is in result.json and the log."""
    if "] result {" in line or line.startswith("result: /results"):
        return
    sys.stderr.write(f"{f'node{index} | ' if index else ''}{line.rstrip()}\n")
    sys.stderr.flush()


@contextmanager
def interruptible() -> Iterator[None]:
    """TERM ends a run as cleanly as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _shown(path: Path) -> str:
    near = os.path.relpath(path)
    return str(path.absolute()) if near.startswith("..") else near

"""`bench` from the build host: the recipe that fits, two nodes (as containers, or as processes of this host), one result folder."""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import docker
import requests

from entrypoints import ROOT
from entrypoints.bench.setup import check_words
from entrypoints.errors import EngineError, UsageError, of_signal
from entrypoints.facts import container
from entrypoints.output import say, stamp
from entrypoints.results import history
from entrypoints.results.codec import read_result
from images.build.image import Image, build
from images.build.recipe import names
from images.options import BenchOptions, BuildOptions

_GRACE_SECONDS = 20  # for the other nodes to notice that one is gone, before they are told
_STOP_SECONDS = 10  # between TERM and KILL
#: Where a container leaves its results.
_RESULTS = container.need("results").value
_LOST = (docker.errors.DockerException, requests.exceptions.RequestException)


class Node(Protocol):
    """One node of the run: a container, or a process of this host."""

    def start(self) -> None: ...
    def lines(self) -> Iterator[str]: ...
    def wait(self) -> int: ...
    def stop(self) -> None: ...
    def remove(self) -> None: ...


class Container:
    """A node in a container of its own host name, on the host network."""

    def __init__(self, image: Image, command: Sequence[str], rank: int, out: Path, gpus: int) -> None:
        rdma = any(Path(container.need("rdma-devices").value).glob("uverbs*"))
        needs = container.needed(gpus=gpus > 0, rdma=rdma, several_nodes=True)
        limits = [limit.partition("=") for limit in container.values(needs, "limit")]
        self._container = image.engine.client().containers.create(
            image.id,
            list(command),
            hostname=f"node{rank}",
            name=f"epbox-{secrets.token_hex(4)}-node{rank}",
            labels={"epbox.run": "bench"},
            network_mode=container.need("network").value,
            environment={"EPBOX_IMAGE": image.name, "EPBOX_IMAGE_ID": image.id, "EPBOX_ENGINE": "docker"},
            volumes={str(out.resolve()): {"bind": _RESULTS, "mode": "rw"}},
            cap_add=container.values(needs, "capability"),
            devices=container.values(needs, "device"),
            ulimits=[docker.types.Ulimit(name=name, soft=int(number), hard=int(number)) for name, _, number in limits],
            device_requests=[docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])] if gpus else [],
            shm_size=container.LEAST_SHM_BYTES,  # of its own, for nodes of one host are two hosts to their ranks
            user=f"{os.getuid()}:{os.getgid()}",  # so that the results belong to who asked for them
        )

    def start(self) -> None:
        self._container.start()

    def lines(self) -> Iterator[str]:
        rest = b""
        for block in self._container.logs(stream=True, follow=True):
            *whole, rest = (rest + block).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
        if rest:
            yield rest.decode(errors="replace")

    def wait(self) -> int:
        return int(self._container.wait()["StatusCode"])

    def stop(self) -> None:
        self._container.stop(timeout=_STOP_SECONDS)

    def remove(self) -> None:
        with suppress(docker.errors.NotFound):
            self._container.remove(force=True)


class Process:
    """A node that is a process of this host; two of them share its host name."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "entrypoints", *command]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env={**os.environ, "EPBOX_ENGINE": "host", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it through stop(), once
        )

    def lines(self) -> Iterator[str]:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            yield line.decode(errors="replace")

    def wait(self) -> int:
        assert self._process is not None
        code = self._process.wait()
        return code if code >= 0 else of_signal(-code)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def remove(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()


def bench(options: BenchOptions) -> int:
    """Run the bench on all nodes and return its exit code; nothing of it runs any more when this returns or raises."""
    if options.nodes < 1:
        raise UsageError(f"--nodes {options.nodes} is not allowed", hint="allowed: 1 and more")
    gpus = gpu_count()
    check_words(node_arguments(options, 0, _RESULTS, gpus)[1:])  # building an image takes minutes
    image = None
    if options.engine != "host":
        recipe, reason = RecipeChoice(options.recipe, "as asked") if options.recipe else pick_recipe(gpus)
        say(f"bench: recipe {recipe}: {reason}")
        image = build(BuildOptions(recipe, engine=options.engine))
    out = options.out or ROOT / "results" / stamp()
    out.mkdir(parents=True, exist_ok=True)
    with interruptible():
        nodes: list[Node] = []
        try:
            for rank in range(options.nodes):
                nodes.append(_node(image, options, rank, out, gpus))
            for node in nodes:
                node.start()
            code = _watch(nodes)
        except _LOST as error:
            raise EngineError(f"a container does not start: {getattr(error, 'explanation', None) or error}") from None
        finally:
            for node in nodes:
                node.remove()
            if not any(out.iterdir()):
                out.rmdir()
    if out.exists():
        if image is not None:
            # The line of index.jsonl is beside the folder: a container, which sees only the folder, cannot write it.
            with suppress(UsageError):  # a run that failed early has written none, or half
                history.append(out, read_result(out / "result.json"))
        near = os.path.relpath(out)
        say(f"bench: results in {out.absolute() if near.startswith('..') else near}")
    return code


def gpu_count(root: Path = Path("/")) -> int:
    """NVIDIA GPUs that this host's driver shows."""
    return len(list((root / "proc/driver/nvidia/gpus").glob("*")))


class RecipeChoice(NamedTuple):
    """A recipe, and the reason for it in words."""

    recipe: str
    reason: str


def pick_recipe(gpus: int) -> RecipeChoice:
    """The recipe for a host with so many GPUs."""
    if gpus == 0:
        return RecipeChoice("cpu", "no NVIDIA GPU on this host")
    seen = f"{gpus} NVIDIA GPU{'s' * (gpus > 1)} on this host"
    if "deepep-v1" in names():
        return RecipeChoice("deepep-v1", seen)
    return RecipeChoice("cpu", f"{seen}, but no recipe for them here")


def node_arguments(options: BenchOptions, rank: int, out: str, gpus: int) -> list[str]:
    """The words after `epbox` for one node."""
    ranks = options.ranks or (None if gpus else 2)
    words = ["bench", "--nodes", str(options.nodes), "--node-rank", str(rank), "--master-addr", "127.0.0.1"]
    words += ["--master-port", str(options.port), "--out", out]
    words += ["--ranks", str(ranks)] if ranks else []
    words += ["--workload", options.workload] if options.workload else []
    words += ["--runs", str(options.runs)] if options.runs else []
    words += [flag for flag, given in (("--ablate", options.ablate), ("--baseline", options.baseline)) if given]
    return [*words, *options.arguments]


def _node(image: Image | None, options: BenchOptions, rank: int, out: Path, gpus: int) -> Node:
    if image is None:
        return Process(node_arguments(options, rank, str(out), gpus))
    return Container(image, node_arguments(options, rank, _RESULTS, gpus), rank, out, gpus)


def _watch(nodes: Sequence[Node]) -> int:
    """Stream every node's lines and return the first failure's exit code; when one node fails the others get a grace, then TERM."""
    codes: dict[int, int] = {}
    finished = threading.Condition()
    over = threading.Event()

    def follow(index: int, node: Node) -> None:
        code = EngineError.exit_code
        try:
            for line in node.lines():
                # Node 0 tells the run's story and table as it is, other nodes get a prefix; a rank's JSON is in result.json and the log.
                if "] result {" not in line and not line.startswith(f"result: {_RESULTS}"):
                    sys.stderr.write(f"{f'node{index} | ' if index else ''}{line.rstrip()}\n")
                    sys.stderr.flush()
            code = node.wait()
        except _LOST as error:
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


@contextmanager
def interruptible() -> Iterator[None]:
    """TERM ends a run as cleanly as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

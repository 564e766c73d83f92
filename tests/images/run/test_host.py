"""The host's side of a bench: whose exit code counts, and an engine that loses a node."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import docker
import pytest

from entrypoints.errors import UsageError
from entrypoints.facts import container as facts
from images.options import BenchOptions
from images.run import host as bench_host

if TYPE_CHECKING:
    from images.build.image import Image


class FakeNode:
    """A node that prints, then ends with a code or by an error of the engine."""

    def __init__(self, code: int = 0, error: Exception | None = None, hold: threading.Event | None = None) -> None:
        self.code, self.error, self.hold = code, error, hold
        self.held, self.stopped = threading.Event(), threading.Event()

    def start(self) -> None: ...

    def lines(self) -> Iterator[str]:
        yield "hello"
        if self.hold:
            self.held.set()
            self.hold.wait(60)
        if self.error:
            raise self.error

    def wait(self) -> int:
        return self.code

    def stop(self) -> None:
        self.stopped.set()
        if self.hold:
            self.hold.set()

    def remove(self) -> None: ...


def lost() -> docker.errors.NotFound:
    return docker.errors.NotFound("404", explanation="no such container")


def test_all_nodes_well_is_0() -> None:
    assert bench_host._watch([FakeNode(), FakeNode()]) == 0


def test_the_first_failure_counts_and_the_rest_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_host, "_GRACE_SECONDS", 0)
    waiting = FakeNode(code=143, hold=threading.Event())
    assert bench_host._watch([waiting, FakeNode(code=6)]) == 6
    assert waiting.stopped.is_set()


def test_a_node_that_the_engine_loses_is_one_line_and_exit_10(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_host._watch([FakeNode(), FakeNode(error=lost())]) == 10
    told = capsys.readouterr().err
    assert "the engine lost node 1: no such container" in told and "Traceback" not in told


def test_a_container_removed_after_ctrl_c_says_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    removed = threading.Event()
    node = FakeNode(error=lost(), hold=removed)

    class Interrupted(threading.Condition):
        """Ctrl-C comes while the nodes are waited for, and after the first line."""

        def wait(self, timeout: float | None = None) -> bool:
            assert node.held.wait(60)
            raise KeyboardInterrupt

    fake = SimpleNamespace(Condition=Interrupted, Event=threading.Event, Thread=threading.Thread)
    monkeypatch.setattr(bench_host, "threading", fake)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        bench_host._watch([node])
    removed.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert capsys.readouterr().err.strip() == "hello"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (BenchOptions(ranks=-1), "--ranks: -1 ranks asked for"),
        (BenchOptions(arguments=("--rnus", "3")), "unrecognized arguments: --rnus"),
        (BenchOptions(arguments=("--workload", "nope")), "--workload: no workload 'nope'"),
        (BenchOptions(arguments=("--bind", "gpu")), "--bind: 'gpu' is not a way to bind"),
        (BenchOptions(arguments=("-h",)), "unrecognized arguments: -h"),
    ],
)
def test_a_wrong_option_is_said_before_an_image_is_built(options: BenchOptions, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_host, "build", lambda _: pytest.fail("an image was built"))
    with pytest.raises(UsageError, match=reason):
        bench_host.bench(options)


def test_a_run_in_containers_is_in_the_index_beside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Writes(FakeNode):
        def start(self) -> None:
            recorded = Path("tests/data/gpu/alltoall-ablation.json").read_text()
            (tmp_path / "run" / "result.json").write_text(recorded)

    monkeypatch.setattr(bench_host, "build", lambda _: object())
    monkeypatch.setattr(bench_host, "_node", lambda *_: Writes())
    assert bench_host.bench(BenchOptions(out=tmp_path / "run", nodes=1)) == 0
    (line,) = (tmp_path / "index.jsonl").read_text().splitlines()
    assert json.loads(line)["result"] == "run/result.json"


@pytest.mark.parametrize("gpus", [0, 8])
def test_a_container_of_the_bench_gets_what_the_table_says_and_no_more(gpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    client = SimpleNamespace(containers=SimpleNamespace(create=lambda *_, **options: made.append(options)))
    image = SimpleNamespace(id="sha256:1", name="epbox:test", engine=SimpleNamespace(client=lambda: client))
    verbs = tmp_path / "infiniband"
    monkeypatch.setitem(facts.table(), "rdma-devices", replace(facts.need("rdma-devices"), value=str(verbs)))
    if gpus:
        verbs.mkdir()
        (verbs / "uverbs0").touch()
    bench_host.Container(cast("Image", image), ["bench"], 0, tmp_path, gpus)
    (options,) = made
    needs = facts.needed(gpus=gpus > 0, rdma=gpus > 0, several_nodes=True)
    assert options["cap_add"] == facts.values(needs, "capability") == (["IPC_LOCK", "SYS_NICE"] if gpus else ["SYS_NICE"])
    assert options["devices"] == ([str(verbs)] if gpus else [])
    assert [(limit.name, limit.soft, limit.hard) for limit in options["ulimits"]] == ([("memlock", -1, -1)] if gpus else [])
    assert (options["network_mode"], options["volumes"][str(tmp_path)]["bind"], len(options["device_requests"])) == (
        "host",
        "/results",
        gpus and 1,
    )
    assert options["shm_size"] == facts.LEAST_SHM_BYTES and "privileged" not in options

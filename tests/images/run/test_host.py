"""The host's side of a bench: whose exit code counts, and an engine that loses a node."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import docker
import pytest

from entrypoints.errors import UsageError
from images.run import host as bench_host


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
        (bench_host.BenchOptions(ranks=-1), "--ranks: -1 ranks asked for"),
        (bench_host.BenchOptions(arguments=("--rnus", "3")), "unrecognized arguments: --rnus"),
        (bench_host.BenchOptions(arguments=("--workload", "nope")), "--workload: no workload 'nope'"),
        (bench_host.BenchOptions(arguments=("--bind", "gpu")), "--bind: 'gpu' is not a way to bind"),
        (bench_host.BenchOptions(arguments=("-h",)), "unrecognized arguments: -h"),
    ],
)
def test_a_wrong_option_is_said_before_an_image_is_built(
    options: bench_host.BenchOptions, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert bench_host.bench(bench_host.BenchOptions(out=tmp_path / "run", nodes=1)) == 0
    (line,) = (tmp_path / "index.jsonl").read_text().splitlines()
    assert json.loads(line)["result"] == "run/result.json"

"""The host's side of a bench: whose exit code counts, and an engine that loses a node."""

import _thread
import threading
from collections.abc import Iterator

import docker
import pytest

from images import bench_host


class FakeNode:
    """A node that prints, then ends with a code or by an error of the engine."""

    def __init__(self, code: int = 0, error: Exception | None = None, hold: threading.Event | None = None) -> None:
        self.code, self.error, self.hold, self.stopped = code, error, hold, threading.Event()

    def start(self) -> None: ...

    def lines(self) -> Iterator[str]:
        yield "hello"
        if self.hold:
            self.hold.wait(10)
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


def test_a_container_removed_after_ctrl_c_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    removed = threading.Event()
    before = set(threading.enumerate())
    threading.Timer(0.2, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        bench_host._watch([FakeNode(error=lost(), hold=removed)])
    removed.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert capsys.readouterr().err.strip() == "hello"

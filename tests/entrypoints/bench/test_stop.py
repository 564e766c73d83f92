"""However often and whenever a run is told to stop, its record is written and says so."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from entrypoints.bench.launching import align
from entrypoints.launch import signals
from entrypoints.launch.signals import Stop
from entrypoints.nodes.session import Session
from tests.entrypoints.bench.conftest import Jobs
from tests.helpers.bench_process import free_port
from tests.helpers.patience import busy

ROOT = Path(__file__).parents[3]
#: Ranks tell that they run, then last.
UP = "import os, time\nopen(os.environ['UP'] + '/' + os.environ['EPBOX_RANK'], 'w').close()\n"
SCRIPT = UP + "time.sleep({seconds})\n"
#: The same, and on the last node they end only when the test wants it, so that all others wait for its record.
STUBBORN = (
    "import os, signal\nlast = os.environ['EPBOX_RANK'] in '23'\nif last: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + UP
) + "while not (last and os.path.exists(os.environ['UP'] + '/../end')): time.sleep(0.02)\n"


class Running:
    """The nodes of a run, each a process of its own."""

    def __init__(self, home: Path, script: str, nodes: int, runs: int, stack: ExitStack) -> None:
        self.home, self.port = home, free_port()
        (home / "up").mkdir()
        (home / "script.py").write_text(script)
        words = [sys.executable, str(ROOT / "tests/helpers/stoppable.py")]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "UP": str(home / "up"), "EPBOX_PYTHON": sys.executable}
        self.nodes = [
            subprocess.Popen(
                [*words, str(home / "out"), str(node), str(nodes), str(self.port), str(runs), str(home / "script.py")],
                **{"env": env, "stderr": subprocess.PIPE, "text": True, "restore_signals": True},  # type: ignore[call-overload]
            )
            for node in range(nodes)
        ]
        for node in self.nodes:
            stack.callback(node.wait)
            stack.callback(node.kill)

    def up(self, ranks: int) -> None:
        begun = time.monotonic()
        while len(list((self.home / "up").iterdir())) < ranks:
            assert time.monotonic() - begun < busy(20) and all(node.poll() is None for node in self.nodes), self.said()
            time.sleep(0.02)

    def wait_for_no_rank(self, node: int) -> None:
        """Until all ranks of a node have ended and it has noticed."""
        begun, process = time.monotonic(), self.nodes[node]
        while Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            assert process.poll() is None and time.monotonic() - begun < busy(20), self.said()
            time.sleep(0.02)

    def hammer(self, number: signal.Signals, every: float = 0.03) -> None:
        """Send the signal to all nodes again and again until they have ended."""
        begun = time.monotonic()
        while any(node.poll() is None for node in self.nodes):
            assert time.monotonic() - begun < busy(30), "it does not end"
            for node in self.nodes:
                if node.poll() is None:
                    node.send_signal(number)
            time.sleep(every)

    def said(self) -> str:
        for node in self.nodes:
            node.kill()
        return "\n".join(node.communicate()[1] for node in self.nodes)

    def record(self, node: int = 0) -> dict[str, Any]:
        path = self.home / "out" / ("result.json" if node == 0 else f"result.node-{node}.json")
        assert path.exists(), self.said()
        return dict(json.loads(path.read_text()))


@contextmanager
def running(home: Path, script: str, nodes: int = 1, runs: int = 1) -> Iterator[Running]:
    with ExitStack() as stack:
        yield Running(home, script, nodes, runs, stack)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("nodes", [1, 2])
def test_many_signals_cost_no_record(tmp_path: Path, number: signal.Signals, nodes: int) -> None:
    with running(tmp_path, SCRIPT.format(seconds=600), nodes) as run:
        run.up(2 * nodes)
        run.hammer(number)
        assert [node.returncode for node in run.nodes] == [128 + number] * nodes
        record = run.record()
    assert record["exit_code"] == 128 + number and record["status"] == "failed"
    assert f"stopped by {number.name}" in record["verdict"]
    assert [node["node_rank"] for node in record["nodes"]] == list(range(nodes))


def test_a_second_signal_while_another_node_still_ends_its_ranks(tmp_path: Path) -> None:
    with running(tmp_path, STUBBORN, nodes=2) as run:
        run.up(4)
        run.nodes[0].send_signal(signal.SIGTERM)
        run.wait_for_no_rank(0)
        assert run.nodes[0].poll() is None, "node 0 waits for the record of node 1, whose ranks ignore TERM"
        run.nodes[0].send_signal(signal.SIGTERM)
        (tmp_path / "end").touch()
        assert [node.wait(busy(30)) for node in run.nodes] == [143, 143]
        record = run.record()
    assert [len(node["ranks"]) for node in record["nodes"]] == [2, 2]
    assert "node 0" in record["verdict"] and "stopped by SIGTERM" in record["verdict"]


def test_a_node_that_cannot_answer_is_not_waited_for_after_a_second_ctrl_c(tmp_path: Path) -> None:
    with running(tmp_path, SCRIPT.format(seconds=600), nodes=2) as run:
        run.up(4)
        run.nodes[1].send_signal(signal.SIGSTOP)
        run.nodes[0].send_signal(signal.SIGINT)
        run.wait_for_no_rank(0)
        run.nodes[0].send_signal(signal.SIGINT)
        assert run.nodes[0].wait(busy(20)) == 130
        assert run.record()["exit_code"] == 130
        assert [node["node_rank"] for node in run.record()["nodes"]] == [0]


def test_a_second_ctrl_c_and_no_other_second_signal_shortens_the_patience() -> None:
    patient, hasty = Stop(), Stop()
    for stop, second in ((patient, signal.SIGTERM), (hasty, signal.SIGINT)):
        stop.note(signal.SIGINT)
        assert stop.patience() > time.monotonic() + signals.HASTE_S
        stop.note(second)
    assert patient.patience() > hasty.patience() and hasty.patience() <= time.monotonic() + signals.HASTE_S


def test_no_launch_starts_after_a_stop(tmp_path: Path) -> None:
    with running(tmp_path, SCRIPT.format(seconds=0.05), runs=1000) as run:
        run.up(2)
        run.hammer(signal.SIGTERM, every=0.2)
        record = run.record()
    assert record["exit_code"] == 143 and "stopped by SIGTERM" in record["verdict"]
    assert len(record["runs"]) < 1000


def test_a_stop_between_launches_ends_the_wait_for_the_others_and_tells_them(make_job: Jobs) -> None:
    class Told(Session):
        def gather(self, *arguments: Any) -> Any:
            stop.note(signal.SIGTERM)
            assert arguments[-1]() < time.monotonic()
            return {"ready": True}

        def abort(self, cause: str, exit_code: int = 4) -> None:
            told.append((cause, exit_code))

    told: list[tuple[str, int]] = []
    job, stop = make_job(nodes=2), Stop()
    session = Told(job.rendezvous)
    assert align(job, session, stop) == (143, "stopped by SIGTERM")
    assert told == [("stopped by SIGTERM", 143)]
    assert align(make_job(), session, stop) == (143, "stopped by SIGTERM")


def test_handlers_are_put_back_unless_the_process_is_to_end() -> None:
    before = {number: signal.getsignal(number) for number in signals.ENDING}
    with Stop() as stop:
        assert stop.exit_code == 0 and stop.patience() == float("inf") == stop.at_once()
    assert {number: signal.getsignal(number) for number in signals.ENDING} == before
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.exit_code == 143 and stop.cause == "stopped by SIGTERM"
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

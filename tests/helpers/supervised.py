"""A supervisor in its own process, watched from outside: exit code, time, what it says, and what it leaves running."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from entrypoints import ROOT
from tests.helpers.patience import busy

MARK = "EPBOX_TEST_MARK"
#: "Soon" on a machine that may be busy; what must not be waited for takes far longer.
SOON_S = 30.0
#: How long ranks of the tests would go on if nobody ended them.
LONG_S = 300
#: Said by a rank, in its program, when it is where the test wants it: `supervised.wait_up` sees it.
UP = "open(f\"{os.environ['EPBOX_TEST_UP']}/{os.environ['EPBOX_RANK']}\", 'w').close()"


def marked(mark: str) -> list[int]:
    """Every process, zombies apart, that was born with this mark in its environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def zombies_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state == "Z" and int(parent) == pid:
                found.append(int(entry.name))
    return found


@dataclass
class Result:
    exit_code: int
    seconds: float
    stdout: str
    stderr: str
    outcome: dict[str, Any] = field(default_factory=dict)

    @property
    def cause(self) -> str:
        return str(self.outcome.get("cause", ""))

    @property
    def ranks(self) -> list[dict[str, Any]]:
        return list(self.outcome["ranks"])


class Supervised:
    """Starts runs; at the end of the test nothing of them may be alive."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.up = Path(tempfile.mkdtemp(prefix="epbox-up-"))
        self.processes: list[subprocess.Popen[str]] = []

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMPI_", "PMI", "LOCAL_"))}
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            kept.pop(name, None)
        return {**kept, "PYTHONPATH": str(ROOT), MARK: self.mark, "EPBOX_TEST_UP": str(self.up), **more}

    def wait_up(self, ranks: int) -> None:
        """Until this many ranks have run UP."""
        wait_for(lambda: len(list(self.up.iterdir())) >= ranks)

    def popen(
        self,
        argv: list[str],
        prefix: tuple[str, ...] = (),
        *,
        streams: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> "subprocess.Popen[str]":
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **(streams or {})}
        variables = self.environment(**(environ or {}))
        process = subprocess.Popen([*prefix, *argv], env=variables, text=True, errors="replace", cwd=ROOT, **pipes)
        self.processes.append(process)
        return process

    def start(
        self, code: str, *, prefix: tuple[str, ...] = (), streams: dict[str, Any] | None = None, **asked: Any
    ) -> "subprocess.Popen[str]":
        """Ranks of `python -c code`, or of a script file where `script` is asked."""
        argv = [code, *asked.pop("arguments", [])] if asked.get("script") else [sys.executable, "-u", "-c", code]
        description = json.dumps({"argv": argv, **asked})
        return self.popen([sys.executable, str(ROOT / "tests/helpers/launch_driver.py"), description], prefix, streams=streams)

    def finish(self, process: "subprocess.Popen[str]", bound_s: float = 2 * SOON_S, begun: float | None = None) -> Result:
        begun = time.monotonic() if begun is None else begun
        stdout, stderr = end_of(process, bound_s / 2)
        seconds = time.monotonic() - begun
        assert marked(self.mark) == [], "processes of the run are left"
        last = stdout.strip().rpartition("\n")[2]
        outcome = json.loads(last) if last.startswith("{") else {}
        return Result(process.returncode, seconds, stdout, stderr, outcome)

    def run(self, code: str, *, bound_s: float = 2 * SOON_S, **asked: Any) -> Result:
        begun = time.monotonic()
        return self.finish(self.start(code, **asked), bound_s, begun)

    def cli(self, *arguments: str, bound_s: float = 2 * SOON_S, environ: Mapping[str, str] | None = None) -> Result:
        begun = time.monotonic()
        return self.finish(self.popen([sys.executable, "-m", "entrypoints", *arguments], environ=environ), bound_s, begun)


def wait_for(condition: Callable[[], object], bound_s: float = SOON_S) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < busy(bound_s / 2), "the condition did not come true in time"
        time.sleep(0.02)


def end_of(process: "subprocess.Popen[str]", bound_s: float = SOON_S) -> tuple[str, str]:
    """What a process has printed when it has ended; the bound grows with the load that comes meanwhile."""
    begun = time.monotonic()
    while True:
        try:
            return process.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            if time.monotonic() - begun >= busy(bound_s):
                raise


@pytest.fixture
def supervised() -> Iterator[Supervised]:
    runs = Supervised()
    yield runs
    for process in runs.processes:
        process.kill()
        process.wait()
    shutil.rmtree(runs.up)
    left = marked(runs.mark)
    for pid in left:
        os.kill(pid, 9)
    assert left == [], "processes of the run are left"

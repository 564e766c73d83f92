"""A rank that is done ends, whatever torch does with its process group."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from entrypoints.logs.alltoall import MARK
from tests.helpers import torch_python

pytestmark = pytest.mark.torch
SCRIPT = Path(__file__).with_name("leaving.py")
LAUNCHER = torch_python.ROOT / "entrypoints" / "launch" / "rank.py"


def finish(*options: str, **environment: str) -> "tuple[subprocess.CompletedProcess[str], bytes]":
    """One rank as the launcher starts it: how it ended, and the evidence it left."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    python = torch_python.need()
    with tempfile.TemporaryFile() as evidence:
        env = torch_python.environment(
            MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo", EPBOX_EVIDENCE_FD=str(evidence.fileno()), **environment
        )
        command = [python, str(LAUNCHER), str(SCRIPT), "--num-tokens=16", "--hidden=128", "--warmup=0", "--repeats=1", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=env, pass_fds=[evidence.fileno()], check=False)
        return done, os.pread(evidence.fileno(), 1 << 24, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="evidence comes from /proc")
def test_a_rank_ends_though_its_group_cannot_be_taken_down() -> None:
    done, evidence = finish()
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if MARK in line]
    assert json.loads(line.partition(MARK)[2])["correctness"]["passed"]
    assert b"stack" in evidence  # numa_maps: what is kept at exit is kept


def test_a_rank_with_wrong_numbers_ends_too() -> None:
    done, _ = finish(EPBOX_ALLTOALL_CORRUPT="combine:0")
    assert done.returncode == 6, done.stderr
    assert "wrong numbers" in done.stderr

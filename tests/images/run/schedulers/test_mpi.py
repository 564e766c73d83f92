"""mpi.render: whole scripts (EPBOX_UPDATE_GOLDEN=1 renews them), shells on each, and every bad parameter."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from entrypoints.errors import UsageError
from images.run.schedulers.mpi import MpiOptions, notes, render
from tests.helpers.golden import expected
from tests.helpers.shells import complaints

GOLDEN = Path("tests/golden/mpi")
IMAGE = "registry.example:5000/team/epbox@sha256:" + "0123456789abcdef" * 4
OPTIONS = MpiOptions(hosts=("gpu01", "gpu02"))
CASES = {
    "hosts": replace(OPTIONS, workload="deepep-internode", forward=("NVSHMEM_DEBUG",)),
    "apptainer": replace(OPTIONS, runtime="apptainer", image=IMAGE, arguments=("--runs", "3", "--", "--x y")),
    "allocation": replace(OPTIONS, hosts=(), nodes=4, gpus_per_node=0, workload="alltoall", program="python3 -m entrypoints"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_script_is_the_golden_one(name: str) -> None:
    text = render(CASES[name])
    assert text == expected(GOLDEN / f"{name}.sh", text)


@pytest.mark.parametrize("name", CASES)
def test_shells_accept_the_script(name: str, tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text(render(CASES[name]))
    assert complaints(tmp_path / "run.sh") == ""


@pytest.mark.parametrize("code", [0, 4])
def test_the_exit_code_is_mpirun_s_and_no_host_file_is_left(tmp_path: Path, code: int) -> None:
    (tmp_path / "mpirun").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > words\ncat "$4" > hosts\nexit {code}\n')
    (tmp_path / "mpirun").chmod(0o755)
    (tmp_path / "tmp").mkdir()
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(["bash", "-c", render(CASES["hosts"])], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.strip() == f"epbox: exit code {code}; {tmp_path}/results/mpi/result.json"
    assert (tmp_path / "hosts").read_text() == "gpu01 slots=1\ngpu02 slots=1\n"
    words = (tmp_path / "words").read_text().split("\n")
    assert words[:2] == ["-np", "2"] and words[words.index("--map-by") + 1] == "ppr:1:node"
    assert words[words.index("--bind-to") + 1] == "none" and "NVSHMEM_DEBUG" in words
    assert list((tmp_path / "tmp").iterdir()) == []


BAD = [
    (replace(OPTIONS, nodes=0), "--nodes", "0 nodes"),
    (replace(OPTIONS, nodes=3), "--hosts", "2 hosts for 3 nodes"),
    (replace(OPTIONS, hosts=("a b", "c")), "--hosts", "not a host name"),
    (replace(OPTIONS, runtime="pyxis"), "--runtime", "one of none"),
    (replace(OPTIONS, image=IMAGE), "--image", "apptainer"),
    (replace(OPTIONS, runtime="apptainer"), "--image", "no image"),
    (replace(OPTIONS, runtime="apptainer", image="epbox:cpu"), "--image", "--allow-tag"),
    (replace(OPTIONS, forward=("A B",)), "--forward", "not a variable"),
    (replace(OPTIONS, out="a b"), "--out", "white space"),
    (replace(OPTIONS, program="'"), "--program", "quot"),
    (replace(OPTIONS, gpus_per_node=0, workload="deepep-low-latency"), "--gpus-per-node", "needs GPUs"),
]


@pytest.mark.parametrize(("options", "where", "why"), BAD)
def test_a_bad_parameter_is_refused_with_its_reason(options: MpiOptions, where: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        render(options)
    assert caught.value.where == where and why in str(caught.value)


def test_the_task_prints_script_and_notes_apart() -> None:
    command = [sys.executable, "-m", "invoke", "mpi.render", "--hosts", "gpu01,gpu02", "--", "--runs", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    expected = replace(OPTIONS, arguments=("--runs", "3"))
    assert (done.returncode, done.stdout) == (0, render(expected)), done.stderr
    assert done.stderr.splitlines() == [f"note: {note}" for note in notes(expected)]

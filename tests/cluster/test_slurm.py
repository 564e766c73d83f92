"""Rendered sbatch scripts under real Slurm (one controller, two node daemons): a good run, and every way it can end early."""

import json
import math
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from images.build import image as builder
from images.run.schedulers.slurm import SlurmOptions, render
from tests.cluster.conftest import Slurm, rank_processes
from tests.helpers.patience import busy

pytestmark = [pytest.mark.container, pytest.mark.slow]
SHORT = ("--ranks", "2", "--quiet", "--num-tokens", "64", "--repeats", "3")
LONG = ("--ranks", "2", "--quiet", "--num-tokens", "64", "--repeats", "100000")
OPTIONS = SlurmOptions(runtime="none", gpus_per_node=0, workload="alltoall", time="5")
Start = Callable[[str], str]


def containers(cpu: builder.Image) -> list[str]:
    return [str(each.name) for each in cpu.engine.client().containers.list(filters={"label": "epbox.test=slurm"})]


def test_a_rendered_script_runs_on_two_nodes(slurm: Slurm, node_program: str) -> None:
    number = slurm.submit(render(replace(OPTIONS, program=node_program, arguments=SHORT)))
    job = slurm.end(number)
    said = slurm.output(number)
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), said
    assert f"epbox: exit code 0; {slurm.folder(number)}/result.json" in said
    result = slurm.result(number)
    assert result["status"] == "ok" and result["correctness"]["passed"]
    assert [node["hostname"] for node in result["nodes"]] == ["n0", "n1"]
    assert [rank["rank"] for node in result["nodes"] for rank in node["ranks"]] == [0, 1, 2, 3]
    assert "Slurm" in result["rendezvous"]["source"]
    reports = {path.name: json.loads(path.read_text()) for path in slurm.folder(number).glob("doctor-*.json")}
    assert set(reports) == {"doctor-0.json", "doctor-1.json"}
    assert {report["status"] for report in reports.values()} == {"PASS"}


def test_a_node_that_is_not_fit_stops_the_job_before_any_rank(slurm: Slurm, node_program: str) -> None:
    # doctor is asked about GPUs that this machine has not.
    options = replace(OPTIONS, program=node_program, gpus_per_node=8, workload="deepep-low-latency")
    script = render(options).replace("#SBATCH --gpus-per-node=8\n", "")
    number = slurm.submit(script)
    job = slurm.end(number)
    said = slurm.output(number)
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "3:0"), said
    assert "preflight ended with exit code 3 and no rank was started" in said
    assert "doctor-0.json" in said and "doctor-1.json" in said and "not fit for deepep-v1" in said
    assert not (slurm.folder(number) / "result.json").exists()


def test_a_rank_that_dies_ends_both_nodes_with_its_code(slurm: Slurm, node_program: str, start_job: Start, cpu: builder.Image) -> None:
    number = start_job(render(replace(OPTIONS, program=node_program, arguments=LONG, gate=False)))
    # RANK counts nodes, as in DeepEP's tests: global rank 3 is local rank 1 of node 1.
    (victim,) = rank_processes(RANK="1", EPBOX_LOCAL_RANK="1", SLURM_JOB_ID=number, SLURM_SUBMIT_DIR=str(slurm.home))
    victim.send_signal(signal.SIGSEGV)
    died = time.monotonic()
    job = slurm.end(number)
    said = slurm.output(number)
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "4:0"), said
    assert time.monotonic() - died < busy(30)
    result = slurm.result(number)
    # Not the peers that lost their connection to it.
    assert result["exit_code"] == 4
    assert all(word in result["verdict"] for word in ("node 1 (n1)", "rank 3", "SIGSEGV")), result["verdict"]
    assert containers(cpu) == []


def test_scancel_leaves_a_record_and_nothing_else(slurm: Slurm, node_program: str, start_job: Start, cpu: builder.Image) -> None:
    number = start_job(render(replace(OPTIONS, program=node_program, arguments=LONG, gate=False)))
    assert slurm.run("scancel", number).returncode == 0
    job = slurm.end(number)
    said = slurm.output(number)
    assert job["JobState"] == "CANCELLED", said
    assert "epbox: exit code 143" in said
    result = slurm.result(number)
    assert result["status"] == "failed" and result["exit_code"] == 143, result["verdict"]
    assert containers(cpu) == []


def test_the_time_limit_is_told_before_it_strikes(slurm: Slurm, node_program: str, start_job: Start, cpu: builder.Image) -> None:
    # Slurm counts limits in minutes and looks every 30 s, so that the signal comes up to 30 s earlier than asked. The limit is set when
    # ranks run, however late: 90 s from then at least, of which at least 60 s are left to end in.
    options = replace(OPTIONS, program=node_program, arguments=LONG, gate=False, time="00:30:00", signal_seconds=60)
    number = start_job(render(options))
    hours, minutes, seconds = map(int, slurm.job(number)["RunTime"].split(":"))
    limit = 60 * hours + minutes + math.ceil((seconds + 90) / 60)
    assert slurm.run("scontrol", "update", f"JobId={number}", f"TimeLimit={limit}").returncode == 0
    job = slurm.end(number)
    said = slurm.output(number)
    # 143 is the script's own end: Slurm did not have to kill it.
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "143:0"), said
    assert slurm.result(number)["exit_code"] == 143
    assert containers(cpu) == []


def test_a_node_that_is_lost_ends_the_other(slurm: Slurm, node_program: str, start_job: Start, cpu: builder.Image) -> None:
    number = start_job(render(replace(OPTIONS, program=node_program, arguments=LONG, gate=False)))
    # Its container goes without a word.
    there = cpu.engine.client().containers.list(filters={"label": "epbox.test=slurm"})
    next(each for each in there if each.attrs["Config"]["Hostname"] == "n1").kill("SIGKILL")
    job = slurm.end(number)
    result = slurm.result(number)
    assert job["JobState"] == "FAILED"
    assert result["exit_code"] == 4 and "node 1 (n1) is gone" in result["verdict"], result["verdict"]
    assert containers(cpu) == []


def test_a_plain_srun_needs_no_script(slurm: Slurm, node_program: str) -> None:
    words = [node_program, "bench", "--workload", "alltoall", "--no-doctor", *SHORT, "--out", str(slurm.home / "plain")]
    done = slurm.run("srun", "-N2", "--ntasks-per-node=1", "--cpu-bind=none", "--mpi=none", *words, MASTER_ADDR="127.0.0.1")
    assert done.returncode == 0, done.stderr
    result = json.loads((slurm.home / "plain" / "result.json").read_text())
    assert [node["hostname"] for node in result["nodes"]] == ["n0", "n1"]


def test_sbatch_accepts_every_directive(slurm: Slurm) -> None:
    # --test-only parses the directives and asks the controller without queueing; GPUs are not configured here.
    script = render(replace(OPTIONS, program="epbox", job_name="try", partition="all", extra=("--comment=a", "--nice=5")))
    (slurm.home / "try.sbatch").write_text(script)
    done = slurm.run("sbatch", "--test-only", str(slurm.home / "try.sbatch"))
    assert done.returncode == 0 and "to start at" in done.stderr, done.stderr

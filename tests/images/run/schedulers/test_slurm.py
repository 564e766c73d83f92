"""slurm.render: whole scripts (EPBOX_UPDATE_GOLDEN=1 renews them), shells and shellcheck on each, and every bad parameter."""

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoints.errors import UsageError
from images.run.schedulers.slurm import SlurmOptions, notes, render, seconds
from tests.helpers.golden import expected
from tests.helpers.shells import complaints

GOLDEN = Path("tests/golden/slurm")
DIGEST = "sha256:" + "0123456789abcdef" * 4
IMAGE = f"registry.example:5000/team/epbox@{DIGEST}"
PYXIS = SlurmOptions(image=IMAGE)
HOST = SlurmOptions(runtime="none", gpus_per_node=0, workload="alltoall", program="python3 -m entrypoints")
CASES = {
    "pyxis": replace(PYXIS, workload="deepep-internode", partition="gpu", account="moe"),
    "pyxis-file": replace(PYXIS, image="images/epbox.sqsh", mounts=("/scratch", "/data:/data:ro"), gate=False, master_port=9000),
    "pyxis-tag": replace(PYXIS, image="team/epbox:v1", allow_tag=True, gres="gpu:h100:8", extra=("--qos=high", "--requeue")),
    "apptainer": replace(PYXIS, runtime="apptainer", mounts=("/scratch",), image_dir="/shared/images"),
    "apptainer-file": replace(PYXIS, runtime="apptainer", image="/shared/epbox.sif", gpus_per_node=0, workload="alltoall", exclusive=False),
    "podman-hpc": replace(PYXIS, runtime="podman-hpc", arguments=("--runs", "3", "--", "--num-tokens", "64 k")),
    "none": HOST,
}


@pytest.mark.parametrize("name", CASES)
def test_the_script_is_the_golden_one(name: str) -> None:
    text = render(CASES[name])
    assert text == expected(GOLDEN / f"{name}.sbatch", text)


@pytest.mark.parametrize("name", CASES)
def test_shells_accept_the_script(name: str, tmp_path: Path) -> None:
    script = tmp_path / "job.sbatch"
    script.write_text(render(CASES[name]))
    assert complaints(script) == ""


@pytest.mark.parametrize("name", CASES)
def test_directives_come_first_and_are_given_once(name: str) -> None:
    lines = render(CASES[name]).splitlines()
    assert lines[0] == "#!/bin/bash"
    # sbatch stops looking at the first line that is a command.
    command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    at = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert at and max(at) < command
    given = [lines[i].split()[1].partition("=")[0] for i in at]
    assert len(given) == len(set(given))
    assert "--ntasks-per-node=1" in render(CASES[name]) and "--cpu-bind=none" in render(CASES[name])


def test_enroot_gets_its_own_spelling() -> None:
    # `#` ends the registry and the digest stands where a tag would: all enroot versions take that.
    assert f"enroot import --output \"$image.$SLURM_JOB_ID\" 'docker://registry.example:5000#team/epbox:{DIGEST}'" in render(PYXIS)
    hub = replace(PYXIS, image=f"team/epbox:v2@{DIGEST}")
    assert f"docker://team/epbox:{DIGEST}" in render(hub)
    assert "enroot import" in "".join(notes(PYXIS))


def test_a_moving_tag_is_never_kept_as_a_file() -> None:
    for runtime in ("pyxis", "apptainer"):
        text = render(replace(PYXIS, image="registry.example/epbox:latest", allow_tag=True, runtime=runtime))
        assert "enroot import" not in text and "apptainer pull" not in text


@pytest.mark.parametrize(
    ("text", "value"),
    [("30", 1800), ("30:15", 1815), ("1:30:15", 5415), ("2-3", 183600), ("2-3:4", 183840), ("2-3:4:5", 183845)],
)
def test_times_mean_what_slurm_says(text: str, value: int) -> None:
    assert seconds(text) == value


BAD = [
    (replace(PYXIS, nodes=0), "--nodes", "0 nodes"),
    (replace(PYXIS, nodes=5001), "--nodes", "1 to 5000"),
    (replace(PYXIS, image=""), "--image", "no image"),
    (replace(PYXIS, image="registry.example/epbox:latest"), "--image", "--allow-tag"),
    (replace(PYXIS, image="registry.example/epbox@sha256:12"), "--image", "no image reference"),
    (replace(PYXIS, image="Registry.example/EPBox:x", allow_tag=True), "--image", "no image reference"),
    (replace(PYXIS, image="a.sif"), "--image", ".sqsh"),
    (replace(PYXIS, runtime="podman-hpc", image="/a.sqsh"), "--image", "reference"),
    (replace(PYXIS, runtime="docker"), "--runtime", "one of pyxis"),
    (replace(PYXIS, time="soon"), "--time", "not a time"),
    (replace(PYXIS, time="1:2:3:4"), "--time", "not a time"),
    (replace(PYXIS, time="00:00:60"), "--time", "no time to run"),
    (replace(PYXIS, time="0"), "--time", "no time to run"),
    (replace(PYXIS, signal_seconds=0), "--signal-seconds", "1 to 65535"),
    (replace(PYXIS, job_name="a b"), "--job-name", "job name"),
    (replace(PYXIS, job_name="x\n#SBATCH --uid=0"), "--job-name", "job name"),
    (replace(PYXIS, partition="gpu\nrm -rf /"), "--partition", "signs"),
    (replace(PYXIS, account="--wrap"), "--account", "signs"),
    (replace(PYXIS, gres="gpu 8"), "--gres", "signs"),
    (replace(PYXIS, gpus_per_node=-1), "--gpus-per-node", "0 or more"),
    (replace(PYXIS, workload="deepep"), "--workload", "one of auto"),
    (replace(PYXIS, workload="deepep-internode", nodes=5), "--nodes", "nearest possible: --nodes 4"),
    (replace(PYXIS, workload="deepep-internode", gpus_per_node=4), "--gpus-per-node", "exactly 8"),
    (replace(PYXIS, workload="deepep-intranode"), "--nodes", "one node"),
    (replace(PYXIS, workload="deepep-low-latency", gpus_per_node=0), "--gpus-per-node", "needs GPUs"),
    (replace(PYXIS, arguments=("--nodes=3",)), "--args", "written by this task"),
    (replace(PYXIS, arguments=("a\nb",)), "--args", "control"),
    (replace(PYXIS, extra=("--nodes=3",)), "--sbatch", "written by this task"),
    (replace(PYXIS, extra=("-N3",)), "--sbatch", "not an option"),
    (replace(PYXIS, extra=("--comment=$(id)",)), "--sbatch", "not an option"),
    (replace(PYXIS, out="my results"), "--out", "white space"),
    (replace(PYXIS, out="$(id)"), "--out", "quotes"),
    (replace(PYXIS, mounts=("data:/data",)), "--mounts", "not a mount"),
    (replace(PYXIS, mounts=("/a:/b:ro:x",)), "--mounts", "not a mount"),
    (replace(PYXIS, devices=("/dev/a,b",)), "--devices", "commas"),
    (replace(PYXIS, master_port=65535), "--master-port", "next port"),
    (replace(PYXIS, program="other"), "--program", "runtime none"),
    (replace(HOST, image=IMAGE), "--image", "no image"),
    (replace(HOST, mounts=("/data",)), "--mounts", "no container"),
    (replace(HOST, program="'"), "--program", "quot"),
    (replace(HOST, program=" "), "--program", "no program"),
]


@pytest.mark.parametrize(("options", "where", "why"), BAD)
def test_a_bad_parameter_is_refused_with_its_reason(options: SlurmOptions, where: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        render(options)
    assert caught.value.where == where and why in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=12), max_size=4))
def test_arguments_reach_bench_word_for_word(words: list[str]) -> None:
    text = render(replace(HOST, arguments=("--", *words)))
    line = next(line for line in text.split("\n") if '"${epbox[@]}" bench' in line)
    shown = line.replace('"${step[@]}" "${epbox[@]}"', 'printf "%s\\\\0"').replace('"$out"', "OUT")
    done = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == ["bench", "--workload", "alltoall", "--out", "OUT", "--", *words]


def test_the_task_prints_the_script_and_its_errors_are_one_line() -> None:
    command = [sys.executable, "-m", "invoke", "slurm.render", "--image", IMAGE, "--nodes", "4", "--", "--runs", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, render(replace(PYXIS, nodes=4, arguments=("--runs", "3")))), done.stderr
    assert done.stderr.startswith("note: ")
    done = subprocess.run([*command[:4], "--nodes", "0", "--image", IMAGE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip() == f"slurm.render: --nodes: 0 nodes; give 1 to {5000}"
    assert shlex.split(done.stderr)[0] == "slurm.render:"

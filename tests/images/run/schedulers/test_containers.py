"""docker.render: whole texts (EPBOX_UPDATE_GOLDEN=1 renews them), the flags that doctor advises, and every bad parameter."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from entrypoints.errors import UsageError
from entrypoints.facts.container import needed
from images.run.schedulers.docker import ContainerOptions, notes, render
from tests.helpers import compose
from tests.helpers.golden import expected

GOLDEN = Path("tests/golden/docker")
IMAGE = "registry.example:5000/team/epbox@sha256:" + "0123456789abcdef" * 4
OPTIONS = ContainerOptions(image=IMAGE)
TCP = replace(OPTIONS, gpus="none", workload="alltoall", arguments=("--ranks", "2", "--quiet"))
CASES = {
    "commands.sh": replace(OPTIONS, hosts=("10.0.0.1", "10.0.0.2"), workload="deepep-internode"),
    "some-gpus.sh": replace(OPTIONS, nodes=1, gpus="device=0,1", out="/scratch/results", master_port=9000),
    "tcp.sh": TCP,
    "compose.yaml": replace(OPTIONS, format="compose", hosts=("gpu01", "gpu02"), workload="deepep-low-latency"),
    "compose-tcp.yaml": replace(TCP, format="compose", nodes=3, arguments=("--", "--seed", "$HOME")),
}


@pytest.mark.parametrize("name", CASES)
def test_the_text_is_the_golden_one(name: str) -> None:
    text = render(CASES[name])
    assert text == expected(GOLDEN / name, text)


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith(".sh")])
def test_docker_gets_these_words(name: str, tmp_path: Path) -> None:
    """A stand-in for docker notes what the shell makes of each line."""
    (tmp_path / "docker").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$0.$$"\n')
    (tmp_path / "docker").chmod(0o755)
    options = replace(CASES[name], out="res")
    (tmp_path / "run.sh").write_text(render(options))
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if shellcheck.exists():
        done = subprocess.run([shellcheck, "--shell=sh", tmp_path / "run.sh"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MASTER_ADDR": "192.0.2.9"}
    subprocess.run(["sh", "-eu", "run.sh"], cwd=tmp_path, env=environ, check=True)
    calls = [path.read_text().splitlines() for path in tmp_path.glob("docker.*")]
    assert len(calls) == options.nodes and (tmp_path / "res").is_dir()
    for words in calls:
        at = words.index(IMAGE)
        flags, command = words[:at], words[at + 1 :]
        gpus = options.gpus != "none"
        for row in needed(gpus=gpus, rdma=gpus, several_nodes=options.nodes > 1):
            words_of_row = row.docker.replace("=", " ", 1) if row.kind in ("device", "network", "ipc") else row.docker
            assert row.kind == "gpus" or words_of_row in " ".join(flags), row
        assert "--privileged" not in flags and f"{tmp_path}/res:/results" in flags
        assert command[:2] == ["bench", "--workload"] and command[command.index("--out") + 1] == "/results"
    ranks = sorted(int(words[words.index("--node-rank") + 1]) for words in calls)
    assert ranks == list(range(options.nodes))
    if "device=" in options.gpus:
        # docker itself takes the quotes off: without them a comma would start another field.
        assert '"device=0,1"' in calls[0]


def service(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    document = yaml.safe_load(render(CASES[name]))
    return document, document["services"]["node1"]


def test_a_compose_service_has_what_the_command_has() -> None:
    document, one = service("compose.yaml")
    assert list(document["services"]) == ["node0", "node1"]
    assert one["network_mode"] == "host" and one["ipc"] == "host" and one["ulimits"] == {"memlock": -1}
    assert one["cap_add"] == ["IPC_LOCK", "SYS_NICE"] and "privileged" not in one
    assert one["devices"] == ["/dev/infiniband:/dev/infiniband"]
    assert one["deploy"]["resources"]["reservations"]["devices"] == [{"driver": "nvidia", "capabilities": ["gpu"], "count": "all"}]
    assert one["command"][1:9] == ["--workload", "deepep-low-latency", "--nodes", "2", "--node-rank", "1", "--master-addr", "gpu01"]


def test_a_compose_file_without_gpus_asks_for_none() -> None:
    document, one = service("compose-tcp.yaml")
    assert len(document["services"]) == 3
    assert not {"deploy", "devices", "ulimits"} & set(one) and one["cap_add"] == ["SYS_NICE"]
    assert one["command"][-2:] == ["--seed", "$$HOME"], "compose would fill in the variable"
    assert one["environment"]["MASTER_ADDR"].startswith("${MASTER_ADDR:?")


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith(".yaml")])
def test_compose_itself_accepts_the_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(render(CASES[name]))
    words = [*compose.command(), "-f", "compose.yaml", "config"]
    done = subprocess.run(words, cwd=tmp_path, env={**os.environ, "MASTER_ADDR": "a"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(yaml.safe_load(done.stdout)["services"]) == CASES[name].nodes


BAD = [
    (replace(OPTIONS, nodes=0), "--nodes", "0 nodes"),
    (replace(OPTIONS, image="epbox:cpu"), "--image", "--allow-tag"),
    (replace(OPTIONS, image=""), "--image", "no image"),
    (replace(OPTIONS, hosts=("a",)), "--hosts", "1 hosts for 2 nodes"),
    (replace(OPTIONS, hosts=("a", "a")), "--hosts", "twice"),
    (replace(OPTIONS, hosts=("a", "b;reboot")), "--hosts", "not a host name"),
    (replace(OPTIONS, format="swarm"), "--format", "commands"),
    (replace(OPTIONS, gpus="0"), "--gpus", "no GPUs"),
    (replace(OPTIONS, gpus="none", workload="deepep-elastic"), "--gpus", "needs GPUs"),
    (replace(OPTIONS, gpus="4", workload="deepep-internode"), "--gpus", "exactly 8"),
    (replace(OPTIONS, out="a b"), "--out", "not a path"),
    (replace(OPTIONS, name="A"), "--name", "container name"),
    (replace(OPTIONS, master_port=0), "--master-port", "not a port"),
    (replace(OPTIONS, arguments=("--node-rank", "3")), "--args", "written by this task"),
]


@pytest.mark.parametrize(("options", "where", "why"), BAD)
def test_a_bad_parameter_is_refused_with_its_reason(options: ContainerOptions, where: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        render(options)
    assert caught.value.where == where and why in str(caught.value)


def test_the_task_prints_text_and_notes_apart() -> None:
    command = [sys.executable, "-m", "invoke", "docker.render", "--image", IMAGE, "--hosts", "a,b", "--", "--runs", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    expected = replace(OPTIONS, hosts=("a", "b"), arguments=("--runs", "3"))
    assert (done.returncode, done.stdout) == (0, render(expected)), done.stderr
    assert done.stderr.splitlines() == [f"note: {note}" for note in notes(expected)]
    done = subprocess.run([*command[:4], "--image", "epbox:cpu"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("docker.render: --image: 'epbox:cpu' has no digest")

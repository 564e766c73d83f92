"""The cpu image: who it says it is, what it holds, and that it runs as anyone with nothing."""

import json
import re
import subprocess
from typing import Any

import pytest

from images.build import image as build
from images.build import lock, recipe


def test_oci_labels_say_what_it_is(cpu: build.Image) -> None:
    labels = cpu.engine.client().images.get(cpu.id).labels
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}title"] == "EPBox cpu"
    assert labels[f"{prefix}licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels[f"{prefix}revision"])
    assert labels[f"{prefix}base.name"].startswith("epbox-base:trixie-")
    assert labels[f"{prefix}base.digest"].startswith("sha256:")
    assert labels["epbox.recipe"] == "cpu"
    assert labels["epbox.lock"] == lock.digest(lock.load(recipe.load_recipe("cpu")))
    assert "1970" not in labels[f"{prefix}created"]


def test_entrypoint_and_command(cpu: build.Image) -> None:
    config = cpu.engine.client().images.get(cpu.id).attrs["Config"]
    assert (config["Entrypoint"], config["Cmd"]) == (["epbox"], ["bench"])


def test_no_secret_of_the_build_is_in_it(cpu: build.Image, run: Any) -> None:
    text = json.dumps(cpu.engine.client().images.get(cpu.id).attrs) + json.dumps(cpu.engine.client().images.get(cpu.id).history())
    assert "PROXY=" not in text.upper().replace("NO_PROXY=", "")
    assert run("sh", "-c", "ls -A /run /tmp /root /var/log; ls /run/secrets 2>&1 | wc -l")[0] == 0
    assert "secrets" not in run("ls", "-A", "/run")[1]


@pytest.mark.parametrize("verb", ["--help", "version", "topology", "plan"])
def test_verbs_run(run: Any, verb: str) -> None:
    code, text = run(verb)
    assert code == 0, text
    assert text.strip()


def test_plan_is_json_for_machines(run: Any) -> None:
    code, text = run("plan", "--format", "json", "--ranks", "2")
    assert code == 0, text
    plan = json.loads(text[text.index("{") :])
    assert plan["schema"] == "epbox.plan/1"
    assert len(plan["ranks"]) == 2


def test_version_names_the_recipe(run: Any) -> None:
    code, text = run("version")
    assert code == 0
    assert "cpu" in text


def test_an_unknown_word_is_a_command_and_an_unknown_command_is_exit_2(run: Any) -> None:
    assert run("echo", "hello") == (0, "hello\n")
    code, text = run("no-such-command")
    assert code == 2
    assert "no-such-command" in text and "Traceback" not in text


def test_torch_has_gloo(run: Any) -> None:
    code, text = run("python3", "-c", "import torch.distributed as d; print(d.is_gloo_available())")
    assert (code, text.strip().splitlines()[-1]) == (0, "True")


@pytest.mark.parametrize("tool", ["numactl --show", "ibv_devices", "ibv_devinfo --list", "ibstat -l", "ib_write_bw --version"])
def test_tools_load(run: Any, tool: str) -> None:
    code, text = run(*tool.split())
    assert code not in (2, 126, 127), text  # 2 is epbox's own word for "no such command"
    assert "error while loading shared libraries" not in text


def test_as_any_user_read_only_and_without_capabilities(run: Any) -> None:
    options = {"user": "1234:1234", "read_only": True, "cap_drop": ["ALL"], "tmpfs": {"/tmp": ""}}
    assert run("plan", **options)[0] == 0
    code, text = run("bench", "--nodes", "1", "--ranks", "2", "--master-port", "18461", **options)
    assert code == 0, text
    assert "OK: alltoall" in text


def test_nothing_is_setuid_or_world_writable(run: Any) -> None:
    code, text = run("find", "/", "-xdev", "-type", "f", "-perm", "/6000", "-o", "-xdev", "-type", "f", "-perm", "-0002")
    assert (code, text.strip()) == (0, "")
    code, text = run("find", "/", "-xdev", "-type", "d", "-perm", "-0002", "!", "-perm", "-1000")
    assert (code, text.strip()) == (0, "")


def test_bytecode_carries_no_times_and_documentation_is_gone(run: Any) -> None:
    program = (
        "import pathlib\n"
        "stamped = [p for p in pathlib.Path('/').glob('usr/**/*.pyc') if p.read_bytes()[4] == 0]\n"
        "own = list(pathlib.Path('/opt/epbox').rglob('*.pyc'))\n"
        "print(len(stamped), len(own) > 20, all(p.read_bytes()[4] == 1 for p in own))\n"
    )
    assert run("python3", "-c", program) == (0, "0 True True\n")
    assert run("sh", "-c", "ls -A /usr/share/man /usr/share/locale /var/log | grep -v : | wc -l")[0] == 0
    assert run("sh", "-c", "find /var/log /var/cache/apt /var/lib/apt/lists -type f ! -name lock | wc -l")[1].strip() == "0"


def test_it_holds_its_size_budget(cpu: build.Image) -> None:
    size = cpu.engine.client().images.get(cpu.id).attrs["Size"]
    assert size / 1e6 < recipe.load_recipe("cpu").build.size_mb


def test_the_program_is_that_of_this_checkout(run: Any) -> None:
    code, text = run("sha256sum", "/opt/epbox/entrypoints/__main__.py")
    own = subprocess.run(["sha256sum", "entrypoints/__main__.py"], capture_output=True, text=True, check=True).stdout
    assert code == 0
    assert text.split()[0] == own.split()[0]

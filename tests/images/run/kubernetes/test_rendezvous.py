"""Who a pod of a rendered manifest is: its environment, as manifest, kubelet and controllers make it, through the real rendezvous.

What the controllers add is in tests/helpers/kube_pods.py, each with its source; commands run in a real shell with a stand-in for `epbox`.
"""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entrypoints.nodes.rendezvous import Rendezvous, resolve
from images.run.kubernetes.manifests import KINDS, ManifestOptions, render
from tests.helpers.kube_pods import Pod, environment, pods_of
from tests.helpers.kubernetes_schema import load

NODES = 3
OPTIONS = ManifestOptions(image="registry.example/epbox@sha256:" + "a" * 64, nodes=NODES, name="moe", namespace="bench", master_port=9000)
WITH_RANKS = [kind for kind in KINDS if kind != "daemonset"]


def pods(kind: str, **change: Any) -> list[Pod]:
    """All pods of a manifest in the order of the node ranks that they should have."""
    return [pod for document in load(render(replace(OPTIONS, kind=kind, **change))) for pod in pods_of(document)]


def expand(text: str, environ: Mapping[str, str]) -> str:
    """$(NAME) in command and args as a kubelet does it: $$ is a dollar, an unknown name stays as it is."""

    def one(match: re.Match[str]) -> str:
        return "$" if match.group() == "$$" else environ.get(match.group(1), match.group())

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, text)


def run(pod: Pod, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Start the bench container's command in a shell, `epbox` standing in; its words and its environment."""
    epbox = folder / "epbox"
    epbox.write_text(f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]), flush=True)\n")
    epbox.chmod(epbox.stat().st_mode | stat.S_IXUSR)
    (container,) = pod.spec["containers"]
    environ = {**environment(pod, container), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    command = [expand(word, environ) for word in [*container.get("command", ["epbox"]), *container["args"]]]
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            words, seen = json.loads(process.stdout.readline())
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return words, seen


def found(pod: Pod, folder: Path) -> Rendezvous:
    words, environ = run(pod, folder)
    assert words[0] == "bench"
    return resolve(None, environ)


@pytest.mark.parametrize("host_network", [False, True])
@pytest.mark.parametrize("kind", WITH_RANKS)
def test_each_pod_resolves_to_its_node_rank_the_count_and_one_master(kind: str, host_network: bool, tmp_path: Path) -> None:
    group = pods(kind, host_network=host_network)
    told = [found(pod, tmp_path) for pod in group]
    assert [(each.node_rank, each.nodes, each.master_port) for each in told] == [(i, NODES, 9000) for i in range(NODES)]
    (master,) = {each.master_addr for each in told}
    # The name that the cluster's DNS has for the pod of rank 0: HOSTNAME.SUBDOMAIN[.NAMESPACE].
    first = f"{group[0].hostname}.{group[0].spec['subdomain']}"
    assert master in (first, f"{first}.bench")


@pytest.mark.parametrize("kind", ["job", "pod"])
def test_the_headless_service_is_the_subdomain_selects_every_pod_and_publishes_early(kind: str) -> None:
    documents = load(render(replace(OPTIONS, kind=kind)))
    service, rest = documents[0], documents[1:]
    assert (service["kind"], service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("Service", "None", True)
    for document in rest:
        pod = document["spec"]["template"] if kind == "job" else document
        assert pod["spec"]["subdomain"] == service["metadata"]["name"]
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_a_job_that_contradicts_its_manifest_is_refused(tmp_path: Path) -> None:
    from entrypoints.errors import UsageError

    stranger = replace(pods("pod")[1], injected={"JOB_COMPLETION_INDEX": "2"})
    with pytest.raises(UsageError, match="RANK says 1, JOB_COMPLETION_INDEX says 2"):
        found(stranger, tmp_path)


def test_an_mpijob_with_ten_and_more_workers_counts_on(tmp_path: Path) -> None:
    group = pods("mpijob", nodes=13)
    assert [found(pod, tmp_path).node_rank for pod in group] == list(range(13))


@pytest.mark.parametrize("deaf", [False, True])
def test_a_held_pod_says_how_its_bench_ended_and_ends_when_told(deaf: bool, tmp_path: Path) -> None:
    """LeaderWorkerSet restarts what ends, so the pod holds; the code is in its log."""
    (container,) = pods("lws")[0].spec["containers"]
    epbox = tmp_path / "epbox"
    epbox.write_text("#!/bin/sh\nexit 4\n")
    epbox.chmod(0o755)
    if deaf:
        # As a TERM that comes before the new process has become sleep: the shell's own handler takes it there, and it is lost.
        sleep = tmp_path / "sleep"
        sleep.write_text(f"#!/bin/sh\ntrap '' TERM\nexec {shutil.which('sleep')} \"$@\"\n")
        sleep.chmod(0o755)
    environ = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [*container["command"], *container["args"]]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "epbox: bench ended with exit code 4, holding\n"
            assert process.poll() is None, "the pod must not end, or it would run again"
            process.terminate()
            assert process.wait(60) == 4
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

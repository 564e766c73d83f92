"""Who a pod of a rendered manifest is: its environment, as manifest, kubelet and controllers make it, through the real rendezvous.

What the controllers add is written down here, each with its source; commands run in a real shell with a stand-in for `epbox`.
"""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from entrypoints.launch.rendezvous import Rendezvous, resolve
from images.manifests import ManifestOptions, render
from tests.helpers.kubernetes_schema import load

NODES = 3
OPTIONS = ManifestOptions(image="registry.example/epbox@sha256:" + "a" * 64, nodes=NODES, name="moe", namespace="bench", master_port=9000)
INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True)
class Pod:
    """What a kubelet gets: the pod's names, its spec, and what its controller injects into every container."""

    name: str
    hostname: str
    spec: Mapping[str, Any]
    annotations: Mapping[str, str]
    injected: Mapping[str, str]


def pods(kind: str, **change: Any) -> list[Pod]:
    """All pods of a manifest in the order of the node ranks that they should have."""
    options = replace(OPTIONS, kind=kind, **change)
    return list(PODS[kind](load(render(options))[-1], load(render(options))))


def _indexed(name: str, template: Mapping[str, Any], count: int) -> Iterator[Pod]:
    """The Job controller: an index a pod as annotation and as JOB_COMPLETION_INDEX, host name NAME-INDEX (Kubernetes, "Jobs")."""
    for i in range(count):
        annotations = {**template["metadata"].get("annotations", {}), INDEX: str(i)}
        yield Pod(f"{name}-{i}-x7k2p", f"{name}-{i}", template["spec"], annotations, {"JOB_COMPLETION_INDEX": str(i)})


def _job(job: dict[str, Any], _: Any) -> Iterator[Pod]:
    assert job["spec"]["completionMode"] == "Indexed"
    return _indexed(job["metadata"]["name"], job["spec"]["template"], job["spec"]["completions"])


def _jobset(jobset: dict[str, Any], _: Any) -> Iterator[Pod]:
    """JobSet names a Job JOBSET-REPLICATEDJOB-JOBINDEX and sets the pods' subdomain (JobSet, "Concepts")."""
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    subdomain = jobset["spec"]["network"]["subdomain"]
    template = {**job["template"], "spec": {**job["template"]["spec"], "subdomain": subdomain}}
    return _indexed(f"{jobset['metadata']['name']}-{replicated['name']}-0", template, job["completions"])


def _lws(lws: dict[str, Any], _: Any) -> Iterator[Pod]:
    """The LWS webhook: leader NAME-0, workers NAME-0-1 and on, in the service NAME (LeaderWorkerSet, "Labels, annotations, variables")."""
    name, namespace = lws["metadata"]["name"], lws["metadata"]["namespace"]
    group = lws["spec"]["leaderWorkerTemplate"]
    for i in range(group["size"]):
        pod = f"{name}-0" + (f"-{i}" if i else "")
        injected = {"LWS_LEADER_ADDRESS": f"{name}-0.{name}.{namespace}", "LWS_GROUP_SIZE": str(group["size"]), "LWS_WORKER_INDEX": str(i)}
        spec = {**group["workerTemplate"]["spec"], "subdomain": name}
        yield Pod(pod, pod, spec, {}, injected)


def _mpijob(job: dict[str, Any], _: Any) -> Iterator[Pod]:
    """MPI operator v2beta1: hosts NAME-launcher and NAME-worker-i in the service NAME; with runLauncherAsWorker the hostfile begins
    with the launcher. Both get K_MPI_JOB_ROLE, the launcher also Open MPI's MCA settings, none of which tell a rank."""
    assert job["spec"]["runLauncherAsWorker"] is True
    name = job["metadata"]["name"]
    replicas = job["spec"]["mpiReplicaSpecs"]
    launcher = {**replicas["Launcher"]["template"]["spec"], "subdomain": name}
    mca = {"OMPI_MCA_orte_keep_fqdn_hostnames": "true", "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile"}
    mca |= {"OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10", "OMPI_MCA_orte_set_default_slots": str(job["spec"]["slotsPerWorker"])}
    yield Pod(f"{name}-launcher-x7k2p", f"{name}-launcher", launcher, {}, {"K_MPI_JOB_ROLE": "launcher", **mca})
    worker = {**replicas["Worker"]["template"]["spec"], "subdomain": name}
    for i in range(replicas["Worker"]["replicas"]):
        yield Pod(f"{name}-worker-{i}", f"{name}-worker-{i}", worker, {}, {"K_MPI_JOB_ROLE": "worker"})


def _pod(_: Any, documents: list[dict[str, Any]]) -> Iterator[Pod]:
    for pod in documents:
        if pod["kind"] == "Pod":
            yield Pod(pod["metadata"]["name"], pod["spec"]["hostname"], pod["spec"], {}, {})


PODS = {"job": _job, "jobset": _jobset, "lws": _lws, "mpijob": _mpijob, "pod": _pod}


def expand(text: str, environ: Mapping[str, str]) -> str:
    """$(NAME) in command and args as a kubelet does it: $$ is a dollar, an unknown name stays as it is."""

    def one(match: re.Match[str]) -> str:
        return "$" if match.group() == "$$" else environ.get(match.group(1), match.group())

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, text)


def environment(pod: Pod, container: Mapping[str, Any]) -> dict[str, str]:
    """A container's variables: the controller's, then the manifest's own in order."""
    fields = {"metadata.name": pod.name, "spec.nodeName": "gpu-node-7"}
    fields |= {f"metadata.annotations['{key}']": value for key, value in pod.annotations.items()}
    result = dict(pod.injected)
    for entry in container["env"]:
        result[entry["name"]] = fields[entry["valueFrom"]["fieldRef"]["fieldPath"]] if "valueFrom" in entry else entry["value"]
    return result


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
@pytest.mark.parametrize("kind", PODS)
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


def test_a_held_pod_says_how_its_bench_ended(tmp_path: Path) -> None:
    """LeaderWorkerSet restarts what ends, so the pod holds; the code is in its log."""
    (container,) = pods("lws")[0].spec["containers"]
    epbox = tmp_path / "epbox"
    epbox.write_text("#!/bin/sh\nexit 4\n")
    epbox.chmod(0o755)
    environ = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [*container["command"], *container["args"]]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "epbox: bench ended with exit code 4, holding\n"
            assert process.poll() is None, "the pod must not end, or it would run again"
            process.terminate()
            process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

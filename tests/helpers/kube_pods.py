"""The pods that controllers make of a manifest, with all that they add: each function names its source.

In the order of the node ranks that the pods should have.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True)
class Pod:
    """What a kubelet gets: names, labels and annotations, the spec, and variables injected into every container."""

    name: str
    hostname: str
    spec: Mapping[str, Any]
    labels: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)
    injected: Mapping[str, str] = field(default_factory=dict)


def pods_of(document: dict[str, Any]) -> list[Pod]:
    """The pods of one object; none of a Service."""
    make = _CONTROLLERS.get(document["kind"])
    return list(make(document)) if make else []


def environment(pod: Pod, container: Mapping[str, Any]) -> dict[str, str]:
    """A container's variables: the controller's, then the manifest's own in order."""
    fields = {"metadata.name": pod.name, "spec.nodeName": "gpu-node-7"}
    fields |= {f"metadata.annotations['{key}']": value for key, value in pod.annotations.items()}
    result = dict(pod.injected)
    for entry in container["env"]:
        result[entry["name"]] = fields[entry["valueFrom"]["fieldRef"]["fieldPath"]] if "valueFrom" in entry else entry["value"]
    return result


def _meta(template: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    meta = template.get("metadata") or {}
    return dict(meta.get("labels") or {}), dict(meta.get("annotations") or {})


def _indexed(name: str, template: Mapping[str, Any], count: int) -> Iterator[Pod]:
    """The Job controller: an index a pod as annotation and as JOB_COMPLETION_INDEX, host name NAME-INDEX (Kubernetes, "Jobs")."""
    labels, annotations = _meta(template)
    for i in range(count):
        injected = {"JOB_COMPLETION_INDEX": str(i)}
        yield Pod(f"{name}-{i}-x7k2p", f"{name}-{i}", template["spec"], labels, {**annotations, INDEX: str(i)}, injected)


def _job(job: dict[str, Any]) -> Iterator[Pod]:
    assert job["spec"]["completionMode"] == "Indexed"
    return _indexed(job["metadata"]["name"], job["spec"]["template"], job["spec"]["completions"])


def _jobset(jobset: dict[str, Any]) -> Iterator[Pod]:
    """JobSet names a Job JOBSET-REPLICATEDJOB-JOBINDEX and sets the pods' subdomain (JobSet, "Concepts")."""
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    template = {**job["template"], "spec": {**job["template"]["spec"], "subdomain": jobset["spec"]["network"]["subdomain"]}}
    return _indexed(f"{jobset['metadata']['name']}-{replicated['name']}-0", template, job["completions"])


def _lws(lws: dict[str, Any]) -> Iterator[Pod]:
    """The LWS webhook: leader NAME-0, workers NAME-0-1 and on, in the service NAME (LeaderWorkerSet, "Labels, annotations, variables")."""
    name, namespace = lws["metadata"]["name"], lws["metadata"]["namespace"]
    group = lws["spec"]["leaderWorkerTemplate"]
    labels, annotations = _meta(group["workerTemplate"])
    for i in range(group["size"]):
        pod = f"{name}-0" + (f"-{i}" if i else "")
        injected = {"LWS_LEADER_ADDRESS": f"{name}-0.{name}.{namespace}", "LWS_GROUP_SIZE": str(group["size"]), "LWS_WORKER_INDEX": str(i)}
        spec = {**group["workerTemplate"]["spec"], "subdomain": name}
        yield Pod(pod, pod, spec, {**labels, "leaderworkerset.sigs.k8s.io/worker-index": str(i)}, annotations, injected)


def _mpijob(job: dict[str, Any]) -> Iterator[Pod]:
    """MPI operator v2beta1: hosts NAME-launcher and NAME-worker-i in the service NAME; with runLauncherAsWorker the hostfile begins
    with the launcher. Both get K_MPI_JOB_ROLE, the launcher also Open MPI's MCA settings, none of which tell a rank."""
    assert job["spec"]["runLauncherAsWorker"] is True
    name = job["metadata"]["name"]
    replicas = job["spec"]["mpiReplicaSpecs"]
    mca = {"OMPI_MCA_orte_keep_fqdn_hostnames": "true", "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile"}
    mca |= {"OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10", "OMPI_MCA_orte_set_default_slots": str(job["spec"]["slotsPerWorker"])}
    for role, count in (("launcher", 1), ("worker", replicas["Worker"]["replicas"])):
        template = replicas[role.capitalize()]["template"]
        labels, annotations = _meta(template)
        labels |= {"training.kubeflow.org/job-role": role}
        injected = {"K_MPI_JOB_ROLE": role, **(mca if role == "launcher" else {})}
        for i in range(count):
            host = f"{name}-launcher" if role == "launcher" else f"{name}-worker-{i}"
            pod = f"{host}-x7k2p" if role == "launcher" else host
            yield Pod(pod, host, {**template["spec"], "subdomain": name}, labels, annotations, injected)


def _pod(pod: dict[str, Any]) -> Iterator[Pod]:
    yield Pod(pod["metadata"]["name"], pod["spec"]["hostname"], pod["spec"], *_meta(pod))


def _daemonset(daemons: dict[str, Any]) -> Iterator[Pod]:
    """One pod on each of two nodes, as if the cluster had two."""
    for i in range(2):
        yield Pod(
            f"{daemons['metadata']['name']}-x7k2{i}", f"x{i}", daemons["spec"]["template"]["spec"], *_meta(daemons["spec"]["template"])
        )


_CONTROLLERS: dict[str, Callable[[dict[str, Any]], Iterator[Pod]]] = {
    "Job": _job,
    "JobSet": _jobset,
    "LeaderWorkerSet": _lws,
    "MPIJob": _mpijob,
    "Pod": _pod,
    "DaemonSet": _daemonset,
}

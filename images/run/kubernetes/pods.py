"""Pods and their logs read: node rank, reasons to wait, ends, the run's exit code and results. Pure functions over the API's JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from entrypoints.errors import MEANINGS, STOPPED, ExitCode
from entrypoints.results.model import RESULT_SCHEMA
from images.run.kubernetes.api import Document

_MPI_ROLE = "training.kubeflow.org/job-role"
#: On the way up; what keeps a pod there is in its events.
_BENIGN = ("ContainerCreating", "PodInitializing")


class RunEnd(NamedTuple):
    """The end of a run: exit code, and the reason of one that is not 0."""

    exit_code: int
    reason: str


@dataclass(frozen=True)
class Pod:
    """One pod as it is now. `started`: its main container has a log. `exit_code` None: not ended, or nobody knows."""

    name: str
    rank: int | None
    host: str = ""
    container: str = ""
    started: bool = False
    ended: bool = False
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    finished: str = ""
    waiting: str = ""

    @property
    def label(self) -> str:
        """`node 3`, or the host's name where pods have no rank."""
        return (self.host or self.name) if self.rank is None else f"node {self.rank}"

    @property
    def failed(self) -> bool:
        return self.ended and self.exit_code != 0


def node_rank(pod: Mapping[str, Any]) -> int | None:
    """The node rank that the pod's program sees, from what its controller wrote on it; None for a pod without one."""
    meta = pod["metadata"]
    labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    index = notes.get("batch.kubernetes.io/job-completion-index", labels.get("leaderworkerset.sigs.k8s.io/worker-index"))
    if index is not None:
        return int(index)
    if labels.get(_MPI_ROLE) == "launcher":
        return 0
    if labels.get(_MPI_ROLE) == "worker":
        # The worker's index is in its name; the operator's replica-index label counts from 0 or 1 by version.
        return int(meta["name"].rpartition("-")[2]) + 1
    env = pod["spec"]["containers"][0].get("env") or []
    return next((int(entry["value"]) for entry in env if entry["name"] == "RANK" and entry.get("value", "").isdecimal()), None)


def view(document: Mapping[str, Any]) -> Pod:
    """A pod's document as what matters here."""
    spec, status = document["spec"], document.get("status") or {}
    main = spec["containers"][0]["name"]
    phase = status.get("phase", "Pending")
    mains = [container for container in status.get("containerStatuses") or [] if container["name"] == main]
    containers = [*(status.get("initContainerStatuses") or []), *mains]
    pod = Pod(document["metadata"]["name"], node_rank(document), spec.get("nodeName", ""), main)
    for container in containers:
        end = _end(container, main)
        if end is not None:
            ended = replace(pod, container=container["name"], started=container["name"] == main, ended=True, exit_code=end.get("exitCode"))
            message = (end.get("message") or "").strip()
            return replace(ended, reason=end.get("reason", ""), message=message, finished=end.get("finishedAt") or "")
    if phase in ("Succeeded", "Failed"):
        # Evicted, lost with its node, or past its deadline before a container could say anything.
        code = 0 if phase == "Succeeded" else None
        return replace(pod, ended=True, exit_code=code, reason=status.get("reason", ""), message=status.get("message", ""))
    if any("running" in (container.get("state") or {}) for container in mains):
        return replace(pod, started=True)
    return replace(pod, waiting=_waiting(containers, status))


def _end(container: Mapping[str, Any], main: str) -> Mapping[str, Any] | None:
    """The end of a container for good; None while it runs, waits, or (an init container) has done its part."""
    now: Mapping[str, Any] | None = (container.get("state") or {}).get("terminated")
    if now is not None and (container["name"] == main or now.get("exitCode") != 0):
        return now
    # Started again, as restartPolicy Always does: the first end was the failure.
    before: Mapping[str, Any] | None = (container.get("lastState") or {}).get("terminated")
    return before if before is not None and container.get("restartCount", 0) > 0 else None


def _waiting(containers: Iterable[Mapping[str, Any]], status: Mapping[str, Any]) -> str:
    for container in containers:
        state = (container.get("state") or {}).get("waiting") or {}
        if state.get("reason") and state["reason"] not in _BENIGN:
            return _reason(state)
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _reason(condition)
    return ""


def _reason(state: Mapping[str, Any]) -> str:
    return ": ".join(filter(None, (state.get("reason", ""), (state.get("message") or "").strip())))


def waiting(pods: Iterable[Pod]) -> dict[str, str]:
    """Reasons for which pods wait, each with the pods in words."""
    held: dict[str, list[str]] = {}
    for pod in sorted(pods, key=lambda pod: (pod.rank is None, pod.rank or 0, pod.name)):
        if pod.waiting:
            held.setdefault(pod.waiting, []).append(pod.label)
    return {reason: few(labels) for reason, labels in held.items()}


def few(names: Sequence[str]) -> str:
    """The first four, and the number of the rest."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def broken(workload: Mapping[str, Any]) -> str:
    """The reason for which a controller gave up (Failed condition of a Job, JobSet or MPIJob); empty where it did not."""
    for condition in (workload.get("status") or {}).get("conditions") or []:
        if condition["type"] in ("Failed", "FailureTarget") and condition["status"] == "True":
            return _reason(condition)
    return ""


def expected(documents: Iterable[Mapping[str, Any]]) -> int | None:
    """The number of pods that these objects will have; None for a DaemonSet, where the cluster decides."""
    total = 0
    for document in documents:
        spec = document.get("spec") or {}
        kind = document["kind"]
        if kind == "DaemonSet":
            return None
        if kind == "Pod":
            total += 1
        elif kind == "Job":
            total += spec.get("completions", 1)
        elif kind == "JobSet":
            total += sum(job.get("replicas", 1) * job["template"]["spec"].get("completions", 1) for job in spec["replicatedJobs"])
        elif kind == "LeaderWorkerSet":
            total += spec.get("replicas", 1) * spec["leaderWorkerTemplate"].get("size", 1)
        elif kind == "MPIJob":
            total += sum(replicas.get("replicas", 1) for replicas in spec["mpiReplicaSpecs"].values())
    return total


def outcome(pods: Iterable[Pod], gave_up: str = "") -> RunEnd:
    """The run's exit code and reason: that of the pod which failed first, since it knows the cause and the others only lost it.

    Codes are the program's own (docs/bench.md). Without one: 5 for a deadline, 10 for what the cluster did (eviction, lost node).
    """
    failed = sorted((pod for pod in pods if pod.failed), key=_first)
    if not failed:
        if not gave_up:
            return RunEnd(ExitCode.OK.value, "")
        return RunEnd((ExitCode.TIMEOUT if "DeadlineExceeded" in gave_up else ExitCode.ENGINE).value, gave_up)
    first = failed[0]
    words = " ".join(f"{first.reason} {first.message}".split())
    where = f"{first.label} ({first.name}{', ' + first.host if first.host and first.host != first.label else ''})"
    if (first.exit_code is None or _killed(first)) and "DeadlineExceeded" in f"{first.reason} {gave_up}":
        return RunEnd(ExitCode.TIMEOUT.value, f"{where}: ended by the cluster: {gave_up or words}")
    if first.exit_code is None:
        return RunEnd(ExitCode.ENGINE.value, f"{where}: ended without an exit code: {words or gave_up}")
    meaning = f" ({MEANINGS[first.exit_code]})" if first.exit_code in MEANINGS else ""
    return RunEnd(first.exit_code, f"{where}: {first.container} ended with {first.exit_code}{meaning}: {words}")


def _killed(pod: Pod) -> bool:
    return pod.exit_code in STOPPED and pod.reason != "OOMKilled"


def _first(pod: Pod) -> tuple[bool, bool, str, int]:
    return pod.exit_code is None, _killed(pod), pod.finished or "9", -1 if pod.rank is None else pod.rank


def result_of(lines: Iterable[str]) -> Document | None:
    """The last line that is a whole result of bench as JSON."""
    for line in reversed(list(lines)):
        if line.startswith("{") and RESULT_SCHEMA in line[:200]:
            try:
                document = json.loads(line)
            except ValueError:
                continue
            if isinstance(document, dict) and document.get("schema") == RESULT_SCHEMA:
                return document
    return None


def doctor_of(lines: Iterable[str]) -> Document | None:
    """The JSON document that `doctor --format json` printed over many lines."""
    text = list(lines)
    for start in (i for i, line in enumerate(text) if line == "{"):
        if "}" in text[start:]:
            with suppress(ValueError):
                return dict(json.loads("\n".join(text[start : text.index("}", start) + 1])))
    return None

"""What pods tell: node rank, why they wait, how they ended, and the run's exit code. Pure functions over the API's JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from entrypoints.errors import EXIT_CODES, EngineError, TimedOut

_JOB_INDEX = "batch.kubernetes.io/job-completion-index"
_LWS_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
_MPI_ROLE = "training.kubeflow.org/job-role"
#: On the way up; what keeps a pod there is in its events.
_BENIGN = ("ContainerCreating", "PodInitializing")
#: 128 + TERM or KILL: ended from outside, mostly because another pod had failed.
_KILLED = (137, 143)


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
    index = notes.get(_JOB_INDEX, labels.get(_LWS_INDEX))
    if index is not None:
        return int(index)
    if labels.get(_MPI_ROLE) == "launcher":
        return 0
    if labels.get(_MPI_ROLE) == "worker":
        # The worker's index is in its name; the operator's replica-index label counts from 0 or 1 by version.
        return int(meta["name"].rpartition("-")[2]) + 1
    env = pod["spec"]["containers"][0].get("env") or []
    return next((int(entry["value"]) for entry in env if entry["name"] == "RANK" and entry.get("value", "").isdecimal()), None)


def view(pod: Mapping[str, Any]) -> Pod:
    """A pod's document as what matters here."""
    spec, status = pod["spec"], pod.get("status") or {}
    main = spec["containers"][0]["name"]
    phase = status.get("phase", "Pending")
    own = [each for each in status.get("containerStatuses") or [] if each["name"] == main]
    inits = status.get("initContainerStatuses") or []
    name, rank, host = pod["metadata"]["name"], node_rank(pod), spec.get("nodeName", "")
    for each in [*inits, *own]:
        gone = _gone(each, main)
        if gone is not None:
            reason, message = gone.get("reason", ""), (gone.get("message") or "").strip()
            code, finished = gone.get("exitCode"), gone.get("finishedAt") or ""
            return Pod(name, rank, host, each["name"], each["name"] == main, True, code, reason, message, finished)
    if phase in ("Succeeded", "Failed"):
        # Evicted, lost with its node, or past its deadline before a container could say anything.
        code = 0 if phase == "Succeeded" else None
        return Pod(name, rank, host, main, False, True, code, status.get("reason", ""), status.get("message", ""))
    started = any("running" in (each.get("state") or {}) for each in own)
    return Pod(name, rank, host, main, started, waiting="" if started else _waiting([*inits, *own], status))


def _gone(container: Mapping[str, Any], main: str) -> Mapping[str, Any] | None:
    """How a container ended for good; None while it runs, waits, or (an init container) has done its part."""
    now: Mapping[str, Any] | None = (container.get("state") or {}).get("terminated")
    if now is not None and (container["name"] == main or now.get("exitCode") != 0):
        return now
    # Started again, as restartPolicy Always does: the first end was the failure.
    before: Mapping[str, Any] | None = (container.get("lastState") or {}).get("terminated")
    return before if before is not None and container.get("restartCount", 0) > 0 else None


def _waiting(containers: Iterable[Mapping[str, Any]], status: Mapping[str, Any]) -> str:
    for each in containers:
        why = (each.get("state") or {}).get("waiting") or {}
        if why.get("reason") and why["reason"] not in _BENIGN:
            return ": ".join(filter(None, (why["reason"], (why.get("message") or "").strip())))
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return ": ".join(filter(None, (condition.get("reason", ""), condition.get("message", ""))))
    return ""


def waiting(pods: Iterable[Pod]) -> dict[str, str]:
    """Why pods wait, and which ones in words."""
    held: dict[str, list[str]] = {}
    for pod in sorted(pods, key=lambda each: (each.rank is None, each.rank or 0, each.name)):
        if pod.waiting:
            held.setdefault(pod.waiting, []).append(pod.label)
    return {reason: _few(labels) for reason, labels in held.items()}


def _few(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:4])
    return shown if len(labels) <= 4 else f"{shown} and {len(labels) - 4} more"


def broken(workload: Mapping[str, Any]) -> str:
    """Why a controller gave up (a Job's, JobSet's or MPIJob's Failed condition, with its reason), or nothing."""
    for condition in (workload.get("status") or {}).get("conditions") or []:
        if condition["type"] in ("Failed", "FailureTarget") and condition["status"] == "True":
            return ": ".join(filter(None, (condition.get("reason", ""), condition.get("message", ""))))
    return ""


def expected(documents: Iterable[Mapping[str, Any]]) -> int | None:
    """How many pods these objects will have; None for a DaemonSet, where the cluster decides."""
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
            total += sum(each.get("replicas", 1) * each["template"]["spec"].get("completions", 1) for each in spec["replicatedJobs"])
        elif kind == "LeaderWorkerSet":
            total += spec.get("replicas", 1) * spec["leaderWorkerTemplate"].get("size", 1)
        elif kind == "MPIJob":
            total += sum(each.get("replicas", 1) for each in spec["mpiReplicaSpecs"].values())
    return total


def outcome(pods: Iterable[Pod], gave_up: str = "") -> tuple[int, str]:
    """The run's exit code and why: that of the pod which failed first, since it knows the cause and the others only lost it.

    Codes are the program's own (docs/bench.md). Without one: 5 for a deadline, 10 for what the cluster did (eviction, lost node).
    """
    failed = sorted((pod for pod in pods if pod.failed), key=_first)
    if not failed:
        if gave_up:
            return (TimedOut if "DeadlineExceeded" in gave_up else EngineError).exit_code, gave_up
        return 0, ""
    first = failed[0]
    words = " ".join(f"{first.reason} {first.message}".split())
    where = f"{first.label} ({first.name}{', ' + first.host if first.host and first.host != first.label else ''})"
    if (first.exit_code is None or _killed(first)) and "DeadlineExceeded" in f"{first.reason} {gave_up}":
        return TimedOut.exit_code, f"{where}: ended by the cluster: {gave_up or words}"
    if first.exit_code is None:
        return EngineError.exit_code, f"{where}: ended without an exit code: {words or gave_up}"
    meaning = EXIT_CODES.get(first.exit_code, "")
    return first.exit_code, f"{where}: {first.container} ended with {first.exit_code}{f' ({meaning})' if meaning else ''}: {words}"


def _killed(pod: Pod) -> bool:
    return pod.exit_code in _KILLED and pod.reason != "OOMKilled"


def _first(pod: Pod) -> tuple[bool, bool, str, int]:
    return pod.exit_code is None, _killed(pod), pod.finished or "9", -1 if pod.rank is None else pod.rank

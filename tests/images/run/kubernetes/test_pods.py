"""What pods tell, as pure functions: ranks of every kind, how and why a pod ended or waits, whose exit code counts."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tasks
from images.run.kubernetes.manifests import KINDS, ManifestOptions, render
from images.run.kubernetes.pods import Pod, broken, doctor_of, expected, node_rank, outcome, result_of, view, waiting
from images.run.kubernetes.watch import Position
from tests.helpers.kube_pods import pods_of
from tests.helpers.kubernetes_schema import load

OPTIONS = ManifestOptions(image="registry.example/epbox@sha256:" + "a" * 64, nodes=12)


def document(status: dict[str, Any], **spec: Any) -> dict[str, Any]:
    meta = {"name": "epbox-1-abcde", "annotations": {"batch.kubernetes.io/job-completion-index": "1"}}
    return {"metadata": meta, "spec": {"containers": [{"name": "bench"}], "nodeName": "gpu-7", **spec}, "status": status}


def container(name: str = "bench", restarts: int = 0, last: dict[str, Any] | None = None, **state: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "restartCount": restarts, "lastState": {"terminated": last} if last else {}}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "daemonset"])
def test_ranks_and_count_are_those_of_the_manifest(kind: str) -> None:
    documents = load(render(replace(OPTIONS, kind=kind)))
    made = [pod for each in documents for pod in pods_of(each)]
    seen = [{"metadata": {"name": p.name, "labels": p.labels, "annotations": p.annotations}, "spec": p.spec} for p in made]
    assert [node_rank(pod) for pod in seen] == list(range(12))
    assert expected(documents) == 12


def test_a_daemonsets_pods_have_no_rank_and_no_promised_count() -> None:
    documents = load(render(replace(OPTIONS, kind="daemonset")))
    (pod, _) = pods_of(documents[0])
    assert node_rank({"metadata": {"name": pod.name, "labels": pod.labels}, "spec": pod.spec}) is None
    assert expected(documents) is None


ENDED = {"exitCode": 4, "reason": "Error", "message": " a rank died \n", "finishedAt": "2026-01-01T00:00:01Z"}


@pytest.mark.parametrize(
    ("status", "want"),
    [
        ({}, {}),
        ({"phase": "Pending", "containerStatuses": [container(waiting={"reason": "ContainerCreating"})]}, {}),
        (
            {"phase": "Pending", "containerStatuses": [container(waiting={"reason": "ErrImagePull", "message": "not found"})]},
            {"waiting": "ErrImagePull: not found"},
        ),
        (
            {
                "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}],
            },
            {"waiting": "Unschedulable: no GPU"},
        ),
        ({"phase": "Running", "containerStatuses": [container(running={})]}, {"started": True}),
        (
            {"phase": "Pending", "initContainerStatuses": [container("doctor", terminated={"exitCode": 0})]},
            {},
        ),
        (
            {"phase": "Failed", "initContainerStatuses": [container("doctor", terminated={**ENDED, "exitCode": 3})]},
            {"container": "doctor", "ended": True, "exit_code": 3, "reason": "Error", "message": "a rank died"},
        ),
        (
            {"phase": "Running", "containerStatuses": [container(terminated=ENDED)]},
            {"started": True, "ended": True, "exit_code": 4, "reason": "Error", "message": "a rank died"},
        ),
        (
            # restartPolicy Always has started it again: what counts is how it ended first.
            {"phase": "Running", "containerStatuses": [container(restarts=2, last=ENDED, waiting={"reason": "CrashLoopBackOff"})]},
            {"started": True, "ended": True, "exit_code": 4, "reason": "Error", "message": "a rank died"},
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
            {"ended": True, "reason": "Evicted", "message": "The node was low on resource: memory."},
        ),
        ({"phase": "Succeeded"}, {"ended": True, "exit_code": 0}),
    ],
)
def test_a_pods_document_as_what_matters(status: dict[str, Any], want: dict[str, Any]) -> None:
    seen = view(document(status))
    assert replace(seen, finished="") == Pod("epbox-1-abcde", 1, "gpu-7", **{"container": "bench", **want})


def pod(rank: int, code: int | None, finished: str = "", **more: Any) -> Pod:
    return Pod(f"p{rank}", rank, f"h{rank}", "bench", True, True, code, finished=finished, **more)


@pytest.mark.parametrize(
    ("pods", "gave_up", "code", "words"),
    [
        ([pod(0, 0), pod(1, 0)], "", 0, ""),
        # The first to fail knows the cause.
        ([pod(0, 5, "2026-01-01T00:00:09Z"), pod(1, 4, "2026-01-01T00:00:02Z")], "", 4, "node 1 (p1, h1): bench ended with 4"),
        # Ended from outside is never the cause while another failed by itself.
        ([pod(0, 143, "2026-01-01T00:00:01Z"), pod(1, 6, "2026-01-01T00:00:02Z")], "Job x: BackoffLimitExceeded", 6, "node 1"),
        ([pod(0, None, reason="Deleted"), pod(1, 3, "2026-01-01T00:00:02Z")], "", 3, "node 1"),
        # But the kernel's out-of-memory killer is a cause.
        ([pod(0, 137, "2026-01-01T00:00:01Z", reason="OOMKilled"), pod(1, 4, "2026-01-01T00:00:02Z")], "", 137, "OOMKilled"),
        ([pod(0, None, reason="Evicted", message="low on memory")], "", 10, "ended without an exit code: Evicted low on memory"),
        ([pod(0, None, reason="DeadlineExceeded")], "", 5, "DeadlineExceeded"),
        ([pod(0, None, reason="Deleted")], "Job x: DeadlineExceeded: too long", 5, "node 0"),
        ([pod(0, 143), pod(1, 143)], "Job x: DeadlineExceeded: too long", 5, "ended by the cluster: Job x: DeadlineExceeded"),
        ([pod(0, 143), pod(1, 143)], "Job x was deleted", 143, "node 0"),
        ([], "Job x: DeadlineExceeded: too long", 5, "too long"),
        ([], "Job x was deleted", 10, "was deleted"),
        # Where clocks agree to the second the lowest rank is named, whatever the order of arrival.
        ([pod(1, 4, "2026-01-01T00:00:02Z"), pod(0, 4, "2026-01-01T00:00:02Z")], "", 4, "node 0"),
    ],
)
def test_whose_exit_code_counts(pods: list[Pod], gave_up: str, code: int, words: str) -> None:
    found, why = outcome(pods, gave_up)
    assert found == code
    assert words in why


def test_pods_that_wait_for_the_same_are_told_together() -> None:
    pods = [replace(pod(i, None), ended=False, waiting="no GPU" if i else "no image") for i in range(9, -1, -1)]
    assert waiting(pods) == {"no image": "node 0", "no GPU": "node 1, node 2, node 3, node 4 and 5 more"}


def test_why_a_controller_gave_up() -> None:
    said = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "too long"}
    assert broken({"status": {"conditions": [{"type": "Complete", "status": "True"}, said]}}) == "DeadlineExceeded: too long"
    assert broken({"status": {"conditions": [{**said, "status": "False"}]}}) == ""
    assert broken({}) == ""


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.lists(st.integers(0, 40), max_size=6))
def test_a_log_read_in_pieces_is_the_log_read_at_once(gaps: list[int], tears: list[int]) -> None:
    """Times repeat and streams begin again at whole seconds; every line is told once, in its order."""
    clock, log = 0, []
    for i, gap in enumerate(gaps):
        clock += gap
        log.append((f"2026-01-01T00:00:{clock // 3:02d}{('', '.3', '.600')[clock % 3]}Z", f"line {i}"))
    position, told = Position(), []
    for stop in [*tears, len(log)]:
        position.resume()
        whole_seconds = [(stamp, text) for stamp, text in log if stamp[:19] >= position.since[:19]]
        for stamp, text in whole_seconds[: stop + 1]:
            line = position.take(f"{stamp} {text}")
            told += [] if line is None else [line]
    position.resume()
    rest = (position.take(f"{stamp} {text}") for stamp, text in log if stamp[:19] >= position.since[:19])
    told += [line for line in rest if line is not None]
    assert told == [text for _, text in log]


def test_results_in_a_log_are_found_whole_or_not_at_all() -> None:
    good = '{"schema": "epbox.result/1", "n": 1}'
    assert result_of(["x", good, "epbox: bench ended with exit code 0, holding"]) == {"schema": "epbox.result/1", "n": 1}
    assert result_of([good, '{"schema": "epbox.result/1", "n": 2']) == {"schema": "epbox.result/1", "n": 1}
    assert result_of(["[rank 0] " + good, '{"other": 1}', ""]) is None
    assert doctor_of(["{", "broken", "}", "{", ' "failed": []', "}", "holding"]) == {"failed": []}
    assert doctor_of(["no document", "}"]) is None


@pytest.mark.parametrize("name", ["render", "run"])
def test_every_option_of_a_manifest_is_an_option_of_both_tasks_with_its_help(name: str) -> None:
    names = {"args" if each.name == "arguments" else each.name for each in fields(ManifestOptions)}
    arguments = {argument.name: argument for argument in tasks.ns.collections["k8s"].tasks[name].get_arguments()}
    assert names <= arguments.keys()
    assert all(argument.help for argument in arguments.values())

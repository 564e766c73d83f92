"""k8s.run against an API server in this process that speaks the real one's REST contract (tests/helpers/kube_server.py)."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import certifi
import pytest

from entrypoints import output
from entrypoints.errors import EngineError, UsageError
from images.run.kubernetes import api, pods
from images.run.kubernetes.manifests import KINDS, ManifestOptions, render
from images.run.kubernetes.run import documents_of, run
from images.run.kubernetes.watch import Pace, Watch
from tests.helpers import torch_python
from tests.helpers.bench_process import SMALL, document, free_port
from tests.helpers.kube_pods import Pod, environment
from tests.helpers.kube_server import KubeServer, Script, never

OPTIONS = ManifestOptions(image="registry.example/epbox@sha256:" + "a" * 64, nodes=2, workload="alltoall", namespace="bench")
PACE = Pace(grace=60, poll=0.1, watch=60, retry=0.05, last=60)
#: Where no controller ends the other pods, a run with a failed one lasts as long as its grace.
BRIEF = replace(PACE, grace=0.3)
#: Seconds that nothing here takes, on however busy a machine; the limit of a test is 300.
PATIENCE = 240
RESULT = {"schema": "epbox.result/1", "verdict": "alltoall on 2 node(s): numbers right", "exit_code": 0}
GOOD = Script(lines=("starting", json.dumps(RESULT)))
#: The pods of a Job with this name.
NODES = ("epbox-0-x7k2p", "epbox-1-x7k2p")


@pytest.fixture
def server() -> Iterator[KubeServer]:
    one = KubeServer({None: GOOD})
    yield one
    one.close()


@pytest.fixture
def go(server: KubeServer, tmp_path: Path) -> Any:
    """Run a manifest on the server; the exit code."""

    def start(keep: bool = False, timeout: float = PATIENCE, pace: Pace = PACE, **change: Any) -> int:
        cluster = api.connect(server.kubeconfig(tmp_path / "config"))
        documents = documents_of(render(replace(OPTIONS, **change)), "manifest")
        return run(documents, cluster, tmp_path / "out", timeout=timeout, keep=keep, pace=pace)

    return start


@pytest.fixture
def run_out_of_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the clock of the run pass all its bounds as soon as the run has said a line that begins so."""

    def after(words: str) -> None:
        ahead = 0.0

        def say(text: str) -> None:
            nonlocal ahead
            output.say(text)
            if text.startswith(words):
                ahead = 2 * PATIENCE

        monkeypatch.setattr("images.run.kubernetes.watch.say", say)
        monkeypatch.setattr("images.run.kubernetes.watch.time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead))

    return after


def out_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("lws", "daemonset")])
def test_each_kind_runs_to_its_end_and_leaves_results_and_a_clean_cluster(
    kind: str, server: KubeServer, go: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert go(kind=kind) == 0
    assert out_files(tmp_path / "out") == {
        *("result.json", "result.node-1.json", "node-0.log", "node-1.log", "pods.json", "manifest.yaml"),
    }
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == RESULT
    ends = json.loads((tmp_path / "out" / "pods.json").read_text())
    assert [(pod["rank"], pod["exit_code"]) for pod in ends["pods"]] == [(0, 0), (1, 0)]
    assert server.left() == []
    told = capfd.readouterr()
    assert told.out == ""
    assert "[node 0] starting" in told.err and "[node 1] starting" in told.err
    assert "epbox.result/1" not in told.err
    assert "OK: alltoall on 2 node(s): numbers right" in told.err


@pytest.mark.parametrize(("said", "code"), [(0, 0), (4, 4)])
def test_pods_that_hold_have_ended_when_they_say_so(said: int, code: int, server: KubeServer, go: Any, tmp_path: Path) -> None:
    held = f"epbox: bench ended with exit code {said}, holding"
    server.scripts = {None: Script(lines=(*GOOD.lines, held), exit_code=None)}
    assert go(kind="lws") == code
    assert server.left() == []
    assert (tmp_path / "out" / "result.json").exists()


def test_a_daemonset_gives_doctors_document_of_every_node(server: KubeServer, go: Any, tmp_path: Path) -> None:
    doctor = ("warming up", "{", '  "schema": "epbox.doctor/1",', '  "failed": []', "}", "epbox: doctor ended with exit code 0, holding")
    server.scripts = {None: Script(lines=doctor, exit_code=None)}
    assert go(kind="daemonset") == 0
    checked = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("doctor.gpu-*.json")]
    assert checked == [{"schema": "epbox.doctor/1", "failed": []}] * 2


def test_the_code_is_that_of_the_pod_that_failed_first(
    server: KubeServer, go: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its controller deletes the others; the log of those is what was followed until then."""
    failing = Script(
        lines=("boom",), exit_code=6, message="FAILED: wrong numbers", made_when=lambda kube: kube.phase(NODES[0]) == "Running"
    )
    server.scripts = {0: Script(lines=("a",) * 500, exit_code=None), 1: failing}
    assert go() == 6
    ends = json.loads((tmp_path / "out" / "pods.json").read_text())
    assert ends["why"].startswith("node 1 (epbox-1-x7k2p, gpu-epbox-1-x7k2p): bench ended with 6 (wrong numbers")
    assert "FAILED: wrong numbers" in ends["why"]
    assert (tmp_path / "out" / "node-1.log").read_text() == "boom\n"
    assert server.left() == []
    assert "[node 1] bench failed: Error, exit code 6: FAILED: wrong numbers" in capfd.readouterr().err


def test_one_failed_plain_pod_ends_the_run_after_the_grace(server: KubeServer, go: Any) -> None:
    server.scripts = {1: Script(exit_code=4), 0: Script(exit_code=None)}
    started = time.monotonic()
    assert go(kind="pod", pace=BRIEF) == 4
    assert BRIEF.grace <= time.monotonic() - started < PATIENCE
    assert server.left() == []


def test_the_gate_that_fails_is_exit_3_with_doctors_words(server: KubeServer, go: Any, tmp_path: Path) -> None:
    server.scripts = {0: Script(doctor_exit=3), 1: Script(exit_code=None)}
    assert go(kind="pod", pace=BRIEF) == 3
    assert (tmp_path / "out" / "node-0.log").read_text() == "FAIL  nic.present  no HCA is there\n"
    assert "doctor ended with 3 (preflight failed" in json.loads((tmp_path / "out" / "pods.json").read_text())["why"]


@pytest.mark.parametrize("fault", [Script(tear_at=20), Script(log_stops=20)], ids=["tear_at", "log_stops"])
def test_a_torn_log_goes_on_where_it_was_and_tells_nothing_twice(fault: Script, server: KubeServer, go: Any, tmp_path: Path) -> None:
    lines = tuple(f"line {i}" for i in range(60))
    broken = replace(fault, lines=(*lines, json.dumps(RESULT)), line_every=0.002, ends_when=lambda kube: bool(kube.broken_logs))
    server.scripts = {None: GOOD, 0: broken}
    assert go(kind="pod") == 0
    assert server.broken_logs == {"epbox-0"}
    assert (tmp_path / "out" / "node-0.log").read_text().splitlines()[:-1] == list(lines)


@pytest.mark.parametrize("fault", ["gone_watches", "torn_watches"])
def test_a_watch_that_is_gone_or_torn_loses_no_pod(fault: str, server: KubeServer, go: Any) -> None:
    """Each pod is made during a watch, so that its first event comes with the fault."""
    setattr(server, fault, 2)
    server.scripts = {
        0: replace(GOOD, made_when=lambda kube: kube.watches >= 1),
        1: replace(GOOD, made_when=lambda kube: kube.watches >= 2),
    }
    assert go() == 0
    assert getattr(server, fault) == 0, "both faults were met"
    lists = sum("watch=" not in path and "/pods?" in path for _, path in server.requests)
    assert lists == (3 if fault == "gone_watches" else 1), "410 asks for a new list; a torn stream does not"


def test_a_pod_that_comes_late_is_waited_for(server: KubeServer, go: Any, tmp_path: Path) -> None:
    server.scripts = {None: GOOD, 1: replace(GOOD, made_when=lambda kube: kube.phase(NODES[0]) == "Succeeded", late=0.5)}
    assert go() == 0
    assert (tmp_path / "out" / "result.node-1.json").exists()


@pytest.mark.parametrize(
    "reason",
    ["Unschedulable: 0/4 nodes are available: 4 Insufficient nvidia.com/gpu.", 'ImagePullBackOff: Back-off pulling image "epbox"'],
)
def test_a_pod_that_waits_says_why_and_the_timeout_is_exit_5(
    reason: str, server: KubeServer, go: Any, run_out_of_time: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.scripts = {None: Script(waits=reason)}
    server.lists_when = lambda kube: all(kube.phase(name) == "Pending" for name in NODES)
    run_out_of_time("k8s.run: waits: ")
    assert go() == 5
    told = capfd.readouterr().err
    assert told.count(f"k8s.run: waits: node 0, node 1: {reason}") + told.count(f"k8s.run: waits: node 1, node 0: {reason}") == 1
    assert reason in json.loads((tmp_path / "out" / "pods.json").read_text())["why"]
    assert server.left() == []


def test_a_pod_that_gets_its_gpus_later_runs(server: KubeServer, go: Any) -> None:
    server.scripts = {None: replace(GOOD, waits="Unschedulable: no GPU yet", waits_for=0.2)}
    assert go(kind="mpijob") == 0


def test_pods_that_never_come_are_explained_by_events_of_this_run_alone(
    server: KubeServer, go: Any, run_out_of_time: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    about = {"kind": "Job", "name": "epbox"}
    words = 'pods "epbox-0-" is forbidden: exceeded quota: gpus'
    later, before = "2999-01-01T00:00:00Z", "2020-01-01T00:00:00Z"
    server.events = [
        {"involvedObject": about, "type": "Warning", "reason": "FailedCreate", "message": words, "lastTimestamp": later},
        {"involvedObject": about, "type": "Warning", "reason": "FailedCreate", "message": "old", "lastTimestamp": before},
        {"involvedObject": {"kind": "Job", "name": "other"}, "type": "Warning", "reason": "X", "message": "theirs", "lastTimestamp": later},
    ]
    server.scripts = {None: Script(made_when=never)}
    run_out_of_time("k8s.run: Job epbox: FailedCreate")
    assert go() == 5
    told = capfd.readouterr().err
    assert f"k8s.run: Job epbox: FailedCreate: {words}" in told
    assert "old" not in told and "theirs" not in told


def test_more_pods_than_logs_followed_at_once_lose_no_line(server: KubeServer, go: Any, tmp_path: Path) -> None:
    assert go(nodes=150) == 0
    assert len(list((tmp_path / "out").glob("node-*.log"))) == 150
    assert len(list((tmp_path / "out").glob("result*.json"))) == 150


def test_a_daemonset_that_fits_no_node_is_no_success(server: KubeServer, go: Any, tmp_path: Path) -> None:
    server.gpu_nodes = 0
    assert go(kind="daemonset") == 10
    assert "no node of the cluster fits" in json.loads((tmp_path / "out" / "pods.json").read_text())["why"]


def test_an_object_whose_making_was_not_answered_is_deleted_too(server: KubeServer, go: Any) -> None:
    server.lost_answers = {"jobs"}
    with pytest.raises(EngineError, match="does not answer"):
        go()
    assert server.left() == []
    assert ("DELETE", "/apis/batch/v1/namespaces/bench/jobs/epbox") in server.requests


def test_an_earlier_result_is_not_mixed_with_a_new_one(server: KubeServer, go: Any, tmp_path: Path) -> None:
    assert go() == 0
    with pytest.raises(UsageError, match="holds an earlier result"):
        go()
    assert server.left() == []


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_applied(server: KubeServer, go: Any, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        go()
    assert not [path for method, path in server.requests if method == "POST"]


def test_a_secret_of_the_file_stays_out_of_the_folder(server: KubeServer, tmp_path: Path) -> None:
    cluster = api.connect(server.kubeconfig(tmp_path / "config"))
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pull"}, "stringData": {"token": "hush"}}
    assert run([secret, *documents_of(render(OPTIONS), "m")], cluster, tmp_path / "out", timeout=PATIENCE, pace=PACE) == 0
    assert not any("hush" in path.read_text() for path in (tmp_path / "out").iterdir())
    assert server.left() == []


def test_keep_leaves_the_objects_and_says_how_to_delete_them(server: KubeServer, go: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert go(keep=True) == 0
    assert server.left() == ["jobs/epbox", "pods/epbox-0-x7k2p", "pods/epbox-1-x7k2p", "services/epbox"]
    assert "kubectl delete service,job -n bench -l epbox.run=" in capfd.readouterr().err


def test_an_object_of_the_same_name_is_left_alone(server: KubeServer, go: Any, tmp_path: Path) -> None:
    assert go(keep=True) == 0
    (tmp_path / "out").rename(tmp_path / "earlier")
    with pytest.raises(EngineError, match="Service epbox exists already") as caught:
        go()
    assert caught.value.exit_code == 10
    assert "jobs/epbox" in server.left()


def test_what_was_made_before_a_refusal_is_deleted(server: KubeServer, go: Any, tmp_path: Path) -> None:
    words = 'jobs.batch is forbidden: User "me" cannot create resource "jobs" in API group "batch" in the namespace "bench"'
    server.deny["create", "jobs"] = (403, words)
    with pytest.raises(EngineError, match=r"not allowed to create Job epbox: jobs\.batch is forbidden"):
        go()
    assert server.left() == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["list pods", "watch pods", "get pods/log"])
def test_a_right_that_lacks_later_ends_the_run_and_cleans_up(what: str, server: KubeServer, go: Any) -> None:
    server.scripts = {None: replace(GOOD, exit_code=None)}
    verb, resource = what.split()
    server.deny[verb, resource] = (403, f"pods is forbidden: cannot {verb}")
    with pytest.raises(EngineError, match=f"not allowed to {what}"):
        go()
    assert server.left() == []


def test_a_log_that_may_not_be_read_is_no_success_however_short_the_run(
    server: KubeServer, go: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal comes when all pods have ended and the run has stopped looking."""
    server.deny["get", "pods/log"] = (403, "pods/log is forbidden: cannot get")

    read_log = Watch._read_log

    def late(watch: Watch, pod: pods.Pod) -> None:
        watch._over[pod.name].wait(PATIENCE)
        time.sleep(0.3)
        read_log(watch, pod)

    monkeypatch.setattr(Watch, "_read_log", late)
    with pytest.raises(EngineError, match="not allowed to get pods/log"):
        go(kind="pod")
    assert server.left() == []


def test_what_cannot_be_deleted_is_said_and_the_code_stays(server: KubeServer, go: Any, capfd: pytest.CaptureFixture[str]) -> None:
    server.deny["delete", "jobs"] = (403, "cannot delete")
    assert go() == 0
    told = capfd.readouterr().err
    assert "k8s.run: not deleted: Job epbox: not allowed to delete Job epbox: cannot delete; kubectl delete service,job" in told
    assert "services/epbox" not in server.left()


def test_a_kind_that_the_cluster_lacks_is_named(server: KubeServer, go: Any) -> None:
    server.lacks = {"jobset.x-k8s.io/v1alpha2"}
    with pytest.raises(EngineError, match=r"the cluster has no JobSet \(jobset.x-k8s.io/v1alpha2\); install its operator"):
        go(kind="jobset")


def test_an_invalid_object_is_refused_by_the_server(server: KubeServer, tmp_path: Path) -> None:
    cluster = api.connect(server.kubeconfig(tmp_path / "config"))
    documents = documents_of(render(OPTIONS), "manifest")
    documents[1]["spec"]["completions"] = "three"
    with pytest.raises(EngineError, match="the cluster does not take Job epbox: Job is invalid"):
        run(documents, cluster, tmp_path / "out", timeout=5, pace=PACE)
    assert server.left() == []


def test_a_namespace_that_is_not_there(server: KubeServer, tmp_path: Path) -> None:
    cluster = api.connect(server.kubeconfig(tmp_path / "config"), namespace="elsewhere")
    documents = documents_of(render(replace(OPTIONS, namespace="elsewhere")), "manifest")
    with pytest.raises(EngineError, match='cannot create Service epbox: namespaces "elsewhere" not found'):
        run(documents, cluster, tmp_path / "out", timeout=5, pace=PACE)
    with pytest.raises(UsageError, match="the objects are for bench, not elsewhere"):
        run(documents_of(render(OPTIONS), "manifest"), cluster, tmp_path / "out", timeout=5, pace=PACE)


def test_connections_that_cannot_be_made_are_one_line(tmp_path: Path, server: KubeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    good = server.kubeconfig(tmp_path / "config")
    dead = tmp_path / "dead"
    dead.write_text(good.read_text().replace(server.url, "http://127.0.0.1:9"))
    stranger = tmp_path / "stranger"
    stranger.write_text(good.read_text().replace("secret-of-the-test", "wrong"))
    broken = tmp_path / "broken"
    broken.write_text("clusters: [")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    calls: dict[str, Callable[[], object]] = {
        "the API server does not answer: .*refused": lambda: api.connect(dead).pods("a=b"),
        "does not know you: Unauthorized": lambda: api.connect(stranger).pods("a=b"),
        "broken: cannot be used": lambda: api.connect(broken),
        "cannot be used: .*nowhere": lambda: api.connect(good, "nowhere"),
        "no kubeconfig: .*set KUBECONFIG": api.connect,
    }
    for reason, call in calls.items():
        with pytest.raises(EngineError, match=reason) as caught:
            call()
        assert caught.value.exit_code == 10
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="absent: no such file; give the file that kubectl uses"):
        api.connect(tmp_path / "absent")


def test_a_pod_reaches_its_own_cluster_with_its_own_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kubernetes.config import incluster_config

    for name, text in {"token": "t0ken", "ca.crt": "x", "namespace": "ci\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", certifi.where())
    monkeypatch.setattr(api, "_OWN_NAMESPACE", tmp_path / "namespace")
    cluster = api.connect()
    assert (cluster.namespace, cluster.where) == ("ci", "cluster in-cluster (https://10.0.0.1:443)")
    assert api.connect(namespace="other").namespace == "other"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "not YAML"),
        ("kind: Job", "lacks apiVersion, kind or metadata.name"),
        ("just words", "lacks apiVersion, kind or metadata.name"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a}", "nothing in it makes a pod"),
        ("", "nothing in it makes a pod"),
    ],
)
def test_a_file_that_cannot_be_run_is_a_usage_error(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        documents_of(text, "x.yaml")


@pytest.mark.torch
def test_real_benches_in_two_pods_meet_and_their_result_is_collected(server: KubeServer, go: Any, tmp_path: Path) -> None:
    """The pods' programs are real ones, with the manifest's arguments and environment; only the master's name is put in for DNS."""
    python = torch_python.environment()

    def start(document: dict[str, Any]) -> "subprocess.Popen[str]":
        meta, container = document["metadata"], document["spec"]["containers"][0]
        pod = Pod(meta["name"], meta["name"], document["spec"], meta["labels"], meta["annotations"])
        own = {**environment(pod, container), "MASTER_ADDR": "127.0.0.1"}
        words = [str(tmp_path / f"results-{own['RANK']}") if word == "/results" else word for word in container["args"]]
        command = [sys.executable, "-m", "entrypoints", *words]
        return subprocess.Popen(command, env={**python, **own}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    server.scripts = {None: Script(program=start, line_every=0)}
    assert go(master_port=free_port(), arguments=("--ranks", "1", *SMALL)) == 0
    result = document(tmp_path / "out" / "result.json")
    assert [node["node_rank"] for node in result["nodes"]] == [0, 1]
    assert result == document(tmp_path / "results-0" / "result.json")
    assert (tmp_path / "index.jsonl").read_text().count("\n") >= 1


def inv(folder: Path, *words: str) -> "subprocess.Popen[str]":
    root = str(Path.cwd())
    command = [sys.executable, "-m", "images.program", "--search-root", root, "k8s.run", "--kubeconfig", str(folder / "config"), *words]
    environ = {**os.environ, "PYTHONPATH": root}
    return subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


SHAPE = ("--image", OPTIONS.image, "--workload", "alltoall", "--out", "res")


def test_the_task_exits_with_the_jobs_code(server: KubeServer, tmp_path: Path) -> None:
    server.kubeconfig(tmp_path / "config")
    server.scripts = {None: Script(exit_code=7, message="below the gate"), 1: GOOD}
    process = inv(tmp_path, *SHAPE)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 7, told
    assert "Traceback" not in told
    assert "k8s.run: FAILED with exit code 7: node 0" in told
    assert server.left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_deletes_what_was_made_and_is_exit_130(number: int, server: KubeServer, tmp_path: Path) -> None:
    server.kubeconfig(tmp_path / "config")
    server.scripts = {None: Script(lines=("working",), exit_code=None)}
    process = inv(tmp_path, *SHAPE)
    assert process.stderr is not None
    told = ""
    while not ("[node 0] working" in told and "[node 1] working" in told):
        line = process.stderr.readline()
        assert line, told
        told += line
    process.send_signal(number)
    _, rest = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, told + rest
    assert "Traceback" not in told + rest
    assert server.left() == []
    assert (tmp_path / "res" / "node-0.log").read_text().startswith("working")
    assert json.loads((tmp_path / "res" / "pods.json").read_text())["why"] == "interrupted"


def test_bad_options_of_the_task_are_exit_2(server: KubeServer, tmp_path: Path) -> None:
    server.kubeconfig(tmp_path / "config")
    reasons: dict[tuple[str, ...], str] = {
        (): "k8s.run: --image: no image",
        ("--image", OPTIONS.image, "--timeout", "soon"): "inv: --timeout: 'soon' is not a whole number",
        ("--file", "absent.yaml"): f"k8s.run: {tmp_path}/absent.yaml: cannot be read: No such file",
    }
    processes = [inv(tmp_path, *words) for words in reasons]
    for process, reason in zip(processes, reasons.values(), strict=True):
        _, told = process.communicate(timeout=PATIENCE)
        assert (process.returncode, told.strip().splitlines()[-1].startswith(reason)) == (2, True), told
    assert not [path for method, path in server.requests if method == "POST"]

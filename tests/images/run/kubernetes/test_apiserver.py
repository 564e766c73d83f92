"""k8s.run against a real kube-apiserver with etcd; a stand-in plays the kubelet.

Collected only where KUBEBUILDER_ASSETS names the folder of the two binaries, as for controllers' tests. controller-runtime's `setup-envtest
use -p path` downloads both and prints the folder:

    KUBEBUILDER_ASSETS=$(setup-envtest use -p path) ./inv test --args tests/images/run/kubernetes/test_apiserver.py
"""

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entrypoints.errors import EngineError
from images.run.kubernetes import api
from images.run.kubernetes.manifests import ManifestOptions, render
from images.run.kubernetes.run import documents_of, run
from images.run.kubernetes.watch import Pace
from tests.helpers.kube_server import Script
from tests.helpers.kubernetes_schema import load
from tests.helpers.real_apiserver import RealCluster

pytestmark = pytest.mark.slow
OPTIONS = ManifestOptions(image="registry.example/epbox@sha256:" + "a" * 64, kind="pod", workload="alltoall")
RESULT = {"schema": "epbox.result/1", "verdict": "numbers right"}
GOOD = Script(lines=(*(f"line {i}" for i in range(30)), json.dumps(RESULT)), line_every=0.03)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    one = RealCluster(tmp_path_factory.mktemp("apiserver"))
    yield one
    one.close()


@pytest.fixture
def go(cluster: RealCluster, tmp_path: Path) -> Any:
    runs = itertools.count()

    def start(token: str = "admin", timeout: float = 60, **change: Any) -> int:
        session = api.connect(cluster.kubeconfig(tmp_path / "config", token))
        documents = documents_of(render(replace(OPTIONS, **change)), "manifest")
        out = tmp_path / f"out{next(runs)}"
        return run(documents, session, out, timeout=timeout, pace=Pace(grace=2, poll=0.3, watch=2, retry=0.2))

    return start


def test_pods_run_to_their_end_and_are_deleted(cluster: RealCluster, go: Any, tmp_path: Path) -> None:
    cluster.scripts = {0: GOOD, 1: GOOD}
    assert go() == 0
    assert json.loads((tmp_path / "out0" / "result.json").read_text()) == RESULT
    assert (tmp_path / "out0" / "node-1.log").read_text().splitlines() == list(GOOD.lines)
    assert cluster.left() == []


def test_the_first_failure_is_the_exit_code_and_running_pods_are_ended(cluster: RealCluster, go: Any) -> None:
    cluster.scripts = {0: Script(exit_code=None), 1: Script(lines=("boom",), exit_code=6, message="wrong numbers")}
    assert go() == 6
    until_gone(cluster)


def until_gone(cluster: RealCluster) -> None:
    """A deleted pod that ran stays until its kubelet has ended it."""
    until = time.monotonic() + 30
    while cluster.left() and time.monotonic() < until:
        time.sleep(0.2)
    assert cluster.left() == []


def test_a_job_is_made_and_deleted(cluster: RealCluster, go: Any) -> None:
    """No controller runs here, so no pod comes."""
    assert go(kind="job", timeout=2) == 5
    assert cluster.left() == []


def test_refusals_are_the_servers_own_words(cluster: RealCluster, go: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r'not allowed to discover|services is forbidden: User "poor" cannot create resource "services"'):
        go(token="poor")
    with pytest.raises(EngineError, match="does not know you"):
        go(token="nobody")
    with pytest.raises(EngineError, match=r"the cluster has no JobSet \(jobset.x-k8s.io/v1alpha2\)"):
        go(kind="jobset")
    session = api.connect(cluster.kubeconfig(tmp_path / "config"))
    documents = documents_of(render(OPTIONS), "manifest")
    documents[1]["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "many"
    with pytest.raises(EngineError, match=r"cannot create Pod epbox-0: HTTP 400|does not take Pod epbox-0"):
        run(documents, session, tmp_path / "out", timeout=5)
    documents = documents_of(render(replace(OPTIONS, kind="job")), "manifest")
    documents[1]["spec"]["parallelism"] = -1
    with pytest.raises(EngineError, match=r"does not take Job epbox: .*must be greater than or equal to 0"):
        run(documents, session, tmp_path / "out", timeout=5)
    held = session.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "held"}})
    with pytest.raises(EngineError, match='ConfigMap held exists already: configmaps "held" already exists'):
        session.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "held"}})
    stranger = {**held, "metadata": {**held["metadata"], "uid": "00000000-0000-0000-0000-000000000000"}}
    session.delete(stranger)
    assert session.get(held)["metadata"]["uid"] == held["metadata"]["uid"], "only the very object is deleted"
    session.delete(held)
    session.delete(held)
    assert cluster.left() == []


def test_the_shipped_role_is_enough_and_events_are_not_needed(cluster: RealCluster, go: Any, capfd: pytest.CaptureFixture[str]) -> None:
    (role,) = load(Path("templates/kubernetes/runner-role.yaml").read_text())
    rights = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    cluster.request("POST", f"{rights}/roles", role)
    binding = {"apiVersion": role["apiVersion"], "kind": "RoleBinding", "metadata": {"name": "limited"}}
    binding |= {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role["metadata"]["name"]}}
    binding |= {"subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "limited"}]}
    cluster.request("POST", f"{rights}/rolebindings", binding)
    cluster.scripts = {0: GOOD, 1: GOOD}
    assert go(token="limited") == 0
    assert go(token="limited", kind="job", timeout=2) == 5
    assert "not allowed" not in capfd.readouterr().err
    rules = [rule for rule in role["rules"] if "events" not in rule["resources"]]
    cluster.request("PATCH", f"{rights}/roles/{role['metadata']['name']}", {"rules": rules}, "application/merge-patch+json")
    assert go(token="limited", kind="job", timeout=2) == 5
    assert "k8s.run: no events: not allowed to list events" in capfd.readouterr().err
    assert cluster.left() == []


def test_a_watch_from_too_long_ago_is_410(cluster: RealCluster, tmp_path: Path) -> None:
    session = api.connect(cluster.kubeconfig(tmp_path / "config"))
    version = session.pods("a=b")["metadata"]["resourceVersion"]
    made = session.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}})
    session.delete(made)
    cluster.compact(int(session.pods("a=b")["metadata"]["resourceVersion"]))
    assert list(session.watch_pods("a=b", session.pods("a=b")["metadata"]["resourceVersion"], 1)) == []
    with pytest.raises(api.ApiError) as caught:
        list(session.watch_pods("a=b", "1", 2))
    assert caught.value.status == 410
    assert int(version) > 1


@pytest.mark.parametrize("path", sorted(Path("tests/golden/kubernetes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_server_takes_every_golden_manifest_of_its_own_kinds(path: Path, cluster: RealCluster, tmp_path: Path) -> None:
    """What schemas cannot say: names, selectors, resources and rights that the server checks itself (a dry run makes nothing)."""
    session = api.connect(cluster.kubeconfig(tmp_path / "config"))
    for document in documents_of(path.read_text(), path.name):
        if "." not in document["apiVersion"].partition("/")[0]:
            cluster.request("POST", f"{session.path(document)}?dryRun=All", document)
    assert cluster.left() == []

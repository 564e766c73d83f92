"""k8s.render: each kind against its schema, the bad parameters, and what a pod's rendezvous makes of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from entrypoints.errors import UsageError
from entrypoints.launch.rendezvous import resolve
from images.manifests import KINDS, ManifestOptions, render

IMAGE = "registry.example/epbox@sha256:" + "a" * 64
OPTIONS = ManifestOptions(image=IMAGE, nodes=3)
CRDS = Path(__file__).resolve().parents[3] / "shared" / "crds"
CRD_OF = {"jobset": "jobset.yaml", "lws": "leaderworkerset.yaml", "mpijob": "mpijob.yaml"}
CORE = [kind for kind in KINDS if kind not in CRD_OF]


def documents(options: ManifestOptions) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(render(options)))


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused wherever it names its properties."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
    return result


def crd_schema(kind: str, version: str) -> dict[str, Any]:
    path = CRDS / CRD_OF[kind]
    if not path.exists():
        pytest.skip(f"the CRD {path.name} is not beside this checkout")
    for document in yaml.safe_load_all(path.read_text()):
        if document and document.get("kind") == "CustomResourceDefinition":
            for entry in document["spec"]["versions"]:
                if entry["name"] == version:
                    schema = closed(entry["schema"]["openAPIV3Schema"])
                    # The CRD leaves ObjectMeta to the API server.
                    schema["properties"]["metadata"] = {"type": "object"}
                    return schema
    raise AssertionError(f"{path.name} has no version {version}")


@pytest.mark.parametrize("version", ["1.35", "1.36", "1.37"])
@pytest.mark.parametrize("platform", ["generic", "gke"])
@pytest.mark.parametrize("kind", CORE)
def test_core_kinds_pass_strict_validation(kind: str, platform: str, version: str) -> None:
    for document in documents(replace(OPTIONS, kind=kind, platform=platform)):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("change", [{}, {"privileged_rdma": True}, {"gate": False}, {"seccomp": "localhost"}, {"pvc": "results"}])
@pytest.mark.parametrize("kind", sorted(CRD_OF))
def test_operator_kinds_pass_their_crd(kind: str, change: dict[str, Any]) -> None:
    (document,) = documents(replace(OPTIONS, kind=kind, **change))
    schema = crd_schema(kind, document["apiVersion"].rpartition("/")[2])
    jsonschema.Draft202012Validator(schema).validate(document)


@pytest.mark.parametrize("kind", sorted(CRD_OF))
def test_the_crd_check_refuses_an_unknown_field(kind: str) -> None:
    (document,) = documents(replace(OPTIONS, kind=kind))
    schema = crd_schema(kind, document["apiVersion"].rpartition("/")[2])
    document["spec"]["nodez"] = 3
    with pytest.raises(jsonschema.ValidationError, match="nodez"):
        jsonschema.Draft202012Validator(schema).validate(document)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"nodes": 0}, "0 nodes"),
        ({"kind": "mpijob", "nodes": 1}, "1 nodes"),
        ({"image": "registry.example/epbox:latest"}, "no digest"),
        ({"image": ""}, "no image"),
        ({"platform": "nowhere"}, "unknown platform"),
        ({"platform": "aws-refused", "workload": "deepep-internode"}, "EFA"),
        ({"platform": "aws", "workload": "deepep-low-latency"}, "EFA"),
        ({"name": "n" * 60}, "DNS allows 63"),
        ({"name": "Upper"}, "no DNS label"),
        ({"memory": "lots"}, "no quantity"),
        ({"rdma_resource": "rdma/ib"}, "NAME=COUNT"),
        ({"rdma_resource": "rdma/ib=0"}, "NAME=COUNT"),
        ({"kind": "cronjob"}, "unknown kind"),
        ({"seccomp": "none"}, "unknown seccomp"),
    ],
)
def test_a_bad_parameter_is_a_usage_error_with_its_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        render(replace(OPTIONS, **change))
    assert caught.value.exit_code == 2


def test_a_tag_is_taken_when_asked_for() -> None:
    assert "epbox:latest" in render(replace(OPTIONS, image="registry.example/epbox:latest", allow_tag=True))


def plain_env(pod: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"] if "value" in entry}


def test_every_pod_finds_its_node_rank_and_the_same_master() -> None:
    found = [resolve(None, plain_env(d["spec"])) for d in documents(replace(OPTIONS, kind="pod")) if d["kind"] == "Pod"]
    assert [(r.node_rank, r.nodes, r.master_addr) for r in found] == [(i, 3, "epbox-0.epbox") for i in range(3)]


@pytest.mark.parametrize(("kind", "master"), [("job", "epbox-0.epbox"), ("jobset", "epbox-nodes-0-0.epbox")])
def test_an_indexed_job_gives_rank_by_its_completion_index(kind: str, master: str) -> None:
    spec = documents(replace(OPTIONS, kind=kind))[-1]["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"] if kind == "jobset" else spec
    # The Job controller sets JOB_COMPLETION_INDEX in every container of an Indexed Job.
    env = {**plain_env(job["template"]["spec"]), "RANK": "2", "JOB_COMPLETION_INDEX": "2"}
    found = resolve(None, env)
    assert (found.node_rank, found.nodes, found.master_addr) == (2, 3, master)

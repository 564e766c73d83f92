"""k8s.render: each kind against its schema, whole manifests (EPBOX_UPDATE_GOLDEN=1 renews them), and the bad parameters."""

import time
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from entrypoints.errors import UsageError
from images.run.kubernetes.manifests import KINDS, ManifestOptions, notes, platforms, render
from tests.helpers.golden import expected
from tests.helpers.kubernetes_schema import OPERATORS, load, validate

OPTIONS = ManifestOptions(image="registry.example/epbox@sha256:" + "a" * 64, nodes=3)
GOLDEN = Path("tests/golden/kubernetes")
RACK = "topology.kubernetes.io/zone"
#: Whole manifests: each kind, each platform, and what changes a pod's rights or volumes.
CASES: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind} for kind in KINDS},
    **{f"job-{name}": {"platform": name, "workload": "alltoall"} for name in platforms() if name != "generic"},
    "job-privileged-rdma": {"privileged_rdma": True},
    "job-localhost-seccomp": {"seccomp": "localhost"},
    "job-pvc": {"pvc": "results", "hugepages": "2Gi", "gate": False},
    "job-near": {"topology_key": RACK},
    "jobset-exclusive": {"kind": "jobset", "exclusive_topology": RACK},
    "lws-exclusive": {"kind": "lws", "exclusive_topology": RACK},
    "daemonset-gke-privileged": {"kind": "daemonset", "platform": "gke", "privileged_rdma": True},
}


def documents(**change: Any) -> list[dict[str, Any]]:
    return load(render(replace(OPTIONS, **change)))


def pod_specs(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod spec anywhere below, of any kind."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for child in value.values():
            yield from pod_specs(child)
    elif isinstance(value, list):
        for child in value:
            yield from pod_specs(child)


@pytest.mark.parametrize("case", CASES)
def test_a_whole_manifest_is_the_golden_one_and_valid(case: str) -> None:
    text = render(replace(OPTIONS, **CASES[case]))
    assert text == expected(GOLDEN / f"{case}.yaml", text)
    for document in load(text):
        validate(document)


def test_every_golden_manifest_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(CASES)


@pytest.mark.parametrize("change", [{}, {"privileged_rdma": True}, {"gate": False}, {"seccomp": "localhost"}, {"pvc": "results"}])
@pytest.mark.parametrize("platform", ["generic", "gke", "oci"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_valid_on_platforms_with_labels_annotations_and_host_network(
    kind: str, platform: str, change: dict[str, Any]
) -> None:
    for document in documents(kind=kind, platform=platform, **change):
        validate(document)


@pytest.mark.parametrize("kind", KINDS)
def test_the_schemas_refuse_an_unknown_field(kind: str) -> None:
    document = documents(kind=kind)[-1]
    document["spec"]["nodez"] = 3
    with pytest.raises(jsonschema.ValidationError, match="nodez"):
        validate(document)


@pytest.mark.parametrize("kind", KINDS)
def test_pods_hold_no_more_rights_than_they_need(kind: str) -> None:
    specs = list(pod_specs(documents(kind=kind)))
    assert len(specs) == {"pod": 3, "mpijob": 2}.get(kind, 1)
    for spec in specs:
        assert spec["automountServiceAccountToken"] is False
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            rights = container["securityContext"]
            assert rights["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK", "SYS_NICE"]}
            assert (rights["privileged"], rights["allowPrivilegeEscalation"], rights["readOnlyRootFilesystem"]) == (False, False, True)
            limits = container["resources"]["limits"]
            assert limits == container["resources"]["requests"]
            assert limits == {"cpu": 96, "memory": "512Gi", "nvidia.com/gpu": 8, "rdma/ib": 8}


def test_the_shipped_seccomp_profile_makes_sys_nice_needless() -> None:
    (spec,) = pod_specs(documents(seccomp="localhost"))
    rights = spec["containers"][0]["securityContext"]
    assert rights["capabilities"]["add"] == ["IPC_LOCK"]
    assert rights["seccompProfile"] == {"type": "Localhost", "localhostProfile": "profiles/epbox.json"}


def test_a_pod_without_gpus_and_hcas_may_not_lock_memory() -> None:
    (spec,) = pod_specs(documents(gpus=0, rdma_resource="none", workload="alltoall"))
    assert spec["containers"][0]["securityContext"]["capabilities"]["add"] == ["SYS_NICE"]
    (spec,) = pod_specs(documents(gpus=0, workload="alltoall"))
    assert spec["containers"][0]["securityContext"]["capabilities"]["add"] == ["IPC_LOCK", "SYS_NICE"], "it asks for HCAs"


@pytest.mark.parametrize("kind", KINDS)
def test_the_program_in_the_image_takes_the_arguments(kind: str) -> None:
    containers = [c for spec in pod_specs(documents(kind=kind)) for c in [*spec["containers"], *spec.get("initContainers", [])]]
    assert {container["args"][0] for container in containers} == ({"doctor"} if kind == "daemonset" else {"bench", "doctor"})
    for container in containers:
        verb, *arguments = container["args"]
        parser = ArgumentParser(exit_on_error=False)
        import_module(f"entrypoints.verbs.{verb}").configure(parser)
        parsed = parser.parse_args(arguments)
        assert parsed.workload == "auto"


def test_the_pods_of_one_job_are_preferred_near_each_other_and_never_on_one_host() -> None:
    (spec,) = pod_specs(documents(topology_key=RACK))
    apart = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    near = spec["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [term["topologyKey"] for term in apart] == ["kubernetes.io/hostname"]
    assert [term["podAffinityTerm"]["topologyKey"] for term in near] == [RACK]


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_nodes_render_in_a_moment(kind: str) -> None:
    started = time.process_time()
    text = render(replace(OPTIONS, kind=kind, nodes=1000))
    assert time.process_time() - started < 2
    assert "epbox" in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"nodes": 0}, "0 nodes"),
        ({"kind": "mpijob", "nodes": 1}, "1 nodes"),
        ({"image": "registry.example/epbox:latest"}, "no digest"),
        ({"image": ""}, "no image"),
        ({"image": "a b", "allow_tag": True}, "no image reference"),
        ({"platform": "nowhere"}, "unknown platform"),
        ({"platform": "aws-refused", "workload": "deepep-internode"}, "EFA"),
        ({"platform": "aws", "workload": "deepep-low-latency"}, "EFA"),
        ({"workload": "nonsense"}, "unknown workload"),
        ({"name": "n" * 60}, "DNS allows 63"),
        ({"name": "Upper"}, "not a DNS label"),
        ({"name": "8gpus"}, "begins with a digit"),
        ({"namespace": "a_b"}, "not a DNS label"),
        ({"pvc": "My Claim"}, "not a DNS label"),
        ({"memory": "lots"}, "not a quantity"),
        ({"hugepages": "many"}, "not a quantity"),
        ({"cpus": 0}, "too small"),
        ({"deadline_seconds": 0}, "too small"),
        ({"join_seconds": 0}, "too small"),
        ({"master_port": 65535}, "not a port"),
        ({"rdma_resource": "rdma/ib"}, "NAME=COUNT"),
        ({"rdma_resource": "rdma/ib=0"}, "NAME=COUNT"),
        ({"rdma_resource": "rdma/ib=²"}, "NAME=COUNT"),
        ({"kind": "cronjob"}, "unknown kind"),
        ({"seccomp": "none"}, "unknown seccomp"),
        ({"workload": "deepep-internode", "nodes": 5}, "no high-throughput kernels exist for 5 node.*--nodes 4"),
        ({"workload": "deepep-internode", "gpus": 4}, "--gpus: 4 GPUs a node: .* exactly 8"),
        ({"workload": "deepep-low-latency", "gpus": 0}, "needs GPUs"),
        ({"arguments": ("--rnus", "3")}, "unrecognized arguments: --rnus"),
        ({"arguments": ("--runs", "0")}, "--runs: 0 runs"),
        ({"topology_key": "a rack"}, "not a label key"),
        ({"kind": "jobset", "exclusive_topology": "a rack"}, "not a label key"),
        ({"kind": "job", "exclusive_topology": RACK}, "no exclusive placement"),
        ({"kind": "lws", "exclusive_topology": "kubernetes.io/hostname"}, "share one host"),
    ],
)
def test_a_bad_parameter_is_a_usage_error_with_its_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        render(replace(OPTIONS, **change))
    assert caught.value.exit_code == 2


def test_a_tag_is_taken_when_asked_for() -> None:
    assert "epbox:latest" in render(replace(OPTIONS, image="registry.example/epbox:latest", allow_tag=True))


def test_notes_say_what_a_person_must_do() -> None:
    assert any("profiles/epbox.json" in line for line in notes(replace(OPTIONS, seccomp="localhost")))
    assert any("delete the set" in line for line in notes(replace(OPTIONS, kind="lws")))
    assert any("privileged" in line for line in notes(replace(OPTIONS, privileged_rdma=True)))
    assert set(OPERATORS) == {documents(kind=kind)[-1]["kind"] for kind in ("jobset", "lws", "mpijob")}

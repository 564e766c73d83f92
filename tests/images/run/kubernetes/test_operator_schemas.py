"""The fixture of the operators' kinds (tests/data/kubernetes/operators.toml): it takes the golden manifests and refuses every mutation."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.helpers.kubernetes_schema import DEFINITIONS, OPERATORS, Field, load, validate

GOLDEN = Path("tests/golden/kubernetes")
MANIFEST = {"JobSet": "jobset.yaml", "LeaderWorkerSet": "lws.yaml", "MPIJob": "mpijob.yaml"}
#: A value of each type that no other type takes, for a field of another one.
WRONG = {"object": "a string", "array": {"a": "map"}, "string": 7, "integer": "three", "boolean": "yes"}
#: Where each kind holds the spec of its first pod.
POD_SPEC: dict[str, tuple[str | int, ...]] = {
    "JobSet": ("spec", "replicatedJobs", 0, "template", "spec", "template", "spec"),
    "LeaderWorkerSet": ("spec", "leaderWorkerTemplate", "workerTemplate", "spec"),
    "MPIJob": ("spec", "mpiReplicaSpecs", "Launcher", "template", "spec"),
}


def lines(*fields: tuple[str, Field]) -> pytest.MarkDecorator:
    """A test for each of these lines of the fixture: a kind and a field."""
    return pytest.mark.parametrize(("kind", "field"), [pytest.param(*line, id=f"{line[0]}-{'.'.join(line[1].path)}") for line in fields])


ALL = [(kind, field) for kind, operator in OPERATORS.items() for field in operator.fields]
NAMED = [(kind, field) for kind, field in ALL if field.path[-1] != "[]"]
BOUNDED = [(kind, field) for kind, field in ALL if field.enum or field.minimum is not None or field.maximum is not None]


def manifest(kind: str) -> dict[str, Any]:
    (document,) = load((GOLDEN / MANIFEST[kind]).read_text())
    assert document["kind"] == kind
    return document


def values(document: Any, path: tuple[str, ...]) -> Iterator[tuple[Any, str | int]]:
    """Each holder and key of a field's value in a document."""
    key, *rest = path
    for at in range(len(document)) if key == "[]" else [key] if key in document else []:
        if rest:
            yield from values(document[at], tuple(rest))
        else:
            yield document, at


def pod_spec(document: dict[str, Any]) -> Any:
    spec: Any = document
    for key in POD_SPEC[document["kind"]]:
        spec = spec[key]
    return spec


def refusal(document: dict[str, Any]) -> str:
    with pytest.raises(jsonschema.ValidationError) as caught:
        validate(document)
    return caught.value.message


@lines(*ALL)
def test_every_line_is_of_a_field_that_a_manifest_writes(kind: str, field: Field) -> None:
    assert list(values(manifest(kind), field.path))


@lines(*ALL)
def test_a_value_of_a_wrong_type_is_refused_with_the_fields_path(kind: str, field: Field) -> None:
    document = manifest(kind)
    holder, key = next(values(document, field.path))
    wrong = WRONG["object" if field.type in DEFINITIONS else field.type]
    for value in (wrong, None):
        holder[key] = value
        # "[]" is an item, which has a number.
        path = "$." + ".".join(field.path).replace(".[]", "[0]")
        assert f"{path}: {value!r} is not of type " in refusal(document)


@lines(*NAMED)
def test_a_misspelt_field_is_refused_by_its_name(kind: str, field: Field) -> None:
    document = manifest(kind)
    holder, key = next(values(document, field.path))
    holder[f"{key}z"] = holder.pop(key)
    message = refusal(document)
    assert f"'{key}z' was unexpected" in message
    if field.required:
        assert f"'{key}' is a required property" in message


@lines(*BOUNDED)
def test_a_value_out_of_bounds_or_not_of_the_enum_is_refused_with_the_fields_path(kind: str, field: Field) -> None:
    wrong: list[object] = []
    if field.enum:
        wrong += ["Nonsense", field.enum[0].lower()]
    if field.minimum is not None:
        wrong += [field.minimum - 1]
    if field.maximum is not None:
        wrong += [field.maximum + 1]
    for value in wrong:
        document = manifest(kind)
        holder, key = next(values(document, field.path))
        holder[key] = value
        assert f".{key}: {value!r} is " in refusal(document)


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("key", ["apiVersion", "kind", "metadata", "spec"])
def test_a_field_of_the_root_is_refused_when_it_is_absent_or_misspelt(kind: str, key: str) -> None:
    document = manifest(kind)
    document[f"{key}z"] = document[key]
    assert f"'{key}z' was unexpected" in refusal(document)
    del document[f"{key}z"]
    if key == "apiVersion":
        document[key] = "example.com/v9"
        assert "$.apiVersion: " in refusal(document)
    if key in ("apiVersion", "metadata"):
        del document[key]
        assert f"'{key}' is a required property" in refusal(document)


@pytest.mark.parametrize("kind", OPERATORS)
def test_what_kubernetes_itself_defines_is_checked_to_the_last_field(kind: str) -> None:
    """In the metadata and in the pods that an operator's object holds."""
    good = manifest(kind)
    for change, words in {
        ("metadata", "label"): "'label' was unexpected",
        ("metadata", "labels", "a"): "$.metadata.labels.a: 7 is not of type",
    }.items():
        document = copy.deepcopy(good)
        *path, key = change
        holder: Any = document
        for step in path:
            holder = holder[step]
        holder[key] = 7
        assert words in refusal(document)
    document = copy.deepcopy(good)
    container = pod_spec(document)["containers"][0]
    container["imagePolicy"] = container.pop("imagePullPolicy")
    assert "'imagePolicy' was unexpected" in refusal(document)
    document = copy.deepcopy(good)
    pod_spec(document)["terminationGracePeriodSeconds"] = "soon"
    assert ".spec.terminationGracePeriodSeconds: 'soon' is not of type" in refusal(document)
    document = copy.deepcopy(good)
    del pod_spec(document)["containers"][0]["name"]
    assert ".spec.containers[0]: 'name' is a required property" in refusal(document)
    document = copy.deepcopy(good)
    del pod_spec(document)["containers"]
    assert "'containers' is a required property" in refusal(document)


def test_the_job_in_a_jobset_is_checked_as_kubernetes_defines_jobs() -> None:
    document = manifest("JobSet")
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    job["completions"] = "three"
    assert "$.spec.replicatedJobs[0].template.spec.completions: 'three' is not of type" in refusal(document)
    del job["completions"]
    job["completionmode"] = job.pop("completionMode")
    assert "'completionmode' was unexpected" in refusal(document)
    job["completionMode"] = job.pop("completionmode")
    del job["template"]
    assert "'template' is a required property" in refusal(document)


def test_every_fault_of_a_document_is_in_one_message() -> None:
    document = manifest("LeaderWorkerSet")
    document["spec"] |= {"replicas": "one", "startup": "now"}
    message = refusal(document)
    assert "$.spec.replicas: 'one' is not of type 'integer'" in message
    assert "$.spec: Additional properties are not allowed ('startup' was unexpected)" in message

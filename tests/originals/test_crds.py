"""The operators' CRDs, as their projects publish them: the fixture says what they say, and they take the golden manifests."""

from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.helpers.kubernetes_schema import OPERATORS, VERSIONS, Field, Loader, definitions, load
from tests.helpers.originals import ORIGINALS

CRDS = {"JobSet": "jobset.yaml", "LeaderWorkerSet": "leaderworkerset.yaml", "MPIJob": "mpijob.yaml"}
GOLDEN = Path(__file__).parents[1] / "golden" / "kubernetes"
ALL = [(kind, field) for kind, operator in OPERATORS.items() for field in operator.fields]
MANIFESTS = [path for path in sorted(GOLDEN.glob("*.yaml")) if any(document["kind"] in OPERATORS for document in load(path.read_text()))]


def lines(*fields: tuple[str, Field]) -> pytest.MarkDecorator:
    """A test for each of these lines of the fixture: a kind and a field."""
    return pytest.mark.parametrize(("kind", "field"), [pytest.param(*line, id=f"{line[0]}-{'.'.join(line[1].path)}") for line in fields])


@cache
def crd(kind: str) -> dict[str, Any]:
    """The CustomResourceDefinition, found by its name in the file."""
    documents = yaml.load_all((ORIGINALS / "crds" / CRDS[kind]).read_text(), Loader)
    (document,) = [document for document in documents if document and document["metadata"]["name"] == OPERATORS[kind].crd]
    assert document["kind"] == "CustomResourceDefinition"
    return dict(document)


@cache
def original(kind: str) -> dict[str, Any]:
    """The schema of the version that EPBox writes."""
    group, _, version = OPERATORS[kind].api_version.partition("/")
    assert crd(kind)["spec"]["group"] == group
    (entry,) = [entry for entry in crd(kind)["spec"]["versions"] if entry["name"] == version]
    assert entry["served"] is True
    return dict(entry["schema"]["openAPIV3Schema"])


def holder(kind: str, path: tuple[str, ...]) -> dict[str, Any]:
    """The schema of what holds the field."""
    schema = original(kind)
    for name in path[:-1]:
        schema = child(schema, name)
    return schema


def child(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """The schema of a field: an array's item, an object's field, or a map's value by whatever name."""
    if name == "[]":
        return dict(schema["items"])
    if "additionalProperties" in schema:
        assert "properties" not in schema
        return dict(schema["additionalProperties"])
    return dict(schema["properties"][name])


def type_of(schema: dict[str, Any]) -> str:
    """The field's type in the fixture's words: a template by what it holds."""
    fields = schema.get("properties", {})
    if fields.keys() == {"metadata", "spec"} and "template" in fields["spec"]["properties"]:
        return "JobTemplateSpec"
    if fields.keys() == {"metadata", "spec"} and "containers" in fields["spec"]["properties"]:
        return "PodTemplateSpec"
    return str(schema["type"])


@pytest.mark.parametrize("kind", OPERATORS)
def test_the_names_are_the_crds(kind: str) -> None:
    spec = crd(kind)["spec"]
    assert (spec["names"]["kind"], spec["scope"]) == (kind, "Namespaced")
    assert original(kind)["properties"].keys() == {"apiVersion", "kind", "metadata", "spec", "status"}


@lines(*ALL)
def test_a_line_says_what_the_crd_says(kind: str, field: Field) -> None:
    parent, name = holder(kind, field.path), field.path[-1]
    schema = child(parent, name)
    # A CRD leaves metadata to the API server.
    assert type_of(schema) == ("object" if field.type == "ObjectMeta" else field.type)
    assert (schema.get("minimum"), schema.get("maximum")) == (field.minimum, field.maximum)
    assert set(schema.get("enum", ())) == set(field.enum)
    assert (name in parent.get("required", ())) == field.required
    assert not schema.get("nullable")


@pytest.mark.parametrize("kind", OPERATORS)
def test_no_field_that_the_crd_requires_lacks_a_line(kind: str) -> None:
    """For every object of which the fixture has a field."""
    written = {field.path for field in OPERATORS[kind].fields}
    for field in OPERATORS[kind].fields:
        parent = holder(kind, field.path)
        assert {(*field.path[:-1], name) for name in parent.get("required", ())} <= written


@lines(*[(kind, field) for kind, field in ALL if field.type.endswith("TemplateSpec")])
def test_an_embedded_template_is_that_of_a_kubernetes_version_that_the_fixture_takes(kind: str, field: Field) -> None:
    template = child(holder(kind, field.path), field.path[-1])
    if field.type == "JobTemplateSpec":
        assert "io.k8s.api.batch.v1.JobSpec" in same_fields(template["properties"]["spec"])
        template = template["properties"]["spec"]["properties"]["template"]
    assert type_of(template) == "PodTemplateSpec"
    assert "io.k8s.api.core.v1.PodSpec" in same_fields(template["properties"]["spec"])


def same_fields(schema: dict[str, Any]) -> set[str]:
    """Kubernetes' types that in one of VERSIONS have the very fields of this object."""
    types = [definitions(version)["$defs"].items() for version in VERSIONS]
    return {
        name for name, definition in chain.from_iterable(types) if definition.get("properties", {}).keys() == schema["properties"].keys()
    }


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_crd_takes_every_golden_manifest(path: Path) -> None:
    for document in load(path.read_text()):
        closed(document["kind"]).validate(document)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_crd_as_checked_here_refuses_an_unknown_field(path: Path) -> None:
    (document,) = load(path.read_text())
    document["spec"]["nodez"] = 3
    with pytest.raises(jsonschema.ValidationError, match="nodez"):
        closed(document["kind"]).validate(document)


@cache
def closed(kind: str) -> jsonschema.Draft202012Validator:
    schema = _closed(original(kind))
    # The CRD leaves ObjectMeta to the API server.
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def _closed(schema: Any) -> Any:
    """The schema with unknown fields refused wherever it names its properties."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
    return result

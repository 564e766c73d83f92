"""Manifests against the API's own schemas, each read once: the strict ones that kubernetes-validate ships, and for the kinds that
operators bring the fields of tests/data/kubernetes/operators.toml, with Kubernetes' own definitions wherever a field is of its types."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import yaml
from kubernetes_validate import utils
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY, SchemaRegistry

from entrypoints.toml import load_toml

VERSIONS = ("1.35", "1.36", "1.37")
#: Types of Kubernetes itself that an operator's object holds.
DEFINITIONS = {
    "ObjectMeta": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
    "PodTemplateSpec": "io.k8s.api.core.v1.PodTemplateSpec",
    "JobTemplateSpec": "io.k8s.api.batch.v1.JobTemplateSpec",
}
#: By which kubernetes-validate's files name their definitions.
_DEFINITIONS_URL = "https://kubernetes.io/api/_definitions.json"
#: libyaml's parser where there is one: the same result, ten times as fast.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# kubernetes-validate reads megabytes of definitions for every single document.
utils.schema_contents = cache(utils.schema_contents)


@dataclass(frozen=True, kw_only=True)
class Field:
    """A line of operators.toml. `path` is its keys from the object's root, with [] for the items of an array."""

    path: tuple[str, ...]
    type: str
    required: bool = False
    enum: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the field; an object's own fields are added by `schema_of`."""
        if self.type in DEFINITIONS:
            # Null is an absent field in Kubernetes' definitions, and not in a CRD.
            return {"type": "object", "$ref": f"{_DEFINITIONS_URL}#/$defs/{DEFINITIONS[self.type]}"}
        schema: dict[str, Any] = {"type": self.type}
        if self.type == "object":
            schema |= {"properties": {}, "required": [], "additionalProperties": False}
        if self.enum:
            schema["enum"] = list(self.enum)
        limits = {"minimum": self.minimum, "maximum": self.maximum}
        return schema | {name: limit for name, limit in limits.items() if limit is not None}


@dataclass(frozen=True)
class Operator:
    """A kind that an operator brings: where its facts are from (the upstream project and its CRD's name), and the fields."""

    kind: str
    project: str
    crd: str
    api_version: str
    fields: tuple[Field, ...]


def _keys(path: str) -> tuple[str, ...]:
    """`a.b[].c` as ("a", "b", "[]", "c")."""
    return tuple(re.findall(r"\[\]|[^.\[\]]+", path))


def _operator(kind: str, table: dict[str, Any]) -> Operator:
    fields = (Field(path=_keys(path), **{**line, "enum": tuple(line.get("enum", ()))}) for path, line in table["fields"].items())
    return Operator(kind, table["project"], table["crd"], table["api_version"], tuple(sorted(fields, key=lambda field: len(field.path))))


OPERATORS = {
    kind: _operator(kind, table) for kind, table in load_toml(Path(__file__).parents[1] / "data" / "kubernetes" / "operators.toml").items()
}


def load(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.load_all(text, Loader) if document is not None]


def validate(document: dict[str, Any], versions: tuple[str, ...] = VERSIONS) -> None:
    """Raise jsonschema.ValidationError for an unknown field, a wrong type or a missing field; the message says where and names it."""
    # What a client sends is JSON.
    document = json.loads(json.dumps(document))
    for version in versions:
        if document["kind"] in OPERATORS:
            _refuse(_validator(document["kind"], version).iter_errors(document))
        else:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except jsonschema.ValidationError as error:
                _refuse([error])


def _refuse(errors: Iterable[jsonschema.ValidationError]) -> None:
    """Raise one error for all of them, if there are any."""
    messages = [f"{error.json_path}: {error.message}" for error in errors]
    if messages:
        raise jsonschema.ValidationError("; ".join(messages))


@cache
def _validator(kind: str, version: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema_of(OPERATORS[kind]), registry=_registry(version))


@cache
def _registry(version: str) -> SchemaRegistry:
    registry: SchemaRegistry = EMPTY_REGISTRY.with_resource(_DEFINITIONS_URL, DRAFT202012.create_resource(definitions(version)))
    return registry


def definitions(version: str) -> dict[str, Any]:
    """Kubernetes' own types in that minor version, each closed to unknown fields."""
    (release,) = {release for release in utils.all_versions() if release.startswith(f"{version}.")}
    document: dict[str, Any] = utils.schema_contents(f"kubernetes-json-schema/v{release}-local-strict/_definitions.json", version)
    return document


def schema_of(operator: Operator) -> dict[str, Any]:
    """JSON Schema of an operator's kind: what has no line in operators.toml is refused."""
    root = Field(path=(), type="object").schema()
    root["properties"] = {"apiVersion": {"const": operator.api_version}, "kind": {"const": operator.kind}}
    root["required"] = ["apiVersion", "kind", "metadata"]
    schemas: dict[tuple[str, ...], dict[str, Any]] = {(): root}
    # The shortest path first: a parent before its fields.
    for field in operator.fields:
        schema = schemas[field.path] = field.schema()
        parent, name = schemas[field.path[:-1]], field.path[-1]
        if name == "[]":
            parent["items"] = schema
        else:
            parent["properties"][name] = schema
            if field.required:
                parent["required"].append(name)
    return root

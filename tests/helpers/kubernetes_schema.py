"""Manifests against the API's own schemas, each schema read once: kubernetes-validate's strict ones, and the operators' CRDs."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

CRDS = Path(__file__).resolve().parents[3] / "shared" / "crds"
CRD_OF = {"JobSet": "jobset.yaml", "LeaderWorkerSet": "leaderworkerset.yaml", "MPIJob": "mpijob.yaml"}
VERSIONS = ("1.35", "1.36", "1.37")
#: libyaml's parser where there is one: the same result, ten times as fast.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# kubernetes-validate reads megabytes of definitions for every single document.
utils.schema_contents = cache(utils.schema_contents)


def load(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.load_all(text, Loader) if document is not None]


def validate(document: dict[str, Any], versions: tuple[str, ...] = VERSIONS) -> None:
    """Raises jsonschema.ValidationError for a field that the API does not know, or of a wrong type. Skips where a CRD is absent."""
    # What a client sends is JSON.
    document = json.loads(json.dumps(document))
    if document["kind"] in CRD_OF:
        crd_validator(document["kind"], document["apiVersion"].rpartition("/")[2]).validate(document)
        return
    for version in versions:
        kubernetes_validate.validate(document, version, strict=True)


@cache
def crd_validator(kind: str, version: str) -> jsonschema.Draft202012Validator:
    path = CRDS / CRD_OF[kind]
    if not path.exists():
        pytest.skip(f"the CRD {path.name} is not beside this checkout")
    for document in load(path.read_text()):
        if document.get("kind") == "CustomResourceDefinition":
            for entry in document["spec"]["versions"]:
                if entry["name"] == version:
                    schema = _closed(entry["schema"]["openAPIV3Schema"])
                    # The CRD leaves ObjectMeta to the API server.
                    schema["properties"]["metadata"] = {"type": "object"}
                    return jsonschema.Draft202012Validator(schema)
    raise AssertionError(f"{path.name} has no version {version}")


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

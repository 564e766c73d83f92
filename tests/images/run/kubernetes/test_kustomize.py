"""k8s.render --kustomize: an overlay built from the files is the manifest that --platform renders.

Built by a plain RFC 6902 function here, and by kubectl's own kustomize where there is a kubectl.
"""

import copy
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoints.errors import UsageError
from images.run.kubernetes import kustomize
from images.run.kubernetes.manifests import KINDS, ManifestOptions, platforms, render
from tests.helpers.kubernetes_schema import load, validate

OPTIONS = ManifestOptions(image="registry.example/epbox@sha256:" + "a" * 64, nodes=3, workload="alltoall")
OVERLAYS = [name for name in platforms() if name != "generic"]


def patched(document: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902 add, remove and replace."""
    result = {"": copy.deepcopy(document)}
    for operation in operations:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")]
        at: Any = result
        for part in parents:
            at = at[int(part) if isinstance(at, list) else part]
        if isinstance(at, list):
            index = int(last)
            assert index <= len(at)
            if operation["op"] == "add":
                at.insert(index, operation["value"])
            elif operation["op"] == "remove":
                del at[index]
            else:
                at[index] = operation["value"]
        elif operation["op"] == "remove":
            del at[last]
        else:
            assert (last in at) == (operation["op"] == "replace"), operation
            at[last] = operation["value"]
    return result[""]


def built(folder: Path) -> list[dict[str, Any]]:
    """What `kustomize build` gives for the features used here: resources, and JSON patches by kind and name."""
    whole = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert whole.keys() <= {"apiVersion", "kind", "resources", "patches"}
    documents = []
    for resource in whole["resources"]:
        path = folder / resource
        documents += built(path) if path.is_dir() else load(path.read_text())
    for patch in whole.get("patches", []):
        operations, target = json.loads((folder / patch["path"]).read_text()), patch["target"]
        hit = [d for d in documents if d["kind"] == target["kind"] and d["metadata"]["name"] == target.get("name", d["metadata"]["name"])]
        assert hit, f"{target} names nothing"
        for document in hit:
            documents[documents.index(document)] = patched(document, operations)
    return documents


@pytest.mark.parametrize("kind", KINDS)
def test_every_overlay_is_what_render_gives_for_its_platform(kind: str, tmp_path: Path) -> None:
    options = replace(OPTIONS, kind=kind)
    paths = kustomize.write(options, tmp_path / "k")
    assert [path.name for path in paths] == ["base", *sorted(OVERLAYS)]
    for path in paths:
        platform = "generic" if path.name == "base" else path.name
        found = built(path)
        assert found == load(render(replace(options, platform=platform)))
        for document in found:
            validate(document)


def kubectl() -> str:
    """The program, with a kustomize in it that takes JSON patches of files; skips the test where there is none."""
    program = shutil.which("kubectl")
    if program is not None:
        command = [program, "version", "--client", "--output=json"]
        version = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)["clientVersion"]
        if (int(version["major"]), int(version["minor"].rstrip("+"))) >= (1, 21):
            return program
    pytest.skip("no kubectl of 1.21 or newer on PATH: install it (Debian 13: kubernetes-client; Debian 12 has 1.20)")


def test_kubectl_builds_the_same(tmp_path: Path) -> None:
    program = kubectl()
    for kind in ("job", "mpijob"):
        options = replace(OPTIONS, kind=kind)
        for path in kustomize.write(options, tmp_path / kind):
            platform = "generic" if path.name == "base" else path.name
            completed = subprocess.run([program, "kustomize", str(path)], capture_output=True, text=True, timeout=60)
            assert completed.returncode == 0, completed.stderr
            assert by_name(load(completed.stdout)) == by_name(load(render(replace(options, platform=platform))))


def by_name(documents: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def test_a_platform_that_refuses_the_workload_has_no_overlay() -> None:
    texts = kustomize.files(replace(OPTIONS, workload="deepep-internode"))
    assert {Path(name).parts[1] for name in texts if name.startswith("overlays/")} == set(OVERLAYS) - {"aws"}


def test_an_overlay_holds_its_differences_and_nothing_else() -> None:
    texts = kustomize.files(OPTIONS)
    azure = json.loads(texts["overlays/azure/patch-job.json"])
    path = "/spec/template/spec/nodeSelector"
    assert azure == [{"op": "add", "path": path, "value": {"kubernetes.azure.com/accelerator": "nvidia"}}]
    # Pods that change alike are one target, however many.
    pods = yaml.safe_load(kustomize.files(replace(OPTIONS, kind="pod", nodes=20))["overlays/azure/kustomization.yaml"])
    assert pods["patches"] == [{"path": "patch-pod.json", "target": {"kind": "Pod"}}]


def test_the_folder_is_replaced_as_a_whole_and_only_when_it_is_ours(tmp_path: Path) -> None:
    out = tmp_path / "k"
    kustomize.write(OPTIONS, out)
    (out / "overlays" / "stale").mkdir()
    kustomize.write(replace(OPTIONS, nodes=4), out)
    assert not (out / "overlays" / "stale").exists()
    assert "completions: 4" in (out / "base" / "manifest.yaml").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["k"], "nothing temporary is left"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    with pytest.raises(UsageError, match="is not empty"):
        kustomize.write(OPTIONS, precious)
    assert [path.name for path in precious.iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="no digest"):
        kustomize.write(replace(OPTIONS, image="a:b"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text("ab/~", max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON, JSON)
def test_a_difference_applied_gives_the_new_document(old: Any, new: Any) -> None:
    def typed(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    assert typed(patched({"x": old}, list(kustomize.difference({"x": old}, {"x": new})))) == typed({"x": new})

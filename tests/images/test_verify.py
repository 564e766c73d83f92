"""verify: equal builds give one digest, others exit 6 with the file's name; an image that is not what its lock says is refused."""

import copy
import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from entrypoints.errors import UsageError, WrongNumbers
from images import engine, lock, oci, recipe, sbom, ship, verify

EPOCH = 1_700_000_000
ENGINE = engine.Engine("unix:///nowhere", True, "20.10")


def image(path: Path, files: dict[str, bytes], labels: dict[str, str]) -> oci.Layout:
    """A normalised image of one layer."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    config = {"architecture": "amd64", "os": "linux", "config": {"Labels": labels}, "history": []}
    parts = {"config.json": json.dumps(config).encode(), "layer.tar": layer.getvalue()}
    parts["manifest.json"] = json.dumps([{"Config": "config.json", "RepoTags": None, "Layers": ["layer.tar"]}]).encode()
    raw = path.with_suffix(".save")
    with tarfile.open(raw, "w") as tar:
        for name, content in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return oci.normalise(raw, path, EPOCH, "epbox:cpu")


@pytest.fixture
def honest() -> tuple[dict[str, bytes], dict[str, str]]:
    """Files and labels of an image that is what the cpu lock says."""
    document = lock.load(recipe.load_recipe("cpu"))
    assert document is not None
    packages = {**document["base_packages"], **document["packages"]["runtime"]}
    status = "\n".join(f"Package: {n}\nStatus: install ok installed\nVersion: {p['version']}\n" for n, p in packages.items())
    files = {"opt/epbox/lock.json": lock.text(document).encode(), "var/lib/dpkg/status": status.encode()}
    return files, {"epbox.recipe": "cpu", "epbox.lock": lock.digest(document), "epbox.lock.drift": "none"}


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """verify_image of an image that the engine would export."""

    def run(files: dict[str, bytes], labels: dict[str, str]) -> list[str]:
        monkeypatch.setattr(engine, "ensure", lambda choice: ENGINE)
        monkeypatch.setattr(ship, "export", lambda where, name, path, tag: image(path, files, labels))
        return verify.verify_image("epbox:cpu")

    return run


def test_an_honest_image_passes_every_check(check: Any, honest: Any) -> None:
    passed = check(*honest)
    assert len(passed) == 5 and "Debian packages are those of the lock" in passed[-1]


def test_another_lock_inside_is_refused(check: Any, honest: Any) -> None:
    files, labels = honest
    other = json.loads(files["opt/epbox/lock.json"])
    other["base_packages"]["bash"]["sha256"] = "0" * 64
    with pytest.raises(WrongNumbers, match=r"label epbox.lock says .* the lock inside is"):
        check(files | {"opt/epbox/lock.json": lock.text(other).encode()}, labels)
    with pytest.raises(WrongNumbers, match="this checkout's is"):
        check(files | {"opt/epbox/lock.json": lock.text(other).encode()}, labels | {"epbox.lock": lock.digest(other)})


def test_another_package_version_is_named(check: Any, honest: Any) -> None:
    files, labels = honest
    head = "Package: bash\nStatus: install ok installed\nVersion: "
    status = files["var/lib/dpkg/status"].decode().replace(head, head + "9", 1)
    with pytest.raises(WrongNumbers, match="packages differ from the lock: bash"):
        check(files | {"var/lib/dpkg/status": status.encode()}, labels)


def test_drift_and_a_missing_lock_are_refused(check: Any, honest: Any) -> None:
    files, labels = honest
    with pytest.raises(WrongNumbers, match="drift: numactl 1 -> 2"):
        check(files, labels | {"epbox.lock.drift": "numactl 1 -> 2"})
    with pytest.raises(WrongNumbers, match="built without a lock"):
        check({"a": b""}, {"epbox.recipe": "cpu", "epbox.lock": "none"})


LABELS = {"org.opencontainers.image.revision": "abc", "org.opencontainers.image.created": "2026-01-02T00:00:00Z"}


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An engine whose builds hold these contents; what each build was told is returned."""

    def make(*contents: bytes) -> list[tuple[Any, ...]]:
        told: list[tuple[Any, ...]] = []
        rest = iter(contents)

        class Client:
            images = type(
                "", (), {"remove": staticmethod(lambda name, force: None), "get": staticmethod(lambda name: SimpleNamespace(labels=LABELS))}
            )

        monkeypatch.setattr(engine, "ensure", lambda choice: ENGINE)
        monkeypatch.setattr(engine.Engine, "client", lambda self: Client())
        monkeypatch.setattr(verify, "_build", lambda *words, varied: told.append((*words[3:], varied)))
        monkeypatch.setattr(ship, "export", lambda where, name, path, tag: image(path, {"etc/x": next(rest)}, {}))
        return told

    return make


def test_two_equal_builds_give_one_digest(builds: Any) -> None:
    told = builds(b"same\n", b"same\n")
    verdict = verify.verify_recipe("cpu")
    assert verdict.level == "L2" and verdict.text().startswith("sha256:") and "private engine" in verdict.engine
    assert "two builds of cpu are equal" in verdict.text()
    assert [words[-1] for words in told] == [False, True] and told[0][0] != told[1][0]


def test_two_builds_that_differ_name_the_file(builds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    builds(b"same\n", b"other\n")
    with pytest.raises(WrongNumbers, match="layer 0, /etc/x: two builds of cpu differ: content differs"):
        verify.verify_recipe("cpu")
    assert "-same" in capsys.readouterr().err


def test_an_image_is_compared_with_one_new_build_of_its_own_commit_and_time(builds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told = builds(b"same\n", b"same\n")
    assert "epbox:mine and a new build of cpu are equal" in verify.verify_recipe("cpu", image="epbox:mine").text()
    (only,) = told
    assert only[1] == {"EPBOX_REVISION": "abc", "SOURCE_DATE_EPOCH": "1767312000"} and only[-1] is True
    assert "was built from commit abc" in capsys.readouterr().err


def test_sources_reach_the_builds_as_absolute_paths(builds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = builds(b"a", b"a")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    verify.verify_recipe("deepep-v1", source=("deepep=here",))
    assert [words[2] for words in told] == [[f"deepep={tmp_path}/here"]] * 2
    with pytest.raises(UsageError, match="does not exist"):
        verify.verify_recipe("deepep-v1", source=("deepep=absent",))


def test_what_is_compiled_from_source_is_in_both_sboms() -> None:
    what = recipe.load_recipe("deepep-v1")
    bare: dict[str, Any] = {"creationInfo": {"created": "now"}, "packages": [], "relationships": []}
    spdx = sbom.add_to_spdx(copy.deepcopy(bare), what, "epbox:t", "sha256:0", "2023-11-14T22:13:20Z")
    assert {each["name"] for each in spdx["packages"]} == {"nvshmem", "deepep"}
    assert spdx["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    assert "LicenseRef-NVIDIA-NVSHMEM-SLA" in sbom.licences(spdx)
    assert what.deepep is not None
    assert any(each["downloadLocation"].endswith(f"@{what.deepep.commit}") for each in spdx["packages"])
    cyclonedx = sbom.add_to_cyclonedx({}, what, "epbox:t", "sha256:0", "2023-11-14T22:13:20Z")
    assert {each["name"] for each in cyclonedx["components"]} == {"nvshmem", "deepep"}
    assert cyclonedx == sbom.add_to_cyclonedx({}, what, "epbox:t", "sha256:0", "2023-11-14T22:13:20Z")


def test_provenance_names_the_image_the_lock_and_every_input() -> None:
    what = recipe.load_recipe("cpu")
    document = lock.load(what)
    statement = sbom.provenance(what, document, "epbox:cpu", "sha256:" + "a" * 64, ENGINE)
    assert statement["subject"] == [{"name": "epbox:cpu", "digest": {"sha256": "a" * 64}}]
    definition = statement["predicate"]["buildDefinition"]
    assert definition["internalParameters"]["lock"] == lock.digest(document)
    inputs = {each["uri"].split("@")[0] for each in definition["resolvedDependencies"]}
    assert {"base:trixie", "pkg:deb/debian/python3-torch", "pkg:deb/debian/numactl"} <= inputs

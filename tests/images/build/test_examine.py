"""verify --image: an image that is not what its label, lock, recipe or SBOM says is refused, and what differs is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from entrypoints.errors import WrongNumbers
from images.build import digest, engine, examine, lock, recipe, ship
from tests.helpers import fake_image

Files = dict[str, bytes]
Labels = dict[str, str]
SITE = "usr/local/lib/python3.13/dist-packages"


class Check(Protocol):
    """verify_image of such an image; `seen` are the files that syft reads, where they are others."""

    def __call__(self, files: Files, labels: Labels, seen: Files | None = None) -> list[str]: ...


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """verify_image of an image that the engine would export, with a syft that reads the same files."""

    def run(files: Files, labels: Labels, seen: Files | None = None) -> list[str]:
        monkeypatch.setattr(engine, "ensure", lambda choice: engine.Engine("unix:///nowhere", True, "20.10"))
        monkeypatch.setattr(ship, "export", lambda where, name, path, tag: fake_image.image(path, files, labels))
        monkeypatch.setattr(examine, "scan", lambda layout, image, kinds: {"syft-json": fake_image.syft_of(seen or files)})
        return examine.verify_image("epbox:cpu")

    return run


@pytest.fixture
def honest() -> tuple[Files, Labels]:
    locked = lock.load(recipe.load_recipe("cpu"))
    assert locked is not None
    return fake_image.honest("cpu", locked)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> tuple[Files, Labels]:
    """deepep-v1 with the cpu recipe's Debian packages, the wheels of its own lists, NVSHMEM and DeepEP."""
    cpu = lock.load(recipe.load_recipe("cpu"))
    assert cpu is not None
    locked = replace(cpu, recipe="deepep-v1")
    monkeypatch.setattr(lock, "load", lambda what, *words: locked)
    compiled = {"opt/nvshmem/lib/libnvshmem_host.so.3.4.5": b"", f"{SITE}/deep_ep-1.2.1+567632d-py3.13.egg-info": b""}
    return fake_image.honest("deepep-v1", locked, compiled)


def without(files: Files, part: str) -> Files:
    return {path: content for path, content in files.items() if part not in path}


def test_an_honest_image_passes_every_check(check: Check, honest: tuple[Files, Labels]) -> None:
    files, labels = honest
    passed = check(files, labels)
    count = files["var/lib/dpkg/status"].decode().count("Package: ")
    for words in (f"all {count} Debian packages", f"SBOMs (SPDX, CycloneDX) list the {count} packages", f"syft finds the same {count}"):
        assert any(words in line for line in passed), words


def test_an_image_with_wheels_and_what_was_compiled_passes(check: Check, gpu: tuple[Files, Labels]) -> None:
    passed = check(*gpu)
    assert any("wheels are those of the locked lists" in line for line in passed)
    assert any(line.startswith("nvshmem 3.4.5 is there, compiled from https://") for line in passed)
    assert any(line.startswith("deepep 567632d is there, compiled from https://") for line in passed)


def test_another_lock_inside_is_refused(check: Check, honest: tuple[Files, Labels]) -> None:
    files, labels = honest
    other = json.loads(files["opt/epbox/lock.json"])
    other["base_packages"]["bash"]["sha256"] = "0" * 64
    text = json.dumps(other).encode()
    with pytest.raises(WrongNumbers, match=r"label epbox.lock says .* the lock inside is"):
        check(files | {"opt/epbox/lock.json": text}, labels)
    with pytest.raises(WrongNumbers, match="this checkout's is"):
        check(files | {"opt/epbox/lock.json": text}, labels | {"epbox.lock": digest.of(text)})


def test_another_recipe_inside_is_refused(check: Check, honest: tuple[Files, Labels]) -> None:
    files, labels = honest
    with pytest.raises(WrongNumbers, match="the recipe inside is not this checkout's cpu"):
        check(files | {"opt/epbox/recipe.toml": b'name = "cpu"\n'}, labels)


def test_another_package_version_is_named(check: Check, honest: tuple[Files, Labels]) -> None:
    files, labels = honest
    head = "Package: bash\nStatus: install ok installed\nVersion: "
    status = files["var/lib/dpkg/status"].decode().replace(head, head + "9", 1)
    with pytest.raises(WrongNumbers, match=r"the lock and dpkg differ in packages: bash \S+ only in the lock, bash 9\S+ only in dpkg"):
        check(files | {"var/lib/dpkg/status": status.encode()}, labels)


def test_drift_and_a_missing_lock_are_refused(check: Check, honest: tuple[Files, Labels]) -> None:
    files, labels = honest
    with pytest.raises(WrongNumbers, match="drift: numactl 1 -> 2"):
        check(files, labels | {"epbox.lock.drift": "numactl 1 -> 2"})
    with pytest.raises(WrongNumbers, match="built without a lock"):
        check({"a": b""}, {"epbox.recipe": "cpu", "epbox.lock": "none"})
    with pytest.raises(WrongNumbers, match="says sha256:0, but no lock is inside"):
        check({"a": b""}, {"epbox.recipe": "cpu", "epbox.lock": "sha256:0"})


def test_one_byte_of_the_sbom_is_noticed(check: Check, honest: tuple[Files, Labels]) -> None:
    files, labels = honest
    path = "opt/epbox/sbom.spdx.json"
    with pytest.raises(WrongNumbers, match=r"label epbox.sbom says sha256:\S+, the SBOM inside is sha256:"):
        check(files | {path: files[path] + b" "}, labels)
    with pytest.raises(WrongNumbers, match="holds no SBOM"):
        check(without(files, path), labels)


@pytest.mark.parametrize("name", ["opt/epbox/sbom.spdx.json", "opt/epbox/sbom.cdx.json"])
def test_a_package_that_the_sbom_leaves_out_or_invents_is_named(check: Check, honest: tuple[Files, Labels], name: str) -> None:
    files, labels = honest
    document = json.loads(files[name])
    packages = document["packages" if "spdx" in name else "components"]
    packages[:] = [each for each in packages if each["name"] != "numactl"]
    packages[0]["version" if "cdx" in name else "versionInfo"] = "9"
    text = json.dumps(document).encode()
    if "spdx" in name:
        labels["epbox.sbom"] = digest.of(text)
    with pytest.raises(WrongNumbers, match=r"differ in packages: .*numactl \S+ only in .*\S+ 9 only in "):
        check(files | {name: text}, labels)


def test_a_package_that_only_syft_finds_is_named(check: Check, honest: tuple[Files, Labels]) -> None:
    files, labels = honest
    smuggled = files | {f"{SITE}/evil-1.0.dist-info/METADATA": b""}
    with pytest.raises(WrongNumbers, match=r"the SBOM inside and syft differ in packages: evil 1\.0 only in syft"):
        check(files, labels, smuggled)


def test_another_wheel_or_one_too_many_is_named(check: Check, gpu: tuple[Files, Labels]) -> None:
    files, labels = gpu
    with pytest.raises(WrongNumbers, match=r"the wheel lists and the image differ in packages: evil 1\.0 only in the image"):
        check(files | {f"{SITE}/evil-1.0.dist-info/METADATA": b""}, labels)
    with pytest.raises(WrongNumbers, match=r"torch 2\.11\.0 only in the wheel lists"):
        check(without(files, "/torch-"), labels)


@pytest.mark.parametrize(
    ("gone", "instead", "words"),
    [
        ("libnvshmem_host", None, "nvshmem 3.4.5 is said to be compiled in, the image has absent"),
        ("libnvshmem_host", "opt/nvshmem/lib/libnvshmem_host.so.3.5.19", "the image has 3.5.19"),
        ("deep_ep-", None, "deepep 567632d is said to be compiled in, the image has absent"),
        ("deep_ep-", f"{SITE}/deep_ep-1.2.1+5-py3.13.egg-info", "deepep 567632d is said to be compiled in, the image has 5"),
        ("deep_ep-", f"{SITE}/deep_ep-1.2.1+0000000-py3.13.egg-info", "the image has 0000000"),
    ],
)
def test_what_was_compiled_must_be_there(check: Check, gpu: tuple[Files, Labels], gone: str, instead: str | None, words: str) -> None:
    files, labels = gpu
    with pytest.raises(WrongNumbers, match=words):
        check(without(files, gone) | ({instead: b""} if instead else {}), labels)


def test_a_registry_base_is_checked_by_its_digest_since_no_lock_lists_its_packages(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    what = recipe.load_recipe("deepep-v1-cuda12")
    locked = lock.load(what)
    assert locked is not None and not locked.base_packages
    compiled = {"opt/nvshmem/lib/libnvshmem_host.so.3.4.5": b"", f"{SITE}/deep_ep-1.2.1+567632d-py3.13.egg-info": b""}
    files, labels = fake_image.honest(what.name, locked, compiled)
    files["var/lib/dpkg/status"] = b"Package: bash\nStatus: install ok installed\nVersion: 5\n"
    with pytest.raises(WrongNumbers, match="its base is None, the recipe says "):
        check(files, labels)
    passed = check(files, labels | {"org.opencontainers.image.base.name": f"{what.base.image}@{what.base.digest}"})
    assert any("a registry base's packages are pinned by its digest" in line for line in passed)


def test_a_lock_inside_that_is_no_lock_is_refused(check: Check, honest: tuple[Files, Labels]) -> None:
    files, labels = honest
    text = b"[1"
    with pytest.raises(WrongNumbers, match="this checkout's is"):
        check(files | {"opt/epbox/lock.json": text}, labels | {"epbox.lock": digest.of(text)})

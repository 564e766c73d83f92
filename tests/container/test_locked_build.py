"""Locked builds against the real mirror: a wrong hash stops them, a vanished version is labelled or refused, and the result verifies."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entrypoints.errors import EngineError
from images import templates
from images.build import engine, examine, lock, recipe, render
from images.build import image as build
from images.build.debian import Package
from images.build.lock import Lock
from images.options import BuildOptions

Tamper = Callable[[Package], Package]


def cpu_lock() -> Lock:
    document = lock.load(recipe.load_recipe("cpu"))
    assert document is not None
    return document


@pytest.fixture
def tampered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tamper], None]:
    """Change what this process reads as the cpu lock's entry of numactl."""
    document = cpu_lock()

    def change(how: Tamper) -> None:
        runtime = {**document.packages["runtime"], "numactl": how(document.packages["runtime"]["numactl"])}
        other = replace(document, packages={"runtime": runtime})
        monkeypatch.setattr(lock, "load", lambda *words: other)

    return change


def flip(digits: str) -> str:
    return ("1" if digits[0] == "0" else "0") + digits[1:]


def gone(package: Package) -> Package:
    return replace(package, version="0.0-1")


def flipped(package: Package) -> Package:
    return replace(package, sha256=flip(package.sha256))


def test_a_package_with_another_hash_stops_the_build_and_is_named(engine: engine.Engine, tampered: Callable[[Tamper], None]) -> None:
    tampered(flipped)
    with pytest.raises(EngineError, match=r"numactl \S+ has sha256 [0-9a-f]{64}, the lock says") as caught:
        build.build(BuildOptions("cpu", tag="epbox-test:tampered"))
    assert caught.value.exit_code == 10
    assert not engine.client().images.list("epbox-test:tampered")


def test_a_package_of_the_base_with_another_hash_is_named_before_anything_is_bootstrapped(
    engine: engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = cpu_lock()
    document = replace(document, base_packages={**document.base_packages, "bash": flipped(document.base_packages["bash"])})
    monkeypatch.setattr(lock, "load", lambda *words: document)
    before = {image.id for image in engine.client().images.list()}
    with pytest.raises(EngineError, match=r"bash \S+ has sha256 [0-9a-f]{64}.* the lock says") as caught:
        build.build(BuildOptions("cpu", tag="epbox-test:tampered"))
    assert caught.value.exit_code == 10
    assert {image.id for image in engine.client().images.list()} == before


WHEEL = """{% import "macros.j2" as m %}
FROM {{ base }}
{{ m.apt_install("trixie", {"packages": ("python3-pip",), "pins": none}) -}}
{{ m.pip_install("tiny.txt", "/opt/tiny", "python3") -}}
"""


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Turn the cpu recipe into one that installs a small wheel by this hash-locked list."""
    whole = render.write_context

    def change(requirements: str) -> None:
        def write(what: recipe.Recipe, folder: Path, *words: Any) -> None:
            whole(what, folder, *words)
            environment = templates.environment("dockerfile")
            base = re.search(r"^FROM (\S+)", (folder / "Dockerfile").read_text(), re.MULTILINE)
            assert base
            (folder / "Dockerfile").write_text(environment.from_string(WHEEL).render(base=base[1]).lstrip())
            (folder / "locks" / "tiny.txt").write_text(requirements)

        monkeypatch.setattr(render, "write_context", write)

    return change


def test_one_byte_of_a_wheel_s_hash_stops_the_build_and_both_are_named(engine: engine.Engine, wheel: Callable[[str], None]) -> None:
    locked = re.search(r"^idna==.*\n( +--hash=.*\n)+", Path("requirements/dev.txt").read_text(), re.MULTILINE)
    assert locked
    wheel(locked[0].rstrip(" \\\n") + "\n")
    build.build(BuildOptions("cpu", tag="epbox-test:wheel"))  # the real hashes are right
    engine.client().images.remove("epbox-test:wheel")
    wheel(re.sub(r"(?<=sha256:)[0-9a-f]{64}", lambda found: flip(found[0]), locked[0].rstrip(" \\\n")) + "\n")
    with pytest.raises(EngineError, match=r"idna==\S+ has sha256 [0-9a-f]{64}, the lock says [0-9a-f]{64}") as caught:
        build.build(BuildOptions("cpu", tag="epbox-test:wheel"))
    assert caught.value.exit_code == 10
    assert not engine.client().images.list("epbox-test:wheel")


def test_a_version_that_left_the_mirror_is_refused_by_locked(engine: engine.Engine, tampered: Callable[[Tamper], None]) -> None:
    tampered(gone)
    with pytest.raises(EngineError, match=r"--locked.*numactl 0\.0-1 -> \S+") as caught:
        build.build(BuildOptions("cpu", tag="epbox-test:drift", locked=True))
    assert caught.value.exit_code == 10


def test_a_version_that_left_the_mirror_is_a_label_otherwise(
    engine: engine.Engine, tampered: Callable[[Tamper], None], capfd: pytest.CaptureFixture[str]
) -> None:
    tampered(gone)
    image = build.build(BuildOptions("cpu", tag="epbox-test:drift"))
    try:
        label = engine.client().images.get(image.id).labels["epbox.lock.drift"]
        assert label.startswith("numactl 0.0-1 -> ") and "," not in label
        assert "warning: drift from the lock: numactl 0.0-1 -> " in capfd.readouterr().err
    finally:
        engine.client().images.remove("epbox-test:drift")


def test_the_built_image_is_what_its_lock_says(cpu: build.Image) -> None:
    passed = examine.verify_image(cpu.name)
    assert any("Debian packages are those of the lock" in line for line in passed)
    assert any(line.startswith("syft finds the same ") for line in passed)

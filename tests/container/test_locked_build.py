"""Locked builds against the real mirror: a wrong hash stops them, a vanished version is labelled or refused, and the result verifies."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from entrypoints.errors import EngineError
from images import build, engine, examine, lock, recipe

Tamper = Callable[[dict[str, str]], None]


@pytest.fixture
def tampered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tamper], None]:
    """Change what this process reads as the cpu lock's entry of numactl."""
    document: dict[str, Any] = copy.deepcopy(dict(lock.load(recipe.load_recipe("cpu")) or {}))

    def change(how: Tamper) -> None:
        how(document["packages"]["runtime"]["numactl"])
        monkeypatch.setattr(lock, "load", lambda *words: document)

    return change


def gone(package: dict[str, str]) -> None:
    package["version"] = "0.0-1"


def flipped(package: dict[str, str]) -> None:
    package["sha256"] = ("1" if package["sha256"][0] == "0" else "0") + package["sha256"][1:]


def test_a_package_with_another_hash_stops_the_build_and_is_named(engine: engine.Engine, tampered: Callable[[Tamper], None]) -> None:
    tampered(flipped)
    with pytest.raises(EngineError, match=r"numactl \S+ has sha256 [0-9a-f]{64}, the lock says") as caught:
        build.build(build.BuildOptions("cpu", tag="epbox-test:tampered"))
    assert caught.value.exit_code == 10
    assert not engine.client().images.list("epbox-test:tampered")


def test_a_version_that_left_the_mirror_is_refused_by_locked(engine: engine.Engine, tampered: Callable[[Tamper], None]) -> None:
    tampered(gone)
    with pytest.raises(EngineError, match=r"--locked.*numactl 0\.0-1 -> \S+") as caught:
        build.build(build.BuildOptions("cpu", tag="epbox-test:drift", locked=True))
    assert caught.value.exit_code == 10


def test_a_version_that_left_the_mirror_is_a_label_otherwise(
    engine: engine.Engine, tampered: Callable[[Tamper], None], capfd: pytest.CaptureFixture[str]
) -> None:
    tampered(gone)
    image = build.build(build.BuildOptions("cpu", tag="epbox-test:drift"))
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

"""Where the samples are, and what several tests of this room build."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.sysfs_tree import PRESETS, build

DATA = Path(__file__).parents[2] / "data" / "topology"
SAMPLES = Path(__file__).parents[4] / "shared" / "topologies"


@pytest.fixture
def data() -> Path:
    return DATA


@pytest.fixture
def samples() -> Path:
    if not SAMPLES.is_dir():
        pytest.skip("the sample topologies (../shared/topologies) are not here")
    return SAMPLES


@pytest.fixture(scope="session")
def preset_root(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The root of a preset host, built once; tests only read it."""
    built: dict[str, Path] = {}

    def root(name: str) -> Path:
        if name not in built:
            built[name] = build(tmp_path_factory.mktemp(name), PRESETS[name]())
        return built[name]

    return root

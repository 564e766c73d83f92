"""Where the samples are, and what several tests of this room build."""

from collections.abc import Callable
from pathlib import Path

import pytest

from entrypoints.topology.model import Topology
from entrypoints.topology.sysfs import read_sysfs
from tests.helpers.sysfs_tree import PRESETS, in_memory

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
def preset() -> Callable[[str], Topology]:
    """The topology of a preset host, read once."""
    known: dict[str, Topology] = {}

    def topology(name: str) -> Topology:
        if name not in known:
            known[name] = read_sysfs(in_memory(PRESETS[name]()), name)
        return known[name]

    return topology

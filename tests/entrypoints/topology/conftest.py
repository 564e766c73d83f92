"""Where the data is, and what several tests of this room build."""

from collections.abc import Callable
from pathlib import Path

import pytest

from entrypoints.topology.model import Topology
from entrypoints.topology.sysfs import read_sysfs
from tests.helpers.sysfs_tree import PRESETS, in_memory

#: The topology of a preset host.
Preset = Callable[[str], Topology]

DATA = Path(__file__).parents[2] / "data" / "topology"


@pytest.fixture
def data() -> Path:
    return DATA


@pytest.fixture(scope="session")
def preset() -> Preset:
    """The topology of a preset host, read once."""
    topologies: dict[str, Topology] = {}

    def topology(name: str) -> Topology:
        if name not in topologies:
            topologies[name] = read_sysfs(in_memory(PRESETS[name]()), name)
        return topologies[name]

    return topology

"""Where the samples are, and what several tests of this room build."""

from pathlib import Path

import pytest

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

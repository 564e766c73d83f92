from pathlib import Path

import pytest

from tests.helpers.fake_host import FakeHost


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    """An 8-GPU InfiniBand node on which every check passes."""
    return FakeHost(tmp_path / "root")

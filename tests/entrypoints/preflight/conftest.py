from pathlib import Path

import pytest

from tests.helpers.fake_host import FakeHost


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time limits that a loaded test machine does not reach; the limits themselves have tests of their own."""
    monkeypatch.setattr("entrypoints.preflight.run.TOTAL_S", 120.0)
    monkeypatch.setattr("entrypoints.preflight.run.ONE_S", 60.0)


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    """An 8-GPU InfiniBand node on which every check passes."""
    return FakeHost(tmp_path / "root")

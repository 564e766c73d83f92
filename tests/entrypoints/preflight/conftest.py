import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrypoints.preflight import run
from tests.helpers.fake_host import FakeHost

#: A host is hundreds of small files for each test: in memory, where there is such a folder, they cost a quarter of the time.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine turns no check into "no answer"; tests of the bounds give their own."""
    monkeypatch.setattr(run, "TOTAL_S", 120.0)


@pytest.fixture
def fake() -> Iterator[FakeHost]:
    """An 8-GPU InfiniBand node on which every check passes; all users may look into it."""
    with tempfile.TemporaryDirectory(prefix="epbox-fake-", dir=MEMORY) as folder:
        Path(folder).chmod(0o755)
        yield FakeHost(Path(folder) / "root")

"""A guest a test: `guest(job)` runs a shell job in a fresh machine restored from the saved state."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guest import assets, disk, machine

HERE = Path(__file__).resolve().parent
FILES = {"entrypoints": HERE.parent.parent / "entrypoints", **{path.name: path for path in (HERE / "files").iterdir() if path.is_file()}}


@pytest.fixture(scope="session")
def states() -> Callable[[int], Path]:
    """The saved state of a guest by its index; skips where QEMU or Debian's packages are not to be had."""

    def state(index: int) -> Path:
        try:
            return machine.saved_state(index)
        except assets.Unavailable as reason:
            pytest.skip(str(reason))

    state(0)
    return state


@pytest.fixture(scope="session")
def torch_disk() -> Path:
    """The disk with torch; skips where a guest or the disk cannot be made."""
    try:
        assets.build()
        return disk.build()
    except assets.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def guest(states: Callable[[int], Path]) -> Callable[..., machine.Outcome]:
    """Run one job in the guest of index 0."""

    def once(job: str, limit: float) -> machine.Outcome:
        with machine.machine(0, state=states(0)) as host:
            machine.start(host, ". /host/gpus.sh\n" + job, FILES)
            return host.wait(limit)

    return lambda job, limit=machine.JOB_S: machine.twice(lambda: once(job, limit))

"""A guest a test: `guest(job)` runs a shell job in a fresh machine restored from the saved state."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guest import assets, machine

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


@pytest.fixture
def guest(states: Callable[[int], Path]) -> Callable[..., machine.Outcome]:
    """Run one job in the guest of index 0."""

    def run(job: str, limit: float = 150, again: bool = True) -> machine.Outcome:
        try:
            return once(job, limit)
        except machine.GuestDied:
            if not again:
                raise
            return run(job, limit, again=False)

    def once(job: str, limit: float) -> machine.Outcome:
        with machine.machine(0, state=states(0)) as host:
            machine.start(host, ". /host/gpus.sh\n" + job, FILES)
            return host.wait(limit)

    return run

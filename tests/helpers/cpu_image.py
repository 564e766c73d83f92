"""The engine and the cpu image for tests. Processes that run tests beside each other start one engine and build one image."""

import fcntl
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from images.build import engine as engines
from images.build import image as builder
from images.build import private_engine
from images.options import BuildOptions

ROOT = Path(__file__).resolve().parents[2]
NAME = "epbox-test:cpu"
#: Process id of the pytest that the user started; its workers inherit it.
SESSION = "EPBOX_TEST_SESSION"
_LOCKS = ROOT / ".state" / "tests"
#: Holds the SESSION for which the private engine was started.
_STARTED_FOR = _LOCKS / "engine-started-for"


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Hold a lock of this checkout; the kernel frees it with the process."""
    path = _LOCKS / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@functools.cache
def engine() -> engines.Engine:
    """A daemon that answers, started where none does. Raises EPBoxError."""
    with one_at_a_time("engine"):
        running = private_engine.daemon_pid() is not None
        daemon = engines.ensure()
        if daemon.private and not running:
            _STARTED_FOR.write_text(os.environ[SESSION])
        return daemon


def close() -> None:
    """End the private engine if it was started for this session, and not for another one beside it or by the user."""
    with one_at_a_time("engine"):
        if _STARTED_FOR.is_file() and _STARTED_FOR.read_text() == os.environ[SESSION]:
            _STARTED_FOR.unlink()
            private_engine.stop()


@functools.cache
def build() -> builder.Image:
    """The cpu image, built now (warm: seconds). Raises EPBoxError."""
    engine()
    with one_at_a_time("cpu-image"):
        return builder.build(BuildOptions("cpu", tag=NAME))

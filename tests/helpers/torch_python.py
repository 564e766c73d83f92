"""A Python that has torch, for tests that really run ranks: this host's where one has it, else that of the cpu image.

Tests that need it carry the mark `torch`.
"""

import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from entrypoints.errors import EPBoxError
from tests.helpers import cpu_image

ROOT = Path(__file__).resolve().parents[2]
#: Enters the mount namespace of a container of the image, and nothing else of it: process ids, CPUs, signals, network and open files
#: stay those of the test, so that what it sees of its ranks is what it would see with a torch of the host's own.
_WRAPPER = """#!/bin/sh
exec nsenter --target {pid} --mount -- /bin/sh -c 'cd "$0" && exec python3 "$@"' "$PWD" "$@"
"""


_cleanup = ExitStack()


def close() -> None:
    """End the container of `of_the_image`, where one was started."""
    _cleanup.close()


@functools.cache
def on_this_host() -> str | None:
    """EPBOX_TEST_PYTHON, this interpreter or python3 of the PATH, whichever has torch first; None where none has."""
    candidates = [os.environ.get("EPBOX_TEST_PYTHON"), sys.executable, shutil.which("python3")]
    probe = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"
    for python in dict.fromkeys(candidates):
        if python and subprocess.run([python, "-c", probe], capture_output=True, timeout=120, check=False).returncode == 0:
            return python
    return None


@functools.cache
def of_the_image() -> str:
    """A program that is the image's python3 on this host's files: the checkout and the temporary folder are where they are.

    Raises EPBoxError where there is no engine.
    """
    image = cpu_image.build()
    shared = [str(ROOT), tempfile.gettempdir()]
    container = image.engine.client().containers.run(
        image.id,
        ["infinity"],
        entrypoint="sleep",
        detach=True,
        remove=True,
        pid_mode="host",
        ipc_mode="host",
        network_mode="host",
        labels={"epbox.test": "python"},
        volumes={folder: {"bind": folder, "mode": "rw"} for folder in shared},
    )
    _cleanup.callback(container.remove, force=True)
    container.reload()
    wrapper = Path(_cleanup.enter_context(tempfile.TemporaryDirectory(prefix="epbox-python-"))) / "python3"
    wrapper.write_text(_WRAPPER.format(pid=shlex.quote(str(container.attrs["State"]["Pid"]))))
    wrapper.chmod(0o755)
    return str(wrapper)


def need() -> str:
    """The interpreter; skips the test where there is none, and says how to have one."""
    python = on_this_host()
    if python is not None:
        return python
    ways = "name a Python with torch in EPBOX_TEST_PYTHON, or run as root beside a container engine (./inv engine.start)"
    if os.geteuid() != 0 or os.environ.get("EPBOX_TEST_CONTAINER") == "0":
        pytest.skip(f"no Python with torch: {ways}")
    try:
        return of_the_image()
    except EPBoxError as error:
        pytest.skip(f"no Python with torch ({error}): {ways}")


def environment(**more: str) -> dict[str, str]:
    """A clean environment for bench: ranks in that Python, no scheduler's variables."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**keep, "PYTHONPATH": str(ROOT), "EPBOX_PYTHON": need(), **more}

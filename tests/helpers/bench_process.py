"""bench as a process of its own, with ranks in a Python that has torch."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema

from entrypoints.results.codec import BENCH
from tests.helpers import torch_python

#: A shape that is done at once; the preflight has tests of its own.
SMALL = ("--num-tokens", "32", "--hidden", "128", "--repeats", "3", "--warmup", "1", "--no-doctor")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "entrypoints", "bench", *arguments]


def start(*arguments: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments), env=torch_python.environment(**env), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def bench(*arguments: str, cwd: Path, **env: str) -> tuple[int, str, str]:
    process = start(*arguments, cwd=cwd, **env)
    out, err = process.communicate(timeout=280)  # below the 300 s of one test, so that what was said is shown
    return process.returncode, out, err


def free_port() -> int:
    """A port whose successor is free as well."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return int(port)


def document(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    jsonschema.Draft202012Validator(BENCH).validate(value)
    return dict(value)

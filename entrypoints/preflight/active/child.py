"""Probe processes: what may hang or crash runs in a child, and its death is a finding and not ours."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a child printed, one JSON object a line, and how it ended ("" is well)."""

    records: tuple[dict[str, Any], ...]
    failure: str = ""

    @property
    def reason(self) -> str:
        """Why a child cannot do its work here, in its own words ("no libcuda.so.1"), or ""."""
        return next((str(record["unavailable"]) for record in self.records if "unavailable" in record), "")


def run_module(name: str, arguments: Sequence[str] = (), *, timeout_s: float, environ: Mapping[str, str] | None = None) -> Outcome:
    """Run one module of this folder in a new session, and read its lines; at the time limit the whole group is killed."""
    package_root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, **(environ or {})}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(package_root), environment.get("PYTHONPATH"))))
    command = [sys.executable, "-m", f"entrypoints.preflight.active.{name}", *arguments]
    text, errors, failure = run_command(command, timeout_s=timeout_s, environ=environment)
    last = errors.strip().splitlines()[-1:] or [""]
    return Outcome(parse_records(text), f"{failure}: {last[0][:200]}".rstrip(": ") if failure else "")


def run_command(command: Sequence[str], *, timeout_s: float, environ: Mapping[str, str] | None = None) -> tuple[str, str, str]:
    """Standard output, standard error and "" or how the command failed."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if environ is None else dict(environ),
            start_new_session=True,
        )
    except OSError as error:
        return "", "", f"{command[0]}: {(error.strerror or str(error)).lower()}"
    try:
        out, errors = process.communicate(timeout=timeout_s)
        failure = how_it_ended(process.returncode)
    except subprocess.TimeoutExpired:
        kill_group(process)
        out, errors = _rest(process)
        failure = f"no end within {timeout_s:g} s"
    return out.decode(errors="replace"), errors.decode(errors="replace"), failure


def _rest(process: "subprocess.Popen[bytes]") -> tuple[bytes, bytes]:
    """What a killed process had printed; one that cannot be killed (state D) is left behind."""
    try:
        return process.communicate(timeout=2)
    except subprocess.TimeoutExpired:
        return b"", b""


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill the child and everything it started in its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()


def how_it_ended(code: int) -> str:
    """ "" for success, else the signal's name or the exit code."""
    if code == 0:
        return ""
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"


def parse_records(text: str) -> tuple[dict[str, Any], ...]:
    """The JSON objects among the lines; libraries print other things in between."""
    records: list[dict[str, Any]] = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                records.append(value)
    return tuple(records)


def emit(record: Mapping[str, Any]) -> None:
    """One line of a child's answer, flushed so that a later crash does not lose it."""
    print(json.dumps(record), flush=True)

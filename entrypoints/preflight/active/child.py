"""Probe processes: what may hang or crash runs in a child, and its death is a finding and not ours."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from entrypoints import ROOT
from entrypoints.preflight.model import Answer, failed, not_run

#: One JSON object that a child prints; its module says what is in it.
Record = dict[str, Any]
Records = Sequence[Record]
#: What to do when a probe process crashed or hung.
DIED = "the library or driver crashed or hung, in a process of its own: dmesg (Xid, mlx5_core), and the versions of both"


@dataclass(frozen=True)
class Outcome:
    """What a child printed, one JSON object a line, and how it ended ("" is well)."""

    records: tuple[Record, ...]
    failure: str = ""

    def broken(self, subject: str) -> Answer | None:
        """The answer when a child had nothing to work with, or died: NOT_RUN for the first, FAIL for the second."""
        for record in self.records:
            if "unavailable" in record:
                return not_run(str(record["unavailable"]))
        if self.failure:
            return failed(f"{subject} died: {self.failure}", DIED)
        return None if self.records else not_run(f"{subject} said nothing")


def run_module(name: str, arguments: Sequence[str] = (), *, timeout_s: float, environ: Mapping[str, str] | None = None) -> Outcome:
    """Run one module of this folder in a new session, and read its lines; at the time limit the whole group is killed."""
    environment = {**os.environ, **(environ or {})}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    command = [sys.executable, "-m", f"entrypoints.preflight.active.{name}", *arguments]
    text, errors, failure = run_command(command, timeout_s=timeout_s, environ=environment)
    last = errors.strip().splitlines()[-1:] or [""]
    return Outcome(parse_records(text), f"{failure}: {last[0][:200]}".rstrip(": ") if failure else "")


def run_command(command: Sequence[str], *, timeout_s: float, environ: Mapping[str, str] | None = None) -> tuple[str, str, str]:
    """Standard output, standard error and "" or how the command failed."""
    try:
        process = start(command, environ=environ)
    except OSError as error:
        return "", "", f"{command[0]}: {(error.strerror or str(error)).lower()}"
    try:
        return *process.communicate(timeout=timeout_s), how_it_ended(process.returncode)
    except subprocess.TimeoutExpired:
        kill_group(process)
    failure = f"no end within {timeout_s:g} s"
    try:
        return *process.communicate(timeout=2), failure
    except subprocess.TimeoutExpired:
        return "", "", failure  # it cannot be killed (state D), and is left behind


def start(command: Sequence[str], *, stderr: int = subprocess.PIPE, environ: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """A program without input, in a session of its own, so that it can be killed with everything that it starts. Raises OSError."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=stderr, env=environ, text=True, errors="replace", start_new_session=True
    )


def kill_group(process: "subprocess.Popen[str]") -> None:
    """Kill the child and everything it started in its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()


def how_it_ended(code: int) -> str:
    """ "" for success, else the signal's name or the exit code."""
    if code >= 0:
        return f"exit code {code}" if code else ""
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def parse_records(text: str) -> tuple[Record, ...]:
    """The JSON objects among the lines; libraries print other things in between."""
    records: list[Record] = []
    for line in text.splitlines():
        if line.startswith("{"):
            with suppress(ValueError):
                records.append(json.loads(line))
    return tuple(records)


def emit(record: Mapping[str, Any]) -> None:
    """One line of a child's answer, flushed so that a later crash does not lose it."""
    print(json.dumps(record), flush=True)

"""One way to call a program of the host: its output, one error that says how it failed, and no shell."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from entrypoints.errors import EngineError

_TAIL_LINES, _TAIL_CHARACTERS = 4, 400


class CommandFailed(EngineError):
    """A program that is not installed, did not end in time, or ended with another exit code than it should (exit 10)."""

    def __init__(self, what: str, *, output: str = "", where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what, where=where, hint=hint)
        self.output = output  # all that it printed, standard error last


def run(
    command: Sequence[str],
    *,
    where: str | None = None,
    hint: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = None,
    accept: Sequence[int] = (0,),
    stdout: int | IO[str] = subprocess.PIPE,
    umask: int = -1,
) -> str:
    """Run a program to its end and return what it wrote to standard output; nothing is given to its standard input.

    `env` replaces the environment, `accept` are the exit codes of success, `stdout` sends standard output elsewhere (then "" is returned),
    and `umask` -1 keeps this process's own. Raises CommandFailed with the program's last lines; `where` and `hint` are the error's.
    """
    name = Path(command[0]).name
    try:
        completed = subprocess.run(
            command,
            env=env,
            cwd=cwd,
            timeout=timeout_s,
            umask=umask,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        raise CommandFailed(f"{name} is not installed", where=where, hint=hint) from None
    except OSError as error:
        raise CommandFailed(f"{name} cannot be started: {error.strerror}", where=where, hint=hint) from None
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"{name} did not end within {timeout_s:g} s", where=where, hint=hint) from None
    if completed.returncode not in accept:
        tail = _last_lines(completed.stderr) or _last_lines(completed.stdout or "") or f"exit code {completed.returncode}"
        output = (completed.stdout or "") + completed.stderr
        raise CommandFailed(f"{name} failed: {tail}", output=output, where=where, hint=hint)
    return completed.stdout or ""


def probe(command: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float | None = None) -> str | None:
    """Return what a program wrote to standard output; None where it is absent, fails or does not end in time."""
    try:
        return run(command, env=env, timeout_s=timeout_s)
    except CommandFailed:
        return None


def call(command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> int:
    """Run a program that reads from and prints to this terminal itself; return its exit code. Raises OSError when it cannot be started."""
    return subprocess.run(command, env=env, cwd=cwd).returncode


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-_TAIL_LINES:])[-_TAIL_CHARACTERS:]

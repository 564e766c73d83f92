"""Start one rank: fork, bind, exec. What happens between fork and exec comes back over a pipe that exec closes."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from entrypoints.binding import BindMode, Kernel, bind
from entrypoints.errors import EPBoxError, UsageError
from entrypoints.launch.model import RankCommand

#: prctl(2) options, Linux include/uapi/linux/prctl.h.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

#: The child's exit code when it could not become the rank; the reason is in the report.
NOT_STARTED = 126


@dataclass(frozen=True)
class Started:
    """A forked rank and this side's ends of its pipes. `errors` is None when stderr goes where stdout goes."""

    pid: int
    output: int
    errors: int | None
    report: int
    stacks: int
    evidence: int


def prctl(option: int, value: int) -> int:
    """prctl(2) of this process; the result, negative when refused."""
    return int(ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def find_program(name: str, environ: Mapping[str, str]) -> str:
    """The file that execve is given. Raises UsageError before anything is started."""
    path = shutil.which(name, path=environ.get("PATH", os.defpath))
    if path is None:
        if Path(name).is_dir():
            raise UsageError("is a directory, not a command", where=name)
        if Path(name).exists():
            raise UsageError("is not executable", where=name, hint="chmod +x, or name its interpreter: -- python3 " + name)
        raise UsageError("no such command", where=name, hint="give a path or a name that PATH finds")
    return path


def start(
    command: RankCommand, program: str, environ: dict[str, str], mode: BindMode, strict: bool, split: bool, kernel: Kernel
) -> Started:
    """Fork the rank. The caller reads `report` to its end: one JSON object, with "error" if exec never came."""
    output, child_output = os.pipe()
    errors, child_errors = os.pipe() if split else (None, child_output)
    report, child_report = os.pipe()
    stacks, evidence = os.memfd_create("epbox-stacks"), os.memfd_create("epbox-evidence")
    environ = {**environ, "EPBOX_STACKS_FD": str(stacks), "EPBOX_EVIDENCE_FD": str(evidence)}
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(command, program, environ, mode, strict, (child_output, child_errors), child_report, (stacks, evidence), parent, kernel)
    for descriptor in {child_output, child_errors, child_report}:
        os.close(descriptor)
    for mine in (output, errors, report):
        if mine is not None:
            os.set_blocking(mine, False)
    return Started(pid, output, errors, report, stacks, evidence)


def _become(
    command: RankCommand,
    program: str,
    environ: dict[str, str],
    mode: BindMode,
    strict: bool,
    outputs: tuple[int, int],
    report: int,
    kept: tuple[int, int],
    parent: int,
    kernel: Kernel,
) -> NoReturn:
    """The child between fork and exec; never returns into the caller's code."""
    try:
        # Own session: one killpg reaches the rank's whole group, and a terminal's Ctrl-C reaches only the supervisor.
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(NOT_STARTED)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        for descriptor in kept:
            os.set_inheritable(descriptor, True)
        _default_signals()
        facts = bind(command.plan.cpus, command.plan.memory, mode, strict, kernel).to_json()
        os.write(report, json.dumps(facts).encode())
        os.execve(program, command.argv, environ)
    except EPBoxError as error:
        failure = {"error": str(error), "exit_code": error.exit_code}
    except OSError as error:
        # A second JSON object after the facts: the reader takes the last line.
        failure = {"error": f"{program}: {error.strerror}", "exit_code": 2}
    except BaseException as error:
        failure = {"error": f"{type(error).__name__}: {error}", "exit_code": 4}
    with contextlib.suppress(OSError):
        os.write(report, b"\n" + json.dumps(failure).encode())
    os._exit(NOT_STARTED)


def _default_signals() -> None:
    """Undo what Python and the supervisor set: exec keeps ignored signals and the mask."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())

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
from typing import NamedTuple, NoReturn

from entrypoints.binding import BindMode, bind
from entrypoints.errors import EPBoxError, RankFailed, UsageError
from entrypoints.launch.model import RankCommand
from entrypoints.results.ranks import Evidence

#: prctl(2) options, Linux include/uapi/linux/prctl.h.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

#: The child's exit code when it could not become the rank; the reason is in the report.
NOT_STARTED = 126


@dataclass(frozen=True)
class Started:
    """A rank and one side's ends of its pipes. `pid` is 0 on the rank's side; `errors` is None when stderr goes where stdout goes."""

    pid: int
    output: int
    errors: int | None
    report: int
    stacks: int
    evidence: int


class StartFailure(NamedTuple):
    """The reason why a rank's program was not started, and EPBox's exit code of that."""

    cause: str
    exit_code: int


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


def start(command: RankCommand, program: str, environ: dict[str, str], mode: BindMode, strict: bool, split: bool) -> Started:
    """Fork the rank. The caller reads `report` to its end, for `parse_report`."""
    output, child_output = os.pipe()
    errors, child_errors = os.pipe() if split else (None, None)
    report, child_report = os.pipe()
    stacks, evidence = os.memfd_create("epbox-stacks"), os.memfd_create("epbox-evidence")
    environ = {**environ, "EPBOX_STACKS_FD": str(stacks), "EPBOX_EVIDENCE_FD": str(evidence)}
    child_side = Started(0, child_output, child_errors, child_report, stacks, evidence)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(command, program, environ, mode, strict, child_side, parent)
    for child_end, descriptor in ((child_output, output), (child_errors, errors), (child_report, report)):
        if child_end is not None and descriptor is not None:
            os.close(child_end)
            os.set_blocking(descriptor, False)
    return Started(pid, output, errors, report, stacks, evidence)


def parse_report(text: bytes) -> Evidence | StartFailure | None:
    """Evidence of the binding right before exec, or why exec never came; None when the rank ended before it could report."""
    # A failure comes after the report of the binding.
    line = text.strip().rpartition(b"\n")[2]
    if not line:
        return None
    document = json.loads(line)
    if "cause" in document:
        return StartFailure(**document)
    return Evidence(**document | {"degradations": tuple(document["degradations"])})


def _become(
    command: RankCommand, program: str, environ: dict[str, str], mode: BindMode, strict: bool, ends: Started, parent: int
) -> NoReturn:
    """The child between fork and exec; never returns into the caller's code."""
    try:
        # A session for itself: one killpg reaches the rank's group, and a terminal's Ctrl-C reaches only the supervisor.
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(NOT_STARTED)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(ends.output, 1)
        os.dup2(ends.output if ends.errors is None else ends.errors, 2)
        for descriptor in (ends.stacks, ends.evidence):
            os.set_inheritable(descriptor, True)
        # Undo what Python and the supervisor set: exec keeps ignored signals and the mask.
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        report = bind(command.plan.cpus, command.plan.memory, mode, strict)
        os.write(ends.report, json.dumps(report.to_json()).encode())
        os.execve(program, command.argv, environ)
    except EPBoxError as error:
        failure = StartFailure(str(error), error.exit_code)
    except OSError as error:
        failure = StartFailure(f"{program}: {error.strerror}", UsageError.exit_code)
    except BaseException as error:
        failure = StartFailure(f"{type(error).__name__}: {error}", RankFailed.exit_code)
    with contextlib.suppress(OSError):
        os.write(ends.report, b"\n" + json.dumps(failure._asdict()).encode())
    os._exit(NOT_STARTED)

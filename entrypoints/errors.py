"""Exit codes of the program and of ./inv, with their meanings, as README and docs list them; and one error class for each.

An error says what went wrong, where, and what to do next. 128 + N is a stop by signal N.
"""

import signal
from enum import IntEnum


class ExitCode(IntEnum):
    """The end of a command."""

    OK = 0
    USAGE = 2
    PREFLIGHT = 3
    RANK_FAILED = 4
    TIMEOUT = 5
    WRONG_NUMBERS = 6
    BELOW_THRESHOLD = 7
    NO_PLAN = 8
    NOT_WRITTEN = 9
    ENGINE = 10
    INTERRUPTED = 128 + signal.SIGINT


MEANINGS: dict[int, str] = {
    ExitCode.OK: "ok",
    ExitCode.USAGE: "usage: wrong option, recipe, file or shape",
    ExitCode.PREFLIGHT: "preflight failed (or --strict met a degradation)",
    ExitCode.RANK_FAILED: "a rank failed",
    ExitCode.TIMEOUT: "timeout or hang",
    ExitCode.WRONG_NUMBERS: "wrong numbers (correctness), or two builds differ",
    ExitCode.BELOW_THRESHOLD: "below the asked threshold",
    ExitCode.NO_PLAN: "no plan possible",
    ExitCode.NOT_WRITTEN: "the result could not be written",
    ExitCode.ENGINE: "engine or build",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C); 128 + N for any other signal N",
}


def of_signal(number: int) -> int:
    """The exit code of a process that signal `number` ended, as shells count it."""
    return 128 + number


#: Ended from outside: by a controller, a scheduler, `docker stop` or a person, mostly because another node had failed.
STOPPED = (of_signal(signal.SIGTERM), of_signal(signal.SIGKILL))


class EPBoxError(Exception):
    """An error a user can cause or cure; it prints as one line and never as a traceback."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.hint}" if self.hint else text


class UsageError(EPBoxError):
    """Wrong option, recipe, file or shape (exit 2)."""

    exit_code = ExitCode.USAGE.value


class PreflightFailed(EPBoxError):
    """A preflight check failed, or --strict met a degradation (exit 3)."""

    exit_code = ExitCode.PREFLIGHT.value


class RankFailed(EPBoxError):
    """A rank ended by a non-zero exit code or a signal (exit 4)."""

    exit_code = ExitCode.RANK_FAILED.value


class TimedOut(EPBoxError):
    """A bounded wait ran out: hang, unreachable master, silent rank (exit 5)."""

    exit_code = ExitCode.TIMEOUT.value


class WrongNumbers(EPBoxError):
    """A result was computed and is wrong, or two builds differ (exit 6)."""

    exit_code = ExitCode.WRONG_NUMBERS.value


class BelowThreshold(EPBoxError):
    """The numbers are right but below the threshold that was asked for (exit 7)."""

    exit_code = ExitCode.BELOW_THRESHOLD.value


class NoPlan(EPBoxError):
    """No placement is possible on this topology (exit 8)."""

    exit_code = ExitCode.NO_PLAN.value


class NotWritten(EPBoxError):
    """A run ended and its result could not be written (exit 9)."""

    exit_code = ExitCode.NOT_WRITTEN.value


class EngineError(EPBoxError):
    """No container engine, or a build or container failed (exit 10)."""

    exit_code = ExitCode.ENGINE.value

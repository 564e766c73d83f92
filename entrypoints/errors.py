"""One error class per documented exit code: what went wrong, where, and what to do next."""


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

    exit_code = 2


class PreflightFailed(EPBoxError):
    """A preflight check failed, or --strict met a degradation (exit 3)."""

    exit_code = 3


class RankFailed(EPBoxError):
    """A rank ended by a non-zero exit code or a signal (exit 4)."""

    exit_code = 4


class TimedOut(EPBoxError):
    """A bounded wait ran out: hang, unreachable master, silent rank (exit 5)."""

    exit_code = 5


class WrongNumbers(EPBoxError):
    """A result was computed and is wrong, or two builds differ (exit 6)."""

    exit_code = 6


class BelowThreshold(EPBoxError):
    """The numbers are right but below the threshold that was asked for (exit 7)."""

    exit_code = 7


class NoPlan(EPBoxError):
    """No placement is possible on this topology (exit 8)."""

    exit_code = 8


class EngineError(EPBoxError):
    """No container engine, or a build or container failed (exit 10)."""

    exit_code = 10


EXIT_CODES: dict[int, str] = {
    0: "ok",
    2: "usage: wrong option, recipe, file or shape",
    3: "preflight failed (or --strict met a degradation)",
    4: "a rank failed",
    5: "timeout or hang",
    6: "wrong numbers (correctness), or two builds differ",
    7: "below the asked threshold",
    8: "no plan possible",
    10: "engine or build",
    130: "interrupted (Ctrl-C); 128 + N for any other signal N",
}

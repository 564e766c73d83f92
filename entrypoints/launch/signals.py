"""Signals as bytes that a selector sees, so that one loop handles them between other events and never inside them."""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType

#: These end the run (exit 128 + N); the last two are only passed on.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
#: How long after a stop a run may go on waiting for others: schedulers and kubelets KILL 30 s after TERM.
PATIENCE_S = 15.0
#: The same after a second Ctrl-C.
HASTE_S = 3.0


class Signals:
    """Turns signals into bytes of a pipe that the selector sees, and puts the old handlers back."""

    def __init__(self, on_stop: Callable[[int], None] | None = None) -> None:
        self._on_stop = on_stop

    def __enter__(self) -> "Signals":
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._note) for number in (*ENDING, *PASSED_ON, signal.SIGCHLD)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self.reader)
        os.close(self._writer)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        """A Python handler must exist for the wake-up byte to be written."""
        if self._on_stop is not None and number in ENDING:
            self._on_stop(number)

    def received(self) -> bytes:
        try:
            return os.read(self.reader, 4096)
        except BlockingIOError:
            return b""


class Stop:
    """From a run's first launch until its record is written, a signal stops the run and not the writing of its record.

    Schedulers send TERM more than once (scancel by the controller and by srun), and the second one comes when ranks have ended.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._until = float("inf")

    def __enter__(self) -> "Stop":
        self._old = {number: signal.signal(number, lambda received, _: self.note(received)) for number in ENDING}
        return self

    def __exit__(self, *_: object) -> None:
        """The handlers of before; after a stop none, for this process ends now, and with its own exit code."""
        for number, handler in self._old.items():
            after = signal.SIG_IGN if self.number is not None else handler
            signal.signal(number, after if after is not None else signal.SIG_DFL)

    def note(self, number: int) -> None:
        """A signal came. Who presses Ctrl-C twice does not want to wait for other nodes much longer."""
        again = self.number is not None and number == signal.SIGINT
        self.number = self.number or number
        self._until = min(self._until, time.monotonic() + (HASTE_S if again else PATIENCE_S))

    @property
    def exit_code(self) -> int:
        """128 + N of the first signal; 0 when none came."""
        return 0 if self.number is None else 128 + self.number

    @property
    def cause(self) -> str:
        return "" if self.number is None else f"stopped by {signal.Signals(self.number).name}"

    def at_once(self) -> float:
        """Wait for others until this time (monotonic clock): no longer after a stop."""
        return float("inf") if self.number is None else float("-inf")

    def patience(self) -> float:
        """Wait for others until this time (monotonic clock): a while longer after a stop, for their part of the record."""
        return self._until

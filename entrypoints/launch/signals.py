"""Signals as bytes that a selector sees, so that one loop handles them between other events and never inside them."""

import os
import signal
from types import FrameType

#: These end the run (exit 128 + N); the last two are only passed on.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """Turns signals into bytes of a pipe that the selector sees, and puts the old handlers back."""

    def __enter__(self) -> "Signals":
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)
        self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._ignore) for number in (*ENDING, *PASSED_ON, signal.SIGCHLD)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self.reader)
        os.close(self._writer)

    @staticmethod
    def _ignore(_number: int, _frame: FrameType | None) -> None:
        """A Python handler must exist for the wake-up byte to be written."""

    def received(self) -> bytes:
        try:
            return os.read(self.reader, 4096)
        except BlockingIOError:
            return b""

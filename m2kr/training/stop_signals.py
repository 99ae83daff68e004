"""Signals that end training after the step at hand, not in the middle of it."""

import os
import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class StopSignal:
    """The first signal that came, if any.

    Attributes:
        number: The signal's; 0 before one came.
    """

    def __init__(self, tell: "Callable[[], None]") -> None:
        self.number = 0
        self._tell = tell
        self._handlers: dict[int, Any] = {}

    def _note(self, number: int, frame: Any) -> None:
        # torchrun passes signals on that a terminal has sent already: there a second one is no haste.
        if self.number and "TORCHELASTIC_RUN_ID" not in os.environ:
            handler = self._handlers[number]
            self._restore()
            if callable(handler):
                handler(number, frame)
            else:
                signal.raise_signal(number)
        first, self.number = not self.number, self.number or number
        if first:
            with suppress(RuntimeError, OSError):  # a line was being written; or nobody reads
                self._tell()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @staticmethod
    @contextmanager
    def awaited(tell: "Callable[[], None]" = lambda: None) -> "Iterator[StopSignal]":
        """Notes signals during the block; those that this process ignores stay ignored.

        Args:
            tell: Is called at the first one, inside its handler.
        """
        stop = StopSignal(tell)
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name, None) for name in _NAMES):
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    stop._handlers[number] = signal.signal(number, stop._note)
        try:
            yield stop
        finally:
            stop._restore()

"""Ctrl-C and SIGTERM while an engine works: once drains, twice kills, three times leaves now."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from fuseline.context import StopNow

__all__ = ["StopSignals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Counts the wishes to stop. Use it in a ``with`` statement; handlers are put back at its end.

    Only the main thread can have handlers; elsewhere this counts nothing, and the program's own handlers stay.

    Args:
        wake: called after each signal, in the handler.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.count = 0
        #: Whether the second signal raises ``StopNow`` right away, because a step runs in the main thread.
        self.interrupts = False
        self._wake = wake
        self._last = signal.SIGINT
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._last = signal.Signals(number)
        if self.count >= 3:
            os._exit(128 + number)  # children follow: their guardian sees to it
        self._wake()
        if self.count == 2 and self.interrupts:
            raise StopNow

    def exception(self) -> BaseException:
        """Return what tells the caller of the signal: exit codes 130 and 143, if nobody catches it."""
        return KeyboardInterrupt() if self._last is signal.SIGINT else SystemExit(128 + self._last)

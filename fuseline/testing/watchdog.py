"""Watchdog: turns a call that hangs into an exception that says where."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Hung", "Watchdog"]


class Hung(BaseException):
    """Something took longer than the patience of the test. A loop that goes on after every ``Exception`` ends by it."""


class Watchdog:
    """Raises ``Hung`` in the main thread when its block takes too long, and again each time so long has passed.

    It repeats itself, because what comes after the first, a ``close`` perhaps, may hang as well. It reaches what Python
    can interrupt: locks, queues, pipes, sleeps, loops; not one long call into C. In another thread than the main one it
    does nothing.

    Args:
        patience: seconds.
        subject: frames of methods of this class are named first.
    """

    def __init__(self, patience: float, subject: type) -> None:
        self._patience = patience
        self._subject = subject
        self._is_armed = False
        self.seen = ""  #: where it hung first; empty if it did not

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handler: Any = signal.signal(signal.SIGALRM, self._bark)
            self._timer = signal.setitimer(signal.ITIMER_REAL, self._patience, self._patience)
            self._is_armed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_armed:
            self._is_armed = False
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL if self._handler is None else self._handler)
            signal.setitimer(signal.ITIMER_REAL, *self._timer)

    def _bark(self, number: int, frame: FrameType | None) -> None:
        where = f"nothing came of it in {self._patience:g} s, in {self._place(frame)}"
        self.seen = self.seen or where
        if self._is_armed:
            raise Hung(where)

    def _place(self, frame: FrameType | None) -> str:
        """Return the call that hangs: the outermost one of the subject, and where in it."""
        inner = outer = frame
        while frame is not None:
            if isinstance(frame.f_locals.get("self"), self._subject):
                outer = frame
            frame = frame.f_back
        if inner is None or outer is None:
            return "the interpreter"
        names = dict.fromkeys(f"{_name(each)} ({_line(each)})" for each in (outer, inner))
        return ", at ".join(names)


def _name(frame: FrameType) -> str:
    return f"{frame.f_code.co_qualname}()" if hasattr(frame.f_code, "co_qualname") else f"{frame.f_code.co_name}()"


def _line(frame: FrameType) -> str:
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"

"""Listener: hears what one child prints and logs, shows it, and keeps what belongs to each attempt."""

from __future__ import annotations

import math
import selectors
import time
from collections.abc import Callable, Collection
from typing import Any

from fuseline.executors.pump import Pump
from fuseline.logs import Logged, one_line
from fuseline.processes.output import LONG, Output

__all__ = ["Listener"]

#: Seconds in which nothing is read, when it is more than can be shown.
_PAUSE = 0.05


class Listener:
    """Listens from the start of a child to its end.

    Args:
        key: what the selector is told of the pipes; each goes with the number of its stream, ``(key, number)``.
    """

    output: Output  #: set once the child is there

    def __init__(self, selector: selectors.BaseSelector, pump: Pump, key: Any) -> None:
        self.shows = True  #: whether what is heard is shown; the last words of who is killed are for its error only
        self.due = math.inf  #: when to ``listen`` again, in monotonic seconds
        self._selector = selector
        self._pump = pump
        self._key = key
        self.resume_at: float | None = None  #: when to hear the pipe again, which was left alone since the child logs
        self._marked: Collection[int] = ()
        self._to_read = 0  #: bytes of a stream that were printed before the reports that are being heard
        self._last_words = ""

    def show(self, stream: int, text: bytes) -> None:
        """Show what was heard."""
        if self.shows:
            self._pump.put(stream, text)

    def listen(self) -> None:
        """Listen, from now on or after a pause."""
        self.due = math.inf
        for number, fd in enumerate(self.output.filenos()):
            if fd not in self._selector.get_map():
                self._selector.register(fd, selectors.EVENT_READ, (self._key, number))

    def read(self, number: int, hear_reports: Callable[[], None]) -> None:
        """Hear some of what is in a stream, or pause if there is too much that was not shown yet.

        Args:
            hear_reports: takes in what the child has said by now; what was printed after that is left for later.
        """
        self._to_read = self.output.unread(number)
        hear_reports()
        if self._pump.is_full or self.resume_at is not None:
            self.stop()
            self.due = time.monotonic() + _PAUSE
        elif not self.output.read(number, self._to_read):
            self._unregister(self.output.filenos()[number])

    def stop(self) -> None:
        """Listen no more."""
        for fd in self.output.filenos():
            self._unregister(fd)

    def _unregister(self, fd: int) -> None:
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def log(self, logged: Logged) -> None:
        """Have a record given to the handlers of this program, and keep it for its attempt."""
        text = one_line(logged)
        self._pump.hand_on(logged, text)
        self.output.note(text)
        if self._pump.is_full:
            self.resume_at = time.monotonic() + _PAUSE

    def may_resume(self, now: float) -> bool:
        """Return whether the pipe is to be heard again, and if so, forget that it was not."""
        if self.resume_at is None or now < self.resume_at:
            return False
        self.resume_at = now + _PAUSE if self._pump.is_full else None
        return self.resume_at is None

    def expect(self, marked: Collection[int]) -> None:
        """Take note that the end of the attempt whose report comes next was marked in these streams."""
        self._marked = marked

    def finish(self, token: int, seconds: float) -> str:
        """Return what an attempt of so many seconds has printed, whose report has come."""
        if not (self._marked or self.output.has_more):
            return ""
        marked, self._marked = self._marked, ()
        self._to_read = 0  # it may be read now
        return self.output.finish(token, marked, is_long=seconds >= LONG)

    def hear_out(self) -> None:
        """Hear the last words of a child that has exited."""
        self._last_words += self.output.rest()

    @property
    def last_words(self) -> str:
        """What ``hear_out`` has heard: the output of the attempt that the child has died in."""
        return self._last_words

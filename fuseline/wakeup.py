"""A flag with a file descriptor, so that a selector can wait for it together with pipes."""

from __future__ import annotations

import math
import os
import select
import threading
from collections.abc import Iterable

__all__ = ["Wakeup", "wait_readable"]


class Wakeup:
    """``set`` from any thread or signal handler makes ``fileno()`` readable until ``clear``."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._is_set = False
        self._closed = False
        # Re-entrant, because a signal handler may call set() while its thread is inside of set().
        self._lock = threading.RLock()

    def fileno(self) -> int:
        return self._read

    def set(self) -> None:
        """Make the descriptor readable. Does nothing after ``close``."""
        with self._lock:
            if not self._is_set and not self._closed:
                self._is_set = True
                os.write(self._write, b"x")

    def clear(self) -> None:
        """Make the descriptor unreadable. Look for work after this, not before."""
        with self._lock:
            if self._is_set and not self._closed:
                self._is_set = False
                try:
                    os.read(self._read, 16)
                except BlockingIOError:  # a signal came between the flag and the byte
                    pass
                if self._is_set:  # a signal came after the flag, and its byte is read now
                    os.write(self._write, b"x")

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._read)
                os.close(self._write)


def wait_readable(fds: Iterable[int], seconds: float | None) -> list[int]:
    """Wait until one of these descriptors is readable or at its end, up to so many seconds (None: for ever).

    Unlike ``select.select``, takes descriptors above 1023.

    Returns:
        Those that are.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(None if seconds is None else math.ceil(max(0.0, seconds) * 1000))]

"""Standard output and error in a child: they go to its program, and it is noted which attempt has used them."""

from __future__ import annotations

import faulthandler
import io
import os
import signal
import sys
from typing import TYPE_CHECKING

from fuseline.processes.output import LONG, OutputMarks

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Streams"]


class Streams:
    """Takes the place of standard output and error in this process.

    If it dies by a signal, it says in its last words where it was, in C code too.
    """

    def __init__(self, marks: OutputMarks) -> None:
        self._marks = marks
        self._writers = [_NotedWriter(fd) for fd in (1, 2)]
        for fd, pipe in zip((1, 2), marks.fds, strict=True):
            os.dup2(pipe, fd)
        sys.stdout, sys.stderr = map(_text_stream, self._writers)
        faulthandler.enable()
        faulthandler.register(signal.SIGTERM, chain=True)
        os.register_at_fork(after_in_child=_die_in_silence)

    def finish(self, token: int, seconds: float) -> list[int]:
        """Mark the end of an attempt that took so long.

        Returns:
            The streams that were marked: those that it has used, if not all of that has been heard by now.
        """
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # closed or replaced by the step: its own affair
                pass
        is_long = seconds >= LONG
        if not (is_long or self._writers[0].was_used or self._writers[1].was_used):
            return []
        used = [i for i, each in enumerate(self._writers) if each.was_used or (is_long and self._marks.has_unread(i))]
        for number in used:
            self._writers[number].was_used = False
            self._marks.put(number, token)
        return used


class _NotedWriter(io.FileIO):
    """Writes to a descriptor, which is not its own, and notes that somebody did."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "w", closefd=False)
        self.was_used = False

    def write(self, data: ReadableBuffer, /) -> int:
        self.was_used = True
        return super().write(data)


def _die_in_silence() -> None:
    """Let a fork, which its own program may end at any time, die of SIGTERM as usual, unless it has its own way."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        faulthandler.unregister(signal.SIGTERM)


def _text_stream(writer: _NotedWriter) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(writer), "utf-8", "backslashreplace", line_buffering=True)

"""Pump: writes what children print to the standard streams of this program, and hands on what they log.

In a thread, because a terminal may have been stopped, or what reads us may be slow, and then the deadlines of steps
must still be kept. It holds little: when it is full, children that print or log have to wait.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from fuseline.logs import Logged, hand_on

__all__ = ["Pump"]

_log = logging.getLogger("fuseline")

#: Bytes; with more at hand, nothing more is read from children.
_FULL = 256 * 1024
#: Bytes for which a log record counts beside its text.
_RECORD = 500
#: Seconds after which nobody waits any more for a reader that takes nothing.
_PATIENCE = 2.0


class Pump:
    """Takes what was printed or logged, and returns at once. Its thread starts with the first of it.

    It writes to what ``sys.stdout`` and ``sys.stderr`` are at that moment, a notebook's or a test's, say.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()  #: its size in bytes, and what does it
        self._size = 0
        self._count = 0  #: what was done
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(2)]

    def put(self, stream: int, text: bytes) -> None:
        """Write to standard output (0) or standard error (1)."""
        self._add(len(text), partial(self._show, stream, text))

    def hand_on(self, logged: Logged, text: str) -> None:
        """Give a record, which says ``text``, to the handlers of this program."""
        self._add(_RECORD + len(text), partial(_hand_on, logged))

    def _add(self, size: int, deed: Callable[[], None]) -> None:
        with self._changed:
            self._waiting.append((size, deed))
            self._size += size
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="fuseline-output", daemon=True)
                self._thread.start()

    @property
    def is_full(self) -> bool:
        return self._size > _FULL

    def flush(self) -> None:
        """Wait until all is written, or nobody has read anything for a while."""
        with self._changed:
            count = -1
            while self._size and count != self._count:
                count = self._count
                self._changed.wait_for(lambda: self._count > count or not self._size, _PATIENCE)  # noqa: B023

    def close(self) -> None:
        """Write what is at hand, and end the thread. Where nobody reads any more, it gives up after a while."""
        self.flush()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            is_stuck = self._size > 0
        if self._thread is not None and not is_stuck:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                size, deed = self._waiting.popleft()
            deed()
            with self._changed:
                self._size -= size
                self._count += 1
                self._changed.notify_all()

    def _show(self, stream: int, text: bytes) -> None:
        try:
            self._write(sys.stderr if stream else sys.stdout, self._decoders[stream], text)
        except (OSError, ValueError, AttributeError):  # it is closed, or whoever read it has gone
            pass

    def _write(self, target: Any, decoder: codecs.IncrementalDecoder, text: bytes) -> None:
        """Write bytes as they are where that can be, else as text."""
        if type(target) is io.TextIOWrapper and isinstance(target.buffer, io.BufferedWriter):
            # Past the buffer, whose lock would be held if this blocks: then nobody could even flush it.
            target.flush()
            _write_all(target.fileno(), text)
            return
        if (buffer := getattr(target, "buffer", None)) is None:
            target.write(decoder.decode(text))
        else:
            target.flush()
            buffer.write(text)
        target.flush()


def _hand_on(logged: Logged) -> None:
    try:
        hand_on(logged)
    except BaseException as error:  # of a handler or filter of the user's; or a step has made up a record
        _log.error("a log record of a child process cannot be handed on: %r", error)


def _write_all(fd: int, text: bytes) -> None:
    while text:
        try:
            text = text[os.write(fd, text) :]
        except BlockingIOError:
            select.select([], [fd], [])

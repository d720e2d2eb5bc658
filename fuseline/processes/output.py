"""What a child prints, in pieces that belong to one attempt each.

The standard output and error of a child are two pipes to its program, so that whatever writes there is heard, C code
and what the child has started included, and so that a child which prints more than its program can show has to wait.
After an attempt the child writes a mark into the pipes, and then its report into its outbox: so when the report is
there, all that belongs to the attempt is there, too. There is no mark if all was read before the attempt has ended, nor
after a short attempt that has printed nothing by means of Python.
So the program asks how much there is, looks for reports, and reads no more than that: what was printed after a report
that it has not seen stays in the pipe.

What is kept of an attempt is its end.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import select
import struct
import sys
import termios
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from fuseline.processes.inherited import InheritedFd

__all__ = ["KEPT", "LONG", "Output", "OutputMarks"]

#: Bytes of an attempt's output that are kept, of each stream.
KEPT = 32 * 1024
#: Seconds; a longer attempt may have printed by C code or in another process, for all we know.
LONG = 0.0002
#: Bytes that are read at once: a child that prints without end must not keep its program from the others.
_CHUNK = 64 * 1024
_SECRET = 16  #: bytes, so that nobody prints a mark by chance
_TOKEN = struct.Struct("=Q")

Piece = tuple[int, bytes]  #: its place among those of both streams, and the text


class OutputMarks:
    """A child's half of its two pipes. Pickle it while the child is being started, and at no other time."""

    def __init__(self, fds: tuple[int, int], secret: bytes) -> None:
        self.fds = fds
        self._secret = secret

    def __reduce__(self) -> tuple[Any, ...]:
        first, second = map(InheritedFd, self.fds)
        return _attach, (first, second, self._secret)

    def put(self, stream: int, token: int) -> None:
        """Say, in the child, that all of an attempt was written to stream 0 or 1."""
        try:
            os.write(self.fds[stream], self._secret + _TOKEN.pack(token))
        except OSError:  # the step has closed it, or made it one that does not block: then it has to do without
            pass

    def has_unread(self, stream: int) -> bool:
        """Return, in the child, whether the program has not yet read all of a stream."""
        try:
            return _unread(self.fds[stream]) > 0
        except OSError:  # the step has closed it
            return False

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def _attach(first: InheritedFd, second: InheritedFd, secret: bytes) -> OutputMarks:
    return OutputMarks((first.fd, second.fd), secret)


class Output:
    """A program's half of the pipes of one child: standard output is stream 0, standard error is stream 1.

    Args:
        show: is given what was printed as soon as it was read: the stream, and the text.
    """

    def __init__(self, show: Callable[[int, bytes], None]) -> None:
        self._secret = os.urandom(_SECRET)
        self._count = 0  #: of pieces
        self.has_more = False  #: whether anything was read that belongs to no attempt that has ended
        self._notes: deque[Piece] = deque()
        (first, first_end), (second, second_end) = _two_pipes()
        self._streams = [_Stream(fd, self._secret, self._number, show, i) for i, fd in enumerate((first, second))]
        self.theirs = OutputMarks((first_end, second_end), self._secret)  #: to be closed when the child has started

    def filenos(self) -> list[int]:
        """Return the descriptors of both streams, in their order."""
        return [stream.fd for stream in self._streams]

    def unread(self, stream: int) -> int:
        """Return how many bytes there are to read in a stream."""
        return _unread(self._streams[stream].fd)

    def read(self, stream: int, size: int) -> bool:
        """Read some of the next ``size`` bytes of a stream; return whether it may have more some time."""
        return self._streams[stream].read(size)

    def note(self, text: str) -> None:
        """Add a line to what the attempt under way has printed, without showing it."""
        self._notes.append((self._number(), text.encode("utf-8", "backslashreplace") + b"\n"))
        while sum(len(piece) for _, piece in self._notes) > KEPT and len(self._notes) > 1:
            self._notes.popleft()

    def finish(self, token: int, marked: Collection[int], *, is_long: bool) -> str:
        """Return what an attempt has printed, as UTF-8 or the like. Nothing after its report must have been read yet.

        Args:
            marked: the streams with a mark at its end.
            is_long: whether it took ``LONG`` seconds. If so, what was read of other streams is all of it; if not, that
                is of attempts after it, or by means that a short attempt is not known to use.
        """
        pieces: list[list[Piece]] = []
        for number, stream in enumerate(self._streams):
            if number in marked:
                pieces.append(stream.finish(token))
            elif is_long:
                pieces.append(stream.take())
        return self._joined(pieces)

    def rest(self) -> str:
        """Return what was printed since the last mark, of a child that has ended."""
        return self._joined([stream.rest() for stream in self._streams])

    def _joined(self, pieces: list[list[Piece]]) -> str:
        self.has_more = any(stream.has_more for stream in self._streams)
        notes, self._notes = list(self._notes), deque()
        return b"".join(text for _, text in heapq.merge(*pieces, notes)).decode("utf-8", "replace")

    def _number(self) -> int:
        self.has_more = True
        self._count += 1
        return self._count

    def close(self) -> None:
        for stream in self._streams:
            os.close(stream.fd)


def _unread(fd: int) -> int:
    """Return how many bytes there are in a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def _has_ended(fd: int) -> bool:
    """Return whether a pipe is empty, and nobody writes into it any more."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & select.POLLHUP for _, events in poll.poll(0)) and not _unread(fd)


def _two_pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    first = os.pipe()
    try:
        return first, os.pipe()
    except OSError:
        for fd in first:
            os.close(fd)
        raise


class _Stream:
    def __init__(
        self, fd: int, secret: bytes, number: Callable[[], int], show: Callable[[int, bytes], None], index: int
    ) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._secret = secret
        self._number = number
        self._show = partial(show, index)
        self._unread = b""  #: perhaps the beginning of a mark
        self._pieces: deque[Piece] = deque()
        self._size = 0
        self._dropped = 0
        self._finished: dict[int, list[Piece]] = {}

    @property
    def has_more(self) -> bool:
        return bool(self._pieces)

    def read(self, size: int) -> bool:
        if size:
            try:
                chunk = os.read(self.fd, min(size, _CHUNK))
            except BlockingIOError:  # somebody has read it in between
                return True
            self._understand(self._unread + chunk)
        elif _has_ended(self.fd):
            self._add(self._unread)
            self._unread = b""
            return False
        return True

    def _understand(self, text: bytes) -> None:
        while (start := text.find(self._secret)) >= 0:
            end = start + _SECRET + _TOKEN.size
            if len(text) < end:
                break
            self._add(text[:start])
            (token,) = _TOKEN.unpack_from(text, start + _SECRET)
            self._finished[token] = self.take()
            text = text[end:]
        if start < 0:
            start = len(text) - _overlap(text, self._secret)
        self._add(text[:start])
        self._unread = text[start:]

    def _add(self, text: bytes) -> None:
        if not text:
            return
        self._show(text)
        self._pieces.append((self._number(), text))
        self._size += len(text)
        while (excess := self._size - self._dropped - KEPT) > 0:
            number, first = self._pieces.popleft()
            if len(first) > excess:
                self._pieces.appendleft((number, first[excess:]))
            self._dropped += min(excess, len(first))

    def take(self) -> list[Piece]:
        """Return what was printed since the last mark, and forget it."""
        pieces = list(self._pieces)
        if self._dropped:
            pieces.insert(
                0, (pieces[0][0] if pieces else 0, f"[... {self._dropped:,} bytes before this ...]\n".encode())
            )
        self._pieces.clear()
        self._size = self._dropped = 0
        return pieces

    def finish(self, token: int) -> list[Piece]:
        """Return what was printed before the mark of ``token``, which is there if it was written at all."""
        self._read_until(lambda: token in self._finished)
        if token not in self._finished:
            return self.take()
        while (first := next(iter(self._finished))) != token:
            del self._finished[first]  # nobody has asked for it: its report came too late
        return self._finished.pop(token)

    def rest(self) -> list[Piece]:
        self._read_until(lambda: False)
        self._add(self._unread)
        self._unread = b""
        return self.take()

    def _read_until(self, is_enough: Callable[[], bool]) -> None:
        for _ in range(100):  # processes that the child has left may print for ever
            if is_enough():
                return
            try:
                chunk = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                return
            if not chunk:
                return
            self._understand(self._unread + chunk)


def _overlap(text: bytes, secret: bytes) -> int:
    """Return how many bytes at the end of ``text`` are the beginning of ``secret``."""
    return next((n for n in range(min(len(text), len(secret) - 1), 0, -1) if secret.startswith(text[-n:])), 0)

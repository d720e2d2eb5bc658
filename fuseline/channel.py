"""Messages over a pipe pair or socket between two processes: a program and its child, a broker and a program.

Messages travel in frames, small ones together::

    magic (2 bytes) | length of body (8) | body: a msgpack array of messages

Messages are structs of msgspec; the receiving end is told which it may expect. msgpack, because it cannot run code and
fails cleanly on garbage: a step may write into any descriptor it finds.

On a descriptor that does not block, what cannot be written yet waits, so that an end which stops reading (it may be
stopped by a signal) delays nobody else. It waits as messages, which are encoded when the frame before them is written:
so it costs no memory, and can be withdrawn.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

__all__ = ["Channel", "EncodingError", "Incoming", "M", "ProtocolError", "incoming"]

_PREFIX = struct.Struct("!2sQ")
_ARRAY = struct.Struct("!BI")  #: the start of a msgpack array: a type, and the number of its items
_ARRAY32 = 0xDD
_MAGIC = b"FL"
#: Bytes in a frame, after which no further message is put into it.
_FULL = 1 << 16
_CHUNK = 1 << 16
_BIG_CHUNK = 1 << 20

_encode_into = msgspec.msgpack.Encoder().encode_into

M = TypeVar("M")  #: the messages that come in
S = TypeVar("S", bound=msgspec.Struct)  #: the messages that go out
Incoming = msgspec.msgpack.Decoder[list[M]]  #: what may come in: makes messages of a body


def incoming(kind: Any) -> Incoming[Any]:
    """Return what ``Channel`` needs to know about the messages of the other end, a struct or a union of structs."""
    return msgspec.msgpack.Decoder(list[kind])


class ProtocolError(Exception):
    """What came through the pipe is no message: somebody else wrote into it."""


class EncodingError(Exception):
    """A message cannot be sent. It was dropped, and the others are not affected.

    Attributes:
        message: the message.
    """

    def __init__(self, message: Any, error: Exception) -> None:
        self.message = message
        super().__init__(f"{type(error).__name__}: {error}")


class Channel(Generic[M, S]):
    """One end of a pipe pair; does not own the descriptor.

    Args:
        fd: a connected stream socket, blocking or not.
        incoming: which messages the other end sends.
        limit: longest frame that is accepted, in bytes; default is more than any machine has memory.
    """

    def __init__(self, fd: int, incoming: Incoming[M], limit: int = 1 << 44) -> None:
        self._fd = fd
        self._blocks = os.get_blocking(fd)
        self._decode = incoming.decode
        self.limit = limit
        self._incoming = bytearray()
        self._needed = _PREFIX.size  #: bytes in ``_incoming`` that make the next progress possible
        self._accepted: deque[S] = deque()  #: in no frame yet
        self._frame = memoryview(b"")  #: what is left to write of the frame under way
        self.has_ended = False  #: whether the other end is closed and everything was read

    # -- writing ------------------------------------------------------------------------------------------------------

    def send(self, message: S) -> None:
        """Send a message, or as much of it as the pipe takes; the rest goes with ``flush``.

        If the other end is gone the message is dropped: whoever waits for an answer learns it from the pipe's end.

        Raises:
            EncodingError: as ``flush``.
        """
        self.put(message)
        self.flush()

    def put(self, message: S) -> None:
        """Let a message go with the next ``flush``."""
        self._accepted.append(message)

    @property
    def backlog(self) -> int:
        """How many messages are in no frame yet."""
        return len(self._accepted)

    def replace(self, message: S) -> None:
        """Let this one go next, instead of those that are in no frame yet."""
        self._accepted = deque([message])

    def withdraw(self, unwanted: Callable[[S], bool]) -> None:
        """Drop messages that are in no frame yet."""
        self._accepted = deque(message for message in self._accepted if not unwanted(message))

    def flush(self) -> bool:
        """Write what waits, as much as the pipe takes; return whether nothing waits any more.

        Raises:
            EncodingError: a message cannot be encoded; what was before it is on its way. Call again for the rest.
        """
        while self._frame or self._accepted:
            if not self._frame:
                self._frame = self._next_frame()
            try:
                written = os.write(self._fd, self._frame)
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                self._accepted.clear()
                self._frame = memoryview(b"")
                return True
            self._frame = self._frame[written:]
        return True

    def _next_frame(self) -> memoryview:
        """Encode messages until a frame is full, or none is left."""
        frame = bytearray(_PREFIX.size + _ARRAY.size)
        count = 0
        while self._accepted and len(frame) < _FULL:
            size = len(frame)
            message = self._accepted.popleft()
            try:
                _encode_into(message, frame, -1)
            except Exception as error:
                if not count:
                    raise EncodingError(message, error) from error
                self._accepted.appendleft(message)  # those before it go first; then it is its turn to fail
                del frame[size:]
                break
            count += 1
        _PREFIX.pack_into(frame, 0, _MAGIC, len(frame) - _PREFIX.size)
        _ARRAY.pack_into(frame, _PREFIX.size, _ARRAY32, count)
        return memoryview(frame)

    # -- reading ------------------------------------------------------------------------------------------------------

    def receive(self) -> Iterator[M]:
        """Yield the messages that are there; on a blocking descriptor, wait until there is one or the end.

        Raises:
            ProtocolError: something that is no message was read, after the messages that were yielded.
        """
        is_done = False
        while not is_done and not self.has_ended:
            try:
                # Never more than a message's worth beyond what is at hand: big values are read in big pieces.
                wanted = min(max(self._needed - len(self._incoming), _CHUNK), _BIG_CHUNK)
                chunk = os.read(self._fd, wanted)
            except BlockingIOError:
                break
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                self.has_ended = True
                break
            self._incoming += chunk
            is_done = len(chunk) < wanted and not self._blocks  # that was all
            while (frame := self._cut()) is not None:
                is_done |= self._blocks
                yield from frame

    def _cut(self) -> list[M] | None:
        """Take the messages of the next frame out of what has come in; None if it is not complete yet."""
        buffer = self._incoming
        self._needed = _PREFIX.size
        if len(buffer) < _PREFIX.size:
            return None
        magic, size = _PREFIX.unpack_from(buffer)
        if magic != _MAGIC or size > self.limit:
            raise ProtocolError(f"{bytes(buffer[:40])!r} is not the start of a frame")
        end = _PREFIX.size + size
        if len(buffer) < end:
            self._needed = end
            return None
        try:
            with memoryview(buffer) as view:
                messages = self._decode(view[_PREFIX.size : end])
        except Exception as error:  # also what the checks of a message raise
            raise ProtocolError(f"a frame holds something that is no message: {error}") from error
        del buffer[:end]
        return messages

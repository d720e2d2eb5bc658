"""Messages over one private pipe pair between a program and one child.

What one ``flush`` sends travels as one frame::

    magic (2 bytes) | length of body (8) | body: a msgpack array of messages

Messages are structs of msgspec; the receiving end is told which it may expect. msgpack, because it cannot run code and
fails cleanly on garbage: a step may write into any descriptor it finds.

The program's end never blocks: what cannot be written yet waits in a buffer, so a child that stops reading (it may be
stopped by a signal) delays nobody else; what is half read stays in another. The child's end blocks.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

__all__ = ["Channel", "Incoming", "M", "ProtocolError", "incoming"]

_PREFIX = struct.Struct("!2sQ")
_MAGIC = b"FL"
#: Longest body, in bytes: more than any machine has memory.
_MAX_BODY = 1 << 44
_CHUNK = 1 << 16
_BIG_CHUNK = 1 << 20

_encode_into = msgspec.msgpack.Encoder().encode_into

M = TypeVar("M")  #: the messages that come in
Incoming = msgspec.msgpack.Decoder[list[M]]  #: what may come in: makes messages of a body


def incoming(kind: Any) -> Incoming[Any]:
    """Return what ``Channel`` needs to know about the messages of the other end, a struct or a union of structs."""
    return msgspec.msgpack.Decoder(list[kind])


class ProtocolError(Exception):
    """What came through the pipe is no message: somebody else wrote into it."""


class Channel(Generic[M]):
    """One end of a pipe pair; does not own the descriptor.

    Args:
        fd: a connected stream socket, blocking or not.
        incoming: which messages the other end sends.
    """

    def __init__(self, fd: int, incoming: Incoming[M]) -> None:
        self._fd = fd
        self._blocks = os.get_blocking(fd)
        self._decode = incoming.decode
        self._incoming = bytearray()
        self._needed = _PREFIX.size  #: bytes in ``_incoming`` that make the next progress possible
        self._accepted: list[msgspec.Struct] = []  #: for the next frame
        self._outgoing: deque[memoryview] = deque()  #: frames, or what is left of them
        self.has_ended = False  #: whether the other end is closed and everything was read

    # -- writing ------------------------------------------------------------------------------------------------------

    def send(self, message: msgspec.Struct) -> None:
        """Send a message, or as much of it as the pipe takes; the rest goes with ``flush``.

        If the other end is gone the message is dropped: whoever waits for an answer learns it from the pipe's end.
        """
        self.put(message)
        self.flush()

    def put(self, message: msgspec.Struct) -> None:
        """Let a message go with the next ``flush``."""
        self._accepted.append(message)

    def flush(self) -> bool:
        """Write what waits, as much as the pipe takes; return whether nothing waits any more."""
        outgoing = self._outgoing
        if self._accepted:
            frame = bytearray(_PREFIX.size)
            _encode_into(self._accepted, frame, _PREFIX.size)
            _PREFIX.pack_into(frame, 0, _MAGIC, len(frame) - _PREFIX.size)
            self._accepted.clear()
            outgoing.append(memoryview(frame))
        while outgoing:
            try:
                written = os.write(self._fd, outgoing[0])
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                outgoing.clear()
                return True
            if written == len(outgoing[0]):
                outgoing.popleft()
            else:
                outgoing[0] = outgoing[0][written:]
        return True

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
        if magic != _MAGIC or size > _MAX_BODY:
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

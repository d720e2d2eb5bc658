"""Messages over one private pipe pair between a program and one child.

A message is a header, plain data as JSON, and blobs, opaque bytes::

    magic (2 bytes) | length of header (4) | length of all blobs (8) | header | blob | blob …

The header is a JSON list whose last item is the list of the sizes of the blobs. JSON, because it cannot run code and
fails cleanly on garbage: a step may write into any descriptor it finds.

The program's end never blocks: what cannot be written yet waits in a buffer, so a child that stops reading (it may be
stopped by a signal) delays nobody else; what is half read stays in another. The child's end blocks.
"""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

__all__ = ["Channel", "Message", "ProtocolError"]

_PREFIX = struct.Struct("!2sIQ")
_MAGIC = b"FL"
#: Longest header, in bytes: a traceback fits many times, a length made of garbage hardly ever.
_MAX_HEADER = 1 << 26
#: Longest body, in bytes: more than any machine has memory.
_MAX_BODY = 1 << 44
_CHUNK = 1 << 16
_BIG_CHUNK = 1 << 20

_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_from_json = json.JSONDecoder().decode

Message = tuple[list[Any], list[bytes]]


class ProtocolError(Exception):
    """What came through the pipe is no message: somebody else wrote into it."""


class Channel:
    """One end of a pipe pair; does not own the descriptor.

    Args:
        fd: a connected stream socket, blocking or not.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._incoming = bytearray()
        self._needed = _PREFIX.size  #: bytes in ``_incoming`` that make the next progress possible
        self._outgoing: deque[memoryview] = deque()
        self.has_ended = False  #: whether the other end is closed and everything was read

    # -- writing ------------------------------------------------------------------------------------------------------

    def send(self, header: Sequence[Any], blobs: Sequence[bytes] = ()) -> None:
        """Send a message, or as much of it as the pipe takes; the rest goes with ``flush``.

        If the other end is gone the message is dropped: whoever waits for an answer learns it from the pipe's end.
        """
        self.put(header, blobs)
        self.flush()

    def put(self, header: Sequence[Any], blobs: Sequence[bytes] = ()) -> None:
        """Let a message go with the next ``flush``."""
        sizes = [len(blob) for blob in blobs]
        text = _to_json([*header, sizes]).encode()
        start = _PREFIX.pack(_MAGIC, len(text), sum(sizes)) + text
        self._outgoing.append(memoryview(start))
        self._outgoing.extend(memoryview(blob) for blob in blobs if blob)

    def flush(self) -> bool:
        """Write what waits, as much as the pipe takes; return whether nothing waits any more."""
        outgoing = self._outgoing
        while outgoing:
            try:
                written = os.writev(self._fd, list(islice(outgoing, 64)))
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                outgoing.clear()
                return True
            while outgoing and written >= len(outgoing[0]):
                written -= len(outgoing.popleft())
            if written:
                outgoing[0] = outgoing[0][written:]
        return True

    # -- reading ------------------------------------------------------------------------------------------------------

    def receive(self) -> Iterator[Message]:
        """Yield the messages that are there; on a blocking descriptor, wait until there is one or the end.

        Raises:
            ProtocolError: something that is no message was read, after the messages that were yielded.
        """
        blocking = os.get_blocking(self._fd)
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
            is_done = len(chunk) < wanted and not blocking  # that was all
            if len(self._incoming) >= self._needed:
                for message in self._parse():
                    is_done |= blocking
                    yield message

    def _parse(self) -> Iterator[Message]:
        buffer = self._incoming
        at = 0
        try:
            while True:
                self._needed = _PREFIX.size
                if len(buffer) - at < _PREFIX.size:
                    return
                magic, header_size, body_size = _PREFIX.unpack_from(buffer, at)
                if magic != _MAGIC or header_size > _MAX_HEADER or body_size > _MAX_BODY:
                    raise ProtocolError(f"{bytes(buffer[at : at + 40])!r} is not the start of a message")
                end = at + _PREFIX.size + header_size + body_size
                if len(buffer) < end:
                    self._needed = end - at
                    return
                message = self._cut(at + _PREFIX.size, header_size, body_size)
                at = end
                yield message
        finally:
            del buffer[:at]

    def _cut(self, at: int, header_size: int, body_size: int) -> Message:
        view = memoryview(self._incoming)
        try:
            header = _from_json(str(view[at : at + header_size], "utf-8"))
            sizes = header.pop()
            if sum(sizes) != body_size:
                raise ProtocolError("the sizes of the blobs do not fit the length of the message")
            at += header_size
            blobs = []
            for size in sizes:
                blobs.append(bytes(view[at : at + size]))
                at += size
        except (ValueError, AttributeError, IndexError, TypeError, RecursionError) as error:
            raise ProtocolError(f"the header of a message is not one: {error}") from error
        finally:
            view.release()
        return header, blobs

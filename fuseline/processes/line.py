"""Line: all that a child and its program say to each other.

What the program says goes through a pipe. What the child says goes into its ``Outbox``; all that comes through the pipe
from there are nudges, for the program to look. So nothing that a step writes into the pipe can be taken for a message.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Any, Generic

import msgspec

from fuseline.channel import Channel, EncodingError, Incoming, M
from fuseline.processes.inherited import InheritedFd
from fuseline.processes.outbox import Outbox

__all__ = ["ChildLine", "LineEnd", "ProgramLine"]

#: Bytes of nudges, or of what a step has written there, that are read at once.
_CHUNK = 64 * 1024
#: Seconds between two looks at a full outbox.
_PAUSE = 0.0001

_encode = msgspec.msgpack.Encoder().encode


class LineEnd:
    """What a child makes its end of a line of. Pickle it while the child is being started, and at no other time."""

    def __init__(self, fd: int, outbox: Outbox) -> None:
        self._fd = fd
        self._outbox = outbox

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (InheritedFd(self._fd), self._outbox)

    def open(self, incoming: Incoming[M]) -> ChildLine[M]:
        """Return the child's end of a line over which it is told such messages."""
        return ChildLine(self._fd, incoming, self._outbox)


def _attach(inherited: InheritedFd, outbox: Outbox) -> LineEnd:
    return LineEnd(inherited.fd, outbox)


class ChildLine(Generic[M]):
    """The child's end. Not thread-safe."""

    def __init__(self, fd: int, incoming: Incoming[M], outbox: Outbox) -> None:
        self._fd = fd
        self._channel: Channel[M, Any] = Channel(fd, incoming)
        self._outbox = outbox
        self.receive = self._channel.receive

    @property
    def has_ended(self) -> bool:
        """Whether the program has closed its end, and everything was read."""
        return self._channel.has_ended

    def wait(self, seconds: float) -> bool:
        """Wait for the program to say something, or to be gone; return whether it has before the time is up."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def send(self, message: msgspec.Struct) -> None:
        """Say something, which the program may hear when it is nudged next; it is dropped if the program is gone.

        Blocks while there is no room, and the program reads nothing.

        Raises:
            EncodingError: it cannot be said.
        """
        try:
            encoded = memoryview(_encode(message))
        except Exception as error:
            raise EncodingError(message, error) from error
        while (encoded := self._outbox.put(encoded)) and self.nudge():
            time.sleep(_PAUSE)

    def nudge(self) -> bool:
        """Let the program hear what was said by now; return whether it is there."""
        try:
            os.write(self._fd, b"!")
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True


class ProgramLine(Generic[M]):
    """The program's end. It owns the outbox, and not the descriptor; never blocks.

    Args:
        decode: makes a message of what the child has encoded.
    """

    def __init__(self, fd: int, outbox: Outbox, decode: Callable[[Any], M]) -> None:
        os.set_blocking(fd, False)
        self.channel: Channel[Any, Any] = Channel(fd, msgspec.msgpack.Decoder(list[None]))  #: for what the program says
        self._fd = fd
        self._outbox = outbox
        self._decode = decode
        self.has_ended = False  #: whether the child has closed its end
        self.is_garbled = False  #: whether there was something that is no message: a step has written over the memory

    def receive(self) -> list[M]:
        """Return what the child has said since the last call."""
        try:
            self.has_ended = not os.read(self._fd, _CHUNK)
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.has_ended = True
        messages: list[M] = []
        try:
            self._outbox.take(self._decode, messages)
        except Exception:  # whatever the checks of a message raise
            self.is_garbled = True
        return messages

    def close(self) -> None:
        """Give the memory back."""
        self._outbox.close()

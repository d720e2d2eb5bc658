"""Outbox: what a child has to say, in memory that it shares with its program and that outlives it.

A message through a pipe costs a system call, and wakes the program up, which costs more than most messages are worth.
One in here is there for the program as soon as it is written, whatever becomes of the child; the program has to look.

The memory has two halves, which the child fills in turn. It goes to the other one if the program has read that::

    length of a piece + 1 (4 bytes) | piece | length of the next + 1 | … | 0, or ``_TURN``: see the other half

A message is one piece, or several if it is large; all but the last have ``_MORE`` in their length. A length is written
after its piece, and so says that all of it is there: on x86, what a process writes is seen by another in the order in
which it was written. Elsewhere a system call is between the two more often than not, and the program checks what it
reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fuseline.processes.shared import SharedMemory

__all__ = ["Outbox"]

M = TypeVar("M")

#: Bytes of a word; every piece begins at a multiple of it. A word is read and written at once.
_WORD = 4
#: Words of a half, which a child that is quick fills in some milliseconds.
_HALF = 64 * 1024
#: Bytes of the longest piece: with its length and a word after it, it fills a half.
_LONGEST = (_HALF - 2) * _WORD
_TURN = 0xFFFF_FFFF
_MORE = 0x8000_0000
#: The word in which the program says how many halves it is done with.
_DONE = 2 * _HALF
_SIZE = (2 * _HALF + 1) * _WORD


class Outbox(SharedMemory):
    """Shared by a program, which takes, and one child, which puts. Pickle it while the child is being started."""

    name, size = "fuseline-outbox", _SIZE

    def __init__(self, fd: int | None = None) -> None:
        super().__init__(fd)
        self._memory = self._map()
        self._bytes = memoryview(self._memory)
        self._words = self._bytes.cast("I")
        self._at = 0  #: the word where the next message begins
        self._end = _HALF  #: the word after the half that this process is in
        self._turns = 0  #: how often this process has gone on to the other half
        self._unfinished = bytearray()  #: what has come of a message by now, if it has several pieces

    def close(self) -> None:
        """Give the memory back."""
        self.close_fd()
        self._words.release()
        self._bytes.release()
        self._memory.close()

    def put(self, message: memoryview) -> memoryview:
        """Put a message in, in the child, or as much of it as there is room for; return what is left of it."""
        while len(message) > _LONGEST:
            if not self._put(message[:_LONGEST], _MORE):
                return message
            message = message[_LONGEST:]
        return message[len(message) :] if self._put(message, 0) else message

    def _put(self, piece: memoryview, more: int) -> bool:
        """Put a piece in; return whether there was room for it."""
        size = len(piece)
        needed = 1 + -(-size // _WORD)
        if self._at + needed >= self._end and not self._turn():
            return False
        at, words = self._at, self._words
        begin = (at + 1) * _WORD
        self._bytes[begin : begin + size] = piece
        self._at = after = at + needed
        words[after] = 0
        words[at] = size + 1 | more
        return True

    def _turn(self) -> bool:
        """Go to the other half, if that is free."""
        if self._words[_DONE] < self._turns:
            return False
        begin = self._go_on()
        self._words[begin] = 0
        self._words[self._at] = _TURN
        self._at = begin
        return True

    def _go_on(self) -> int:
        """Take note of being in the other half, and return the word where that begins."""
        self._turns += 1
        self._end = 2 * _HALF if self._turns % 2 else _HALF
        return self._end - _HALF

    def take(self, decode: Callable[[memoryview], M], into: list[M]) -> None:
        """Take the messages out, in the program, that have come since the last call.

        Args:
            decode: is given the bytes of a message, which may be written over when it has returned.
            into: where to add them.

        Raises:
            ValueError: somebody has written over them; those before are added.
        """
        words, memory = self._words, self._bytes
        while length := words[self._at]:
            at = self._at
            if length == _TURN and at % _HALF:  # there is something in each half
                self._at = self._go_on()
                words[_DONE] = self._turns
                continue
            size = (length & ~_MORE) - 1
            begin = (at + 1) * _WORD
            after = at + 1 + -(-size // _WORD)
            if size < 0 or after >= self._end:
                raise ValueError(f"a piece of {size} bytes at {begin} is none")
            piece = memory[begin : begin + size]
            self._at = after
            if length & _MORE:
                self._unfinished += piece
            elif self._unfinished:
                self._unfinished += piece
                whole, self._unfinished = self._unfinished, bytearray()
                into.append(decode(memoryview(whole)))
            else:
                into.append(decode(piece))

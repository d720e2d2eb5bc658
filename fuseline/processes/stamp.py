"""A few numbers in memory that a child and its program share: what it has picked up, when, and how far that is.

The alternative, a message per start, would cost a system call and a wake-up for every step. The monotonic clock is one
for all processes of a machine, so the child's readings can be compared with ours.
"""

from __future__ import annotations

import mmap
import struct
import time
from typing import NamedTuple

from fuseline.processes.shared import SharedMemory

__all__ = ["Stamp", "StampReading"]

_LAYOUT = struct.Struct("=QddB")
_pack_into = _LAYOUT.pack_into
_PHASE = _LAYOUT.size - 1  #: where in it the phase is


class StampReading(NamedTuple):
    """What a child has stamped last."""

    token: int  #: the assignment; 0 if it has never picked one up
    picked_up: float  #: monotonic seconds
    started: float  #: monotonic seconds; 0.0 while the code of its workflow is still being loaded
    phase: int  #: 0 when it was picked up, 1 when it has started, then what the child says


class Stamp(SharedMemory):
    """Shared by a program and one child. Pickle it while the child is being started, and at no other time."""

    name, size = "fuseline-stamp", _LAYOUT.size

    def __init__(self, fd: int | None = None) -> None:
        super().__init__(fd)
        self._memory: mmap.mmap | bytearray = self._map()
        self._picked_up = 0.0

    def close(self) -> None:
        """Give the memory back."""
        self.close_fd()
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()

    def pick_up(self, token: int) -> None:
        """Say, in the child, that the assignment was read and its code may have to be loaded."""
        self._picked_up = now = time.monotonic()
        _pack_into(self._memory, 0, token, now, 0.0, 0)

    def start(self, token: int) -> None:
        """Say, in the child, that the attempt starts now."""
        _pack_into(self._memory, 0, token, self._picked_up, time.monotonic(), 1)

    def enter(self, phase: int) -> None:
        """Say, in the child, that the attempt is in a later phase."""
        self._memory[_PHASE] = phase

    def part(self) -> None:
        """Share no more, in a fork of the child: what it stamps is its own affair."""
        self._memory = bytearray(_LAYOUT.size)

    def read(self) -> StampReading:
        """Return what the child has stamped last."""
        return StampReading(*_LAYOUT.unpack(self._memory[:]))

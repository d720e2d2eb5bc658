"""Tickets: who begins a queued assignment, the child it was sent to or the program that wants it back.

A child gets its next assignment while it is busy with another, so that it never waits for one. If that other one turns
out long, the program takes the next one back and gives it to an idle child; and it cannot ask, because a child in a
long C call does not answer. So with each assignment goes a ticket, its token, through a pipe that both can read: the
child takes the ticket before it begins, the program takes it to have the assignment back. The kernel gives each ticket
to one of them only, whatever dies when.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any

from fuseline.processes.inherited import InheritedFd

__all__ = ["Tickets"]

_TOKEN = struct.Struct("=Q")


class Tickets:
    """The pipe of one child. Pickle it while the child is being started, and at no other time."""

    def __init__(self, read_fd: int | None = None) -> None:
        self._write_fd = -1
        if read_fd is None:
            read_fd, self._write_fd = os.pipe()
            os.set_blocking(read_fd, False)  # for both who read: they share what is open there
        self._read_fd = read_fd
        self._taken: int | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (InheritedFd(self._read_fd),)

    def issue(self, tokens: Sequence[int]) -> None:
        """Let the child begin these assignments, in this order. Call it before the assignments are sent."""
        os.write(self._write_fd, struct.pack(f"={len(tokens)}Q", *tokens))  # few wait in a child: it is never full

    def take_back(self, count: int) -> list[int]:
        """Return the tokens of assignments that the child will not begin now, oldest first, ``count`` at most."""
        try:
            tickets = os.read(self._read_fd, _TOKEN.size * count)
        except BlockingIOError:
            return []
        return [token for (token,) in _TOKEN.iter_unpack(tickets)]

    def redeem(self, token: int) -> bool:
        """Return, in the child, whether it may begin an assignment; if not, it was taken back.

        Assignments are asked for in the order in which they were sent.
        """
        if self._taken is None:
            try:
                ticket = os.read(self._read_fd, _TOKEN.size)
            except BlockingIOError:
                return False
            if not ticket:  # the program is gone
                return False
            (self._taken,) = _TOKEN.unpack(ticket)
        if self._taken != token:
            return False
        self._taken = None
        return True

    def close(self) -> None:
        """Close the pipe."""
        for fd in (self._read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)
        self._read_fd = self._write_fd = -1


def _attach(inherited: InheritedFd) -> Tickets:
    return Tickets(inherited.fd)

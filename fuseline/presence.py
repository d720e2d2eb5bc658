"""Proof that a program is gone, with all its processes that may still run a step.

Each program that works for a broker process has a file of its own, and each of its processes that could run a step,
or must first end those that do, holds a shared lock on it: the program, its children, its guardian. The kernel lets go
of a lock when the process that has it ends, however it does. So whoever gets the exclusive lock knows that all of them
are gone, and that the next attempt of what they ran cannot overlap with the one before.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Presence", "is_gone"]


class Presence:
    """Shows that this process is there, until ``leave`` or its end.

    Args:
        path: the program's file; made if there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = _hold(path)
        while _hold_was_lost(path, self._fd):  # to somebody who found nobody, just before we had the lock
            os.close(self._fd)
            self._fd = _hold(path)
        _here.add(self)

    def leave(self) -> None:
        """Be there no more. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _hold(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def _hold_was_lost(path: Path, fd: int) -> bool:
    """Return whether the file was removed whose lock this is."""
    try:
        return not os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return True


_here: weakref.WeakSet[Presence] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for presence in list(_here):  # a fork, a daemon perhaps, may outlive the process that counts
        presence.leave()


os.register_at_fork(after_in_child=_after_fork_in_child)


def is_gone(path: Path) -> bool:
    """Return whether no process shows itself in this file; if so, the file is removed."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:  # no descriptor left, say: then nobody knows
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(fd)

"""Descriptors that a child has from its beginning."""

from __future__ import annotations

from typing import Any

__all__ = ["InheritedFd"]


class InheritedFd:
    """A descriptor that has the same number in a program and its child. Pickle it while the child is being started."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        from multiprocessing.context import get_spawning_popen

        popen = get_spawning_popen()
        if popen is None:
            raise TypeError("a descriptor goes to a child when that is started, and at no other time")
        popen.duplicate_for_child(self.fd)
        return InheritedFd, (self.fd,)

"""Memory that a program shares with its children."""

from __future__ import annotations

import mmap
import os
import sys
from typing import Any, ClassVar

from fuseline.processes.inherited import InheritedFd

__all__ = ["SharedMemory"]


class SharedMemory:
    """Memory of a program and one child. Pickle it while the child is being started, and at no other time.

    Raises:
        OSError: there is no descriptor, or no room, left.
    """

    name: ClassVar[str]
    size: ClassVar[int]  #: in bytes

    def __init__(self, fd: int | None = None) -> None:
        self._fd = _anonymous_file(self.name, self.size) if fd is None else fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (type(self), InheritedFd(self._fd))

    def _map(self) -> mmap.mmap:
        if sys.version_info >= (3, 13):
            return mmap.mmap(self._fd, self.size, trackfd=False)
        return mmap.mmap(self._fd, self.size)  # which keeps a descriptor of its own

    def close_fd(self) -> None:
        """Close the descriptor; the memory stays. Call it when the child has been started."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _attach(kind: type[SharedMemory], inherited: InheritedFd) -> SharedMemory:
    """Map the memory in a child, and leave no descriptor of it: a step may write to all that it finds."""
    own = os.dup(inherited.fd)
    os.close(own)  # the least that is free, so this is what the map gets; nothing else runs here yet
    memory = kind(inherited.fd)
    try:
        has_kept_one = os.path.samestat(os.fstat(own), os.fstat(inherited.fd))
    except OSError:
        has_kept_one = False
    if has_kept_one:  # it is the map's to close
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, own, inheritable=False)
        os.close(null)
    memory.close_fd()
    return memory


def _anonymous_file(name: str, size: int) -> int:
    """Return the descriptor of a file of zeros that has no name; it is in memory if it can be."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(name)
    else:  # macOS
        import tempfile  # imported late: it imports a lot

        fd, path = tempfile.mkstemp(prefix=f"{name}-")
        os.unlink(path)
    os.ftruncate(fd, size)
    return fd

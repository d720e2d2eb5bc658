"""Memory that a program shares with its children."""

from __future__ import annotations

import os

__all__ = ["anonymous_file"]


def anonymous_file(name: str, size: int) -> int:
    """Return the descriptor of a file of ``size`` zeros that has no name, to be mapped; it is in memory if it can be.

    Raises:
        OSError: there is no descriptor, or no room, left.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(name)
    else:  # macOS
        import tempfile  # imported late: it imports ``random``, whose seed then costs time for each step

        fd, path = tempfile.mkstemp(prefix=f"{name}-")
        os.unlink(path)
    os.ftruncate(fd, size)
    return fd

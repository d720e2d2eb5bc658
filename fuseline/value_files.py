"""Value files: what is too large to travel, written once and mapped into memory by everybody who needs it.

::

    magic (8 bytes) | number of parts (8) | length of each part (8) … | part, at a multiple of 64 bytes | …

The first part is a pickle, the others are its buffers: the memory of arrays, say, which pickle protocol 5 leaves out of
the pickle. Who loads the value gets objects on top of the mapped file, without a copy. They are read-only, and then all
readers in a process share one mapping; or they can be changed and nobody else sees it, because the kernel copies the
pages that are written to, and only those.
"""

from __future__ import annotations

import mmap
import os
import struct
import weakref
from collections.abc import Iterator, Sequence
from functools import cache
from typing import IO, Any

__all__ = ["SharedMaps", "map_read_only", "map_value", "write_value"]

_MAGIC = b"FLVALUE\x01"
_HEAD = struct.Struct("=8sQ")
_LENGTH = struct.Struct("=Q")
#: What the beginning of each part is a multiple of: what the vector units of processors like best.
_ALIGNED = 64
#: For ``madvise``: map all of it now, and not with a fault for each page. Linux 5.14; elsewhere that is an error.
_MADV_POPULATE_READ = 22
#: Files that ``SharedMaps`` keeps.
_MOST_KEPT = 8


def write_value(file: IO[bytes], parts: Sequence[bytes | memoryview]) -> None:
    """Write a pickle and its buffers into a file that is empty.

    Raises:
        OSError: it cannot be written.
    """
    head = _HEAD.pack(_MAGIC, len(parts)) + b"".join(_LENGTH.pack(len(part)) for part in parts)
    file.write(head)
    end = len(head)
    for part in parts:
        file.write(bytes(-end % _ALIGNED))
        file.write(part)
        end += -end % _ALIGNED + len(part)


def map_value(path: str) -> list[memoryview]:
    """Return the pickle and its buffers, as memory of which a change copies what is changed.

    Raises:
        OSError: the file cannot be read.
    """
    return _parts(_map(path, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))


def map_read_only(path: str) -> list[memoryview]:
    """Return the pickle and its buffers, read-only.

    Raises:
        OSError: the file cannot be read.
    """
    return [part.toreadonly() for part in _parts(_map(path, mmap.MAP_SHARED, mmap.PROT_READ))]


class SharedMaps:
    """Files that this process has mapped read-only, and keeps mapped for a while for who reads them next."""

    def __init__(self) -> None:
        self._kept: dict[str, list[memoryview]] = {}  #: the one that was used last comes last

    def __bool__(self) -> bool:
        return bool(self._kept)

    def map(self, path: str) -> list[memoryview]:
        """Return the pickle and its buffers, read-only.

        Raises:
            OSError: the file cannot be read.
        """
        parts = self._kept.pop(path, None) or map_read_only(path)
        self._kept[path] = parts
        if len(self._kept) > _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return parts

    def drop_unneeded(self) -> None:
        """Keep no file that was removed: nobody needs it any more, and its memory is to be free."""
        for path in list(self._kept):
            if not os.path.exists(path):
                del self._kept[path]

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()


def _map(path: str, flags: int, protection: int) -> memoryview:
    """Map a file. No descriptor stays open, as it would with ``mmap.mmap``: a step may keep a thousand arrays."""
    import ctypes  # imported late: few programs have large values

    libc = _libc()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not (size := os.fstat(fd).st_size):
            raise OSError(f"{path} is empty")
        address = libc.mmap(None, size, protection, flags, fd, 0)
        if address == ctypes.c_void_p(-1).value:  # MAP_FAILED
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    finally:
        os.close(fd)
    libc.madvise(address, size, _MADV_POPULATE_READ)
    memory = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(memory, libc.munmap, address, size).atexit = False  # objects may be in use until the very end
    return memoryview(memory).cast("B")


@cache
def _libc() -> Any:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


def _parts(view: memoryview) -> list[memoryview]:
    if view[: len(_MAGIC)] != _MAGIC:
        return [view]  # nothing but the pickle, as it was written once
    return list(_cut(view))


def _cut(view: memoryview) -> Iterator[memoryview]:
    _, count = _HEAD.unpack_from(view)
    end = _HEAD.size + count * _LENGTH.size
    for number in range(count):
        (length,) = _LENGTH.unpack_from(view, _HEAD.size + number * _LENGTH.size)
        begin = end + -end % _ALIGNED
        end = begin + length
        yield view[begin:end]

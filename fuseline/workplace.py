"""What a broker process asks of those who run steps for it: to show that they are alive, and to keep large values in
files.

A value above ``LARGE`` is written once, by whoever has made it, and only its path travels: neither the pipes nor the
store ever hold it. It gets its final name when it is complete, so that a path which was told is one that can be read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fuseline.errors import StoreError
from fuseline.value_files import write_value
from fuseline.values import Value

__all__ = ["LARGE", "UNFINISHED", "Workplace"]

#: Bytes; a larger value goes to a file. SQLite reads and writes smaller ones faster than a file system does.
#: Source: "35% Faster Than The Filesystem", sqlite.org/fasterthanfs.html, whose gain fades towards 100 kB.
LARGE = 32 * 1024
#: How the names of files begin that are not complete.
UNFINISHED = ".unfinished-"


class Workplace(msgspec.Struct, frozen=True):
    """Where a broker process wants its workers to be."""

    presence: Path | None = None  #: the file of this program (``fuseline.presence``); None if nobody needs to know
    #: The folder of large values, which is made with the first if there is no presence; None if they travel like all.
    values: Path | None = None
    overflow: Path | None = None  #: where large values go if there is no room for one in ``values``
    spools: Path | None = None  #: the folder where reports are written first (``fuseline.spool``)
    syncs: bool = False  #: whether a value must survive a power cut before anybody hears of it

    def keep(self, value: Value, what: str) -> Value:
        """Return a value, or if it is large one that names the file where it is now.

        Args:
            what: how an error calls it.

        Raises:
            StoreError: the file cannot be written.
        """
        if self.values is None or len(value.data) <= LARGE:
            return value
        return self.put([value.data], what)

    def put(self, parts: Sequence[bytes | memoryview], what: str) -> Value:
        """Write a pickle and its buffers to a file, and return the value that names it.

        Args:
            what: how an error calls it.

        Raises:
            StoreError: the file cannot be written.
        """
        assert self.values is not None, "there is no folder for values"
        try:
            return Value(file=self._write(parts, self.values))
        except OSError as error:
            problem, folder = error, self.values
        if self.overflow is not None:
            try:
                return Value(file=self._write(parts, self.overflow))
            except OSError as error:
                problem, folder = error, self.overflow
        size = sum(map(len, parts))
        raise StoreError(
            f"cannot keep {what} ({size:,} bytes) in {folder}: {problem.strerror}. Make room there."
        ) from problem

    def _write(self, parts: Sequence[bytes | memoryview], folder: Path) -> str:
        """Write a file into a folder, and return its path."""
        if self.presence is None:  # nobody has made the folder before
            with contextlib.suppress(OSError):
                folder.mkdir(0o700, exist_ok=True)
        path = folder / os.urandom(16).hex()
        unfinished = path.with_name(UNFINISHED + path.name)
        try:
            with open(unfinished, "xb") as file:
                write_value(file, parts)
                file.flush()
                if self.syncs:
                    sync(file.fileno())
            os.replace(unfinished, path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise
        if self.syncs:
            sync_folder(folder)
        return str(path)


def sync(fd: int) -> None:
    """Make sure that a file survives a power cut."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync there leaves it to the disk when to write
    else:
        os.fsync(fd)


def sync_folder(path: Path) -> None:
    """Make sure that names in a folder survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

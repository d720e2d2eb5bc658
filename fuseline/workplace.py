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
import uuid
from pathlib import Path

import msgspec

from fuseline.errors import StoreError
from fuseline.values import Value

__all__ = ["LARGE", "UNFINISHED", "Workplace"]

#: Bytes; a larger value goes to a file. SQLite reads and writes smaller ones faster than a file system does.
#: Source: "35% Faster Than The Filesystem", sqlite.org/fasterthanfs.html, whose gain fades towards 100 kB.
LARGE = 32 * 1024
#: How the names of files begin that are not complete.
UNFINISHED = ".unfinished-"


class Workplace(msgspec.Struct, frozen=True):
    """Where a broker process wants its workers to be."""

    presence: Path  #: the file of this program (``fuseline.presence``)
    values: Path | None = None  #: the folder of large values; None if they travel like all others
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
        path = self.values / uuid.uuid4().hex
        unfinished = path.with_name(UNFINISHED + path.name)
        try:
            with open(unfinished, "xb") as file:
                file.write(value.data)
                file.flush()
                if self.syncs:
                    sync(file.fileno())
            os.replace(unfinished, path)
            if self.syncs:
                sync_folder(self.values)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise StoreError(
                f"cannot keep {what} ({len(value.data):,} bytes) in {self.values}: {error.strerror}. Make room there."
            ) from error
        return Value(file=str(path))


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

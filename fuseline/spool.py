"""Spool: the reports of a process, in a file that outlives it.

A report is on its way for a moment: through a pipe to the engine, through a socket to the broker. If the program is
killed in that moment, the step has finished and nobody knows. So it is written here first. The broker reads the spools
of a program when that is gone with all its processes, and what they say counts like what it was told.

::

    length of body (4 bytes) | its CRC-32 (4) | body: a report in msgpack

It is not synced: after a power cut, such a step starts again, unless all of its report happens to be there.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from fuseline.messages import AttemptReport

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Spool", "read_spools", "remove_dead_spools", "remove_spools"]

#: Bytes after which a file is put aside and another one begun. Two files have more reports than can be on their way.
_ENOUGH = 4 << 20

_HEAD = struct.Struct("=II")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(AttemptReport).decode


class Spool:
    """Where this process writes reports.

    Args:
        folder: of the spools of all programs.
        program: the name of this one.
    """

    def __init__(self, folder: Path, program: str) -> None:
        self._pid = os.getpid()
        # A number may be that of a process before us, and there may be others in this one.
        self._path = folder / f"{program}.{self._pid}-{time.monotonic_ns()}"
        self._lock = threading.Lock()
        self._fd = -1
        self._end = 0  #: where the next report goes
        self._is_closed = False
        with contextlib.suppress(OSError):
            self._open()  # now, and not in the middle of an attempt, which could be thought to have left it open

    def add(self, report: AttemptReport) -> None:
        """Write a report. Where that fails, the step starts again if nobody hears of it: no reason to fail now."""
        if os.getpid() != self._pid:
            return  # the step has forked, and both return: the value of the first process counts
        with self._lock, contextlib.suppress(Exception):
            if self._is_closed:
                return
            if self._fd < 0:
                self._open()
            encoded = _encode(report)
            record = _HEAD.pack(len(encoded), zlib.crc32(encoded)) + encoded
            if os.pwrite(self._fd, record, self._end) < len(record):  # the next one goes over what is there of it
                return
            self._end += len(record)
            if self._end > _ENOUGH:
                os.replace(self._path, _put_aside(self._path))
                self._shut()
                self._open()

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Write no more. What was written stays until its program has left the broker. May be called twice."""
        with self._lock:
            self._is_closed = True
            self._shut()

    def _shut(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._end = 0


def read_spools(folder: Path, program: str) -> Iterator[AttemptReport]:
    """Yield the reports that the processes of a program have written, those of each in their order."""
    for path in sorted(folder.glob(f"{program}.*"), reverse=True):  # what was put aside comes first
        data = memoryview(path.read_bytes())
        begin = 0
        while begin + _HEAD.size < len(data):
            length, check = _HEAD.unpack_from(data, begin)
            body = data[begin + _HEAD.size :][:length]
            if not length or zlib.crc32(body) != check:
                break  # of the last one, only a part may be there
            try:
                report = _decode(body)
            except msgspec.DecodeError:  # of another version of us
                break
            yield report
            begin += _HEAD.size + length


def remove_dead_spools(folder: Path, program: str) -> None:
    """Remove what processes of a program have written that have ended. All of it must have been heard."""
    for path in folder.glob(f"{program}.*"):
        try:
            os.kill(int(path.name.rpartition(".")[2].partition("-")[0]), 0)
        except (ProcessLookupError, PermissionError):  # gone; its number may be that of somebody else's process now
            path.unlink(missing_ok=True)


def remove_spools(folder: Path, program: str) -> None:
    """Remove what the processes of a program have written."""
    for path in folder.glob(f"{program}.*"):
        path.unlink(missing_ok=True)


def _put_aside(path: Path) -> Path:
    return path.with_name(path.name + "~")

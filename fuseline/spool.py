"""Spool: the reports of a process, in a file that outlives it.

A report is on its way for a moment: through a pipe to the engine, through a socket to the broker. If the program is
killed in that moment, the step has finished and nobody knows. So it is written here first. The broker reads the spools
of a program when that is gone with all its processes, and what they say counts like what it was told.

It is not synced: after a power cut, such a step starts again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from fuseline.channel import Channel, Incoming, ProtocolError, incoming
from fuseline.messages import AttemptReport

__all__ = ["Spool", "read_spools", "remove_dead_spools", "remove_spools"]

#: Bytes after which a file is put aside and another one begun. Two files have more reports than can be on their way.
_ENOUGH = 1 << 20

_REPORTS: Incoming[AttemptReport] = incoming(AttemptReport)


class Spool:
    """Where this process writes reports.

    Args:
        folder: of the spools of all programs.
        program: the name of this one.
    """

    def __init__(self, folder: Path, program: str) -> None:
        self._pid = os.getpid()
        self._path = folder / f"{program}.{self._pid}"
        self._lock = threading.Lock()
        self._fd = -1
        self._channel: Channel[AttemptReport, AttemptReport] | None = None

    def add(self, report: AttemptReport) -> None:
        """Write a report. Where that fails, the step starts again if nobody hears of it: no reason to fail now."""
        if os.getpid() != self._pid:
            return  # the step has forked, and both return: the value of the first process counts
        with self._lock, contextlib.suppress(Exception):
            if self._channel is None:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                self._channel = Channel(self._fd, _REPORTS)
            self._channel.send(report)
            if os.lseek(self._fd, 0, os.SEEK_CUR) > _ENOUGH:
                os.replace(self._path, _put_aside(self._path))
                self._shut()

    def close(self) -> None:
        """Write no more. What was written stays until its program has left the broker. May be called twice."""
        with self._lock:
            self._shut()

    def _shut(self) -> None:
        if self._channel is not None:
            os.close(self._fd)
            self._channel = None


def read_spools(folder: Path, program: str) -> Iterator[AttemptReport]:
    """Yield the reports that the processes of a program have written, those of each in their order."""
    for path in sorted(folder.glob(f"{program}.*"), reverse=True):  # what was put aside comes first
        with open(path, "rb") as file, contextlib.suppress(ProtocolError):  # of the last one, only half may be there
            channel: Channel[AttemptReport, AttemptReport] = Channel(file.fileno(), _REPORTS)
            while not channel.has_ended:
                yield from channel.receive()


def remove_dead_spools(folder: Path, program: str) -> None:
    """Remove what processes of a program have written that have ended. All of it must have been heard."""
    for path in folder.glob(f"{program}.*"):
        try:
            os.kill(int(path.name.rpartition(".")[2].rstrip("~")), 0)
        except (ProcessLookupError, PermissionError):  # gone; its number may be that of somebody else's process now
            path.unlink(missing_ok=True)


def remove_spools(folder: Path, program: str) -> None:
    """Remove what the processes of a program have written."""
    for path in folder.glob(f"{program}.*"):
        path.unlink(missing_ok=True)


def _put_aside(path: Path) -> Path:
    return path.with_name(path.name + "~")

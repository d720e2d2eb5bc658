"""Journal: what steps and programs have seen, a line each, in one file that all of them append to."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

__all__ = ["Line", "read_journal", "write_line"]


class Line(NamedTuple):
    """Something that has happened.

    ``start``, ``end``, ``met`` (another attempt of it runs at the same time) and ``wrong`` are of attempts; ``engine``
    and ``left`` (its work has ended) are of engine programs; ``acked``, ``refused``, ``asked`` (in vain) and
    ``settled`` are of the one that dispatches.
    """

    at: float  #: monotonic seconds
    kind: str
    pid: int
    run: str = "-"
    step: str = "-"
    attempt: int = 0  #: counted from 1
    text: str = ""


def write_line(folder: Path, line: Line) -> None:
    """Append a line, in one write: no other can come between, and it outlives this process."""
    fd = os.open(folder / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fields = [f"{line.at:.6f}", *map(str, line[1:-1]), line.text.replace("\n", " ").replace("\t", " ")]
        os.write(fd, ("\t".join(fields) + "\n").encode())
    finally:
        os.close(fd)


def note(folder: Path, kind: str, run: str = "-", step: str = "-", attempt: int = 0, text: str = "") -> None:
    """Append what happens now, in this process."""
    write_line(folder, Line(time.monotonic(), kind, os.getpid(), run, step, attempt, text))


def read_journal(folder: Path) -> list[Line]:
    """Return all lines, in their order."""
    path = folder / "journal"
    found = []
    for text in path.read_text().splitlines() if path.exists() else ():
        at, kind, pid, run, step, attempt, rest = text.split("\t")
        found.append(Line(float(at), kind, int(pid), run, step, int(attempt), rest))
    return found

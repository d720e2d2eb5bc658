"""Leftovers: what is still there of programs when all of them have ended."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil

from .check import Violation
from .processes import describe, find_marked
from .steps import FOLDER

__all__ = ["age", "end_all", "find_leftovers", "shared_memory"]

#: Seconds in which processes must be gone that end by themselves: a net against deadlock.
_LEAVING = 20.0
#: Seconds between two looks.
_LOOK = 0.05
_TWO_DAYS = 2 * 86400.0


def shared_memory() -> set[str]:
    """Return the names of shared memory and semaphores of this user."""
    found = set()
    with suppress(FileNotFoundError):
        for entry in os.scandir("/dev/shm"):
            with suppress(FileNotFoundError):
                if entry.stat().st_uid == os.getuid():
                    found.add(entry.name)
    return found


def age(folder: Path) -> None:
    """Make all files seem old: what is kept for a while, lest its writer still comes back, need not be kept now."""
    old = time.time() - _TWO_DAYS
    for place in (folder / "tmp", folder / "runs.db.files" / "values"):
        for path in place.rglob("*"):
            with suppress(OSError):
                os.utime(path, (old, old), follow_symlinks=False)


def find_leftovers(folder: Path, pids: set[int], memory: set[str], patience: float = _LEAVING) -> Iterator[Violation]:
    """Yield what is left of all programs.

    Args:
        pids: all processes that were seen; names in shared memory tell whose they are.
        memory: what was in shared memory before.
        patience: seconds in which processes may end by themselves.
    """
    for process in wait_gone(folder, patience):
        yield Violation("left over", f"process {process.pid}", describe(process))
    for name in sorted(shared_memory() - memory):
        if pids.intersection(
            map(int, re.findall(r"\d+", name))
        ):  # all others are of programs that have nothing to do with us
            yield Violation("left over", f"/dev/shm/{name}", "shared memory")
    files = folder / "runs.db.files"
    for place in (files / "presence", files / "spools", folder / "tmp"):
        for path in sorted(place.rglob("*")):
            is_own_folder = path.name == f"fuseline-{os.getuid()}"  # of sockets; it is made once
            if not is_own_folder:
                yield Violation("left over", str(path.relative_to(folder)), f"{path.lstat().st_size} bytes")
    for path in _values_of_nobody(folder):
        yield Violation("left over", str(path.relative_to(folder)), "no run refers to this value")


def _values_of_nobody(folder: Path) -> list[Path]:
    """Return the files of values that the store does not know, those that are not complete among them."""
    known = set()
    if (store := folder / "runs.db").exists():
        with closing(sqlite3.connect(store)) as db:
            known = {name for (name,) in db.execute("SELECT name FROM files")}
    return sorted(path for path in (folder / "runs.db.files" / "values").glob("*") if path.name not in known)


def wait_gone(folder: Path, patience: float = _LEAVING) -> list[psutil.Process]:
    """Wait until no process of ours is there, for so many seconds, and return those that stay."""
    give_up = time.monotonic() + patience
    while (left := find_marked(FOLDER, str(folder))) and time.monotonic() < give_up:
        time.sleep(_LOOK)
    return left


def end_all(folder: Path) -> None:
    """End whatever is left, so that a failure here troubles nobody else."""
    for process in find_marked(FOLDER, str(folder)):
        with suppress(psutil.Error):
            process.kill()

"""Vault: where the large values of a broker in this program are, in memory if it can be.

::

    /dev/shm/fuseline-UID/SPACE-PID-START-NAME/    the values of one broker
    /tmp/fuseline-UID/SPACE-PID-START-NAME/        those for which there was no room

In the name of its folder are its program, when that has started, the name space of such numbers, and a name of its own.
A folder is made with the first value in it. One whose program was killed is removed by the next program of its user.
"""

from __future__ import annotations

import contextlib
import os
import stat
import weakref
from pathlib import Path

from fuseline.errors import StoreError
from fuseline.workplace import Workplace

__all__ = ["Vault"]

_SHARED_MEMORY = Path("/dev/shm")


class Vault:
    """The values of a broker, until ``close``, the end of this object or that of the program.

    Raises:
        StoreError: there is no folder for it.
    """

    def __init__(self) -> None:
        name = f"{_space()}-{os.getpid()}-{_start(os.getpid())}-{os.urandom(16).hex()}"
        parents = [parent for parent in (_SHARED_MEMORY, _temporary_folder()) if os.access(parent, os.W_OK)]
        folders = [_base(parent) / name for parent in parents]
        for folder in folders:
            _sweep(folder.parent)
        values, overflow = (*folders, None, None)[:2]
        self.workplace = Workplace(values=values, overflow=overflow)
        self._end = weakref.finalize(self, _remove, folders, os.getpid())

    def drop(self, file: str) -> None:
        """Remove a value that nobody needs any more. Who has it in his memory keeps it."""
        with contextlib.suppress(OSError):
            os.unlink(file)

    def close(self) -> None:
        """Remove all values. May be called twice."""
        self._end()


def _remove(folders: list[Path], pid: int) -> None:
    if os.getpid() == pid:  # not in a fork
        for folder in folders:
            if folder.exists():
                _remove_tree(folder)


def _remove_tree(folder: Path) -> None:
    import shutil  # imported late, as few programs have large values

    shutil.rmtree(folder, ignore_errors=True)


def _temporary_folder() -> Path:
    import tempfile  # imported late: it imports a lot

    return Path(tempfile.gettempdir())


def _space() -> str:
    """Return a name for the processes that can see each other: those of another container may have the same numbers."""
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "0"


def _start(pid: int) -> str:
    """Return when a process has started, in a form that stays the same; empty if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Ticks since the machine has started: the clock on the wall may be moved.
            return file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        if os.path.exists("/proc/self/stat"):
            return ""
    import psutil  # imported late: it takes a moment

    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""


def _base(parent: Path) -> Path:
    """Return the folder of all programs of this user."""
    base = parent / f"fuseline-{os.getuid()}"
    try:
        base.mkdir(0o700, exist_ok=True)
        found = base.lstat()
    except OSError as error:
        raise StoreError(f"no folder for values can be made at {base}: {error.strerror}.") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StoreError(f"{base} should be a folder of yours that nobody else can enter. Remove it.")
    return base


def _sweep(base: Path) -> None:
    """Remove what programs have left that are gone."""
    space = _space()
    for path in list(base.iterdir()):
        whose, pid, start, *_ = [*path.name.split("-"), "", ""]
        if whose == space and pid.isdecimal() and _start(int(pid)) != start:
            _remove_tree(path)

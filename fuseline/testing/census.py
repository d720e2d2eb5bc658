"""Census: what a program holds, so that a test can tell what was left over."""

from __future__ import annotations

import gc
import os
import threading
import time

import psutil

__all__ = ["SETTLING", "Census"]

#: Bound for what ends by itself a moment later, such as a thread that has been told to; seconds.
SETTLING = 20.0


class Census:
    """Counts children, threads and descriptors when it is made; ``assert_nothing_left`` compares.

    The resource trackers of multiprocessing and loky, one process each per program, and their pipes are not counted:
    they end with the program.

    Args:
        semaphores: whether to count semaphores that processes share, too (Linux only).
    """

    def __init__(self, *, semaphores: bool = False) -> None:
        self._children = set(_children())
        self._threads = set(threading.enumerate())
        self._descriptors = set(_descriptors())
        self._semaphores = _semaphores() if semaphores else None

    def assert_nothing_left(self, settling: float = SETTLING) -> None:
        """Check that nothing is there that was not there before.

        Args:
            settling: seconds in which what ends by itself must have done so.

        Raises:
            AssertionError: something is left; the error lists it.
        """
        deadline, pause = time.monotonic() + settling, 0.001
        while left := self._left():
            if time.monotonic() > deadline:
                raise AssertionError(f"left over: {'; '.join(left)}")
            time.sleep(pause)
            pause = min(2 * pause, 0.05)  # a look at all processes takes milliseconds

    def _left(self) -> list[str]:
        children = [p for p in _children() if p not in self._children and p.is_running()]
        left = [f"process {p.pid} {_command(p)}" for p in children]
        left += [f"thread {t.name}" for t in threading.enumerate() if t not in self._threads]
        left += [f"descriptor {d}" for d in sorted(_descriptors() - self._descriptors)]
        if self._semaphores is not None and not _semaphores() <= self._semaphores:
            gc.collect()  # one goes when the last that refers to it does
            left += [f"semaphore {s}" for s in sorted(_semaphores() - self._semaphores)]
        return left


def _children() -> list[psutil.Process]:
    """Return the processes below this one; some may have ended since."""
    global _seen
    forks = _forks()
    if forks is None or _seen is None or _seen[0] != (os.getpid(), forks):
        found = [p for p in psutil.Process().children(recursive=True) if "resource_tracker" not in _command(p)]
        _seen = ((os.getpid(), forks), found)
    return _seen[1]


#: ((this process, processes that the machine has started), those below this one): to look at all of them takes
#: milliseconds, and if none was started since, none is new.
_seen: tuple[tuple[int, int | None], list[psutil.Process]] | None = None


def _forks() -> int | None:
    """Return how many processes the machine has started; None if it does not say."""
    try:
        with open("/proc/stat") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith("processes")), None)
    except OSError:
        return None


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return "(a zombie)"


def _descriptors() -> set[str]:
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    trackers = _tracker_pipes()
    found = set()
    for name in os.listdir(folder):
        try:
            found.add(f"{name} -> {os.readlink(f'{folder}/{name}')}" if folder.startswith("/proc") else name)
        except OSError:  # the one that listdir itself has used
            continue
    return {item for item in found if int(item.split()[0]) not in trackers}


def _semaphores() -> set[str]:
    """Return the named semaphores that this process has open; each is a mapping, removed from the disk or not."""
    try:
        with open("/proc/self/maps") as maps:
            return {line.split("/", 1)[1].split()[0] for line in maps if "/dev/shm/sem." in line}
    except FileNotFoundError:
        return set()


def _tracker_pipes() -> set[int]:
    from multiprocessing import resource_tracker

    from loky.backend import resource_tracker as loky_tracker

    fds = (resource_tracker._resource_tracker._fd, loky_tracker._resource_tracker._fd)  # type: ignore[attr-defined]
    return {fd for fd in fds if fd is not None}

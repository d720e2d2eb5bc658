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
        children = [p for p in _children() if p not in self._children]
        left = [f"process {p.pid} {_command(p)}" for p in children]
        left += [f"thread {t.name}" for t in threading.enumerate() if t not in self._threads]
        left += [f"descriptor {d}" for d in sorted(_descriptors() - self._descriptors)]
        if self._semaphores is not None and not _semaphores() <= self._semaphores:
            gc.collect()  # one goes when the last that refers to it does
            left += [f"semaphore {s}" for s in sorted(_semaphores() - self._semaphores)]
        return left


def _children() -> list[psutil.Process]:
    """Return the processes below this one."""
    if _known_of != os.getpid():
        _begin_anew()
    pids = set(psutil.pids())
    for pid in _known.keys() - pids:
        del _known[pid]
    for pid in pids - _known.keys():
        try:
            process = psutil.Process(pid)
            _known[pid] = process if any(each.pid == _known_of for each in process.parents()) else None
        except psutil.Error:  # it has just ended
            continue
    found = [process for process in _known.values() if process is not None]
    return [process for process in found if process.is_running() and "resource_tracker" not in _command(process)]


def _begin_anew() -> None:
    global _known_of
    _known_of = os.getpid()
    _known.clear()


#: {number of a process: it, if it is below this one}. To ask all processes of a machine for their parents
#: takes milliseconds, for each test; so only those are asked that are new since the last look.
_known: dict[int, psutil.Process | None] = {}
_known_of = 0  #: whose children they are: a fork has its own


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

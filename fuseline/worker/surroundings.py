"""What a step finds around it in its process, so that the next one there finds it unchanged.

A picture of the surroundings is taken before the first attempt, and again after the ``setup`` of each step, which may
change what it likes for that step. After an attempt everything is put back. What nobody can put back is a reason to end
the process: a thread, a descriptor or a process that the attempt has left. Who else uses that, nobody can tell.

Seen is what Python code changes by the usual means. C code that changes the handler of a signal is not, nor anything
that C code alone has changed in an attempt of less than 0.1 ms.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # ``signal`` makes an enum of each handler: ten times slower
import _thread
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from fuseline.worker.changes import Changes

__all__ = ["LONG", "Resources", "Surroundings", "find_lowest_free"]

#: Signals that can have a handler.
_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
#: As they are before ``Changes.watch`` has a note taken of each call.
_chdir, _dup2, _umask = os.chdir, os.dup2, os.umask
_set_handler, _set_mask, _set_timer = _signal.signal, _signal.pthread_sigmask, _signal.setitimer
#: Seconds in which threads may end that an attempt has told to, without waiting for them.
_PARTING = 0.1
#: Seconds of an attempt that may have done more than can be noted: started a process, say, or called much C code.
LONG = 0.0001


class Surroundings:
    """A picture of the process as it is when this is made.

    Args:
        standard: duplicates of the descriptors 0, 1 and 2, which belong to whoever has made them.
    """

    def __init__(self, standard: tuple[int, int, int]) -> None:
        self._standard = standard
        self._cwd = _cwd()
        self._umask = _umask(0o077)
        _umask(self._umask)
        self._environ = dict(_environ())
        Changes.watch()
        self._handlers = list(map(_signal.getsignal, _SIGNALS))
        self._mask = _set_mask(signal.SIG_BLOCK, ())
        self._path = sys.path
        self._paths = list(sys.path)
        self._streams: list[Any] = [sys.stdin, sys.stdout, sys.stderr]
        self._limits = _limits()

    def restore(self, *, thoroughly: bool = True) -> None:
        """Put back what has changed.

        Args:
            thoroughly: whether to look for what C code may have changed, too.

        Raises:
            OSError, ValueError: that cannot be.
        """
        if "resource" in sys.modules:
            self._restore_limits()  # first: the others may need a descriptor
        if thoroughly or Changes.seen:
            self._restore_process()
        if sys.path is not self._path or self._paths != self._path:
            sys.path = self._path
            sys.path[:] = self._paths
        self._restore_streams()

    def _restore_process(self) -> None:
        for fd, standard in enumerate(self._standard):
            _dup2(standard, fd)
        if self._cwd is not None and _cwd() != self._cwd:
            _chdir(self._cwd)
        _umask(self._umask)
        if _environ() != self._environ:
            self._restore_environ()
        for timer in _TIMERS:
            _set_timer(timer, 0)  # before its signal gets its old meaning back, which may be the end
        if Changes.seen:
            self._restore_handlers()
        _set_mask(signal.SIG_SETMASK, self._mask)
        Changes.seen = False

    def _restore_environ(self) -> None:
        for name in set(_environ()) - set(self._environ):
            del os.environb[name]
        for name, value in self._environ.items():
            os.environb[name] = value

    def _restore_handlers(self) -> None:
        for number, handler in zip(_SIGNALS, self._handlers, strict=True):
            if handler is not None and _signal.getsignal(number) != handler:
                _set_handler(number, handler)

    def _restore_streams(self) -> None:
        stdin, stdout, stderr = self._streams
        if getattr(stdin, "closed", False) or getattr(stdout, "closed", False) or getattr(stderr, "closed", False):
            for fd, stream in enumerate(self._streams):
                if getattr(stream, "closed", False):
                    self._streams[fd] = open(fd, "w" if fd else "r", buffering=1, closefd=False)  # noqa: SIM115
        sys.stdin, sys.stdout, sys.stderr = self._streams

    def _restore_limits(self) -> None:
        import resource

        for number, limits in _limits().items():
            before = self._limits.get(number, limits)
            # Higher ones hurt nobody, and may be what an operator has given the process since.
            if before != limits and any(_height(now) < _height(then) for now, then in zip(limits, before, strict=True)):
                resource.setrlimit(number, before)


class Resources:
    """The threads, descriptors and processes that this process has when this is made.

    Args:
        on_wait: called before ``left_over`` waits for something.
    """

    def __init__(self, on_wait: Callable[[], None]) -> None:
        self._on_wait = on_wait
        self.accept()

    def accept(self) -> None:
        """Take what is there now as given."""
        self._threads = set(threading.enumerate())
        self._thread_count = _thread._count()
        self._descriptors = _descriptors()
        self._lowest_free = find_lowest_free()
        self._processes = _processes() if _has_processes() else {}

    def left_over(self, seconds: float, lowest_free: int) -> str:
        """Say what else there is after an attempt of so many seconds, such as ``"thread 'pump' running"``.

        Args:
            lowest_free: the number that the next descriptor would get.

        Empty if nothing. Who was that quick has started no process.

        Waits a moment for threads, if there are any. Descriptors that were opened and closed in another order may be
        found only after a later attempt.
        """
        if _thread._count() > self._thread_count and (threads := self._new_threads()):
            return f"{threads} running"
        if lowest_free != self._lowest_free and (descriptors := self._new_descriptors()):
            return descriptors
        if seconds >= LONG and _has_processes() and (processes := self._new_processes()):
            return processes
        return ""

    def has_threads(self) -> bool:
        """Return whether a thread is left that the exit of the process would wait for."""
        return any(not thread.daemon for thread in set(threading.enumerate()) - self._threads)

    def _new_threads(self) -> str:
        self._on_wait()
        until = time.monotonic() + _PARTING
        for thread in self._others():
            thread.join(max(0.0, until - time.monotonic()))
        while not self._others() and _thread._count() > self._thread_count and time.monotonic() < until:
            time.sleep(0.001)  # one that the threading module does not know, or that is just about to be gone
        count = _thread._count() - self._thread_count
        if others := self._others():
            return _listed([f"thread {thread.name!r}" for thread in others])
        return f"{count} thread{'s' if count > 1 else ''}" if count > 0 else ""

    def _others(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in self._threads]

    def _new_descriptors(self) -> str:
        before = self._descriptors
        if _descriptors() != before:
            gc.collect()  # a cycle may still hold a file that nobody can reach
        now = _descriptors()
        self._lowest_free = find_lowest_free()
        opened = [f"descriptor {fd} ({what}) open" for fd, what in now.items() if before.get(fd) != what]
        closed = [f"descriptor {fd} closed" for fd in before.keys() - now.keys()]
        return _listed(opened + closed)

    def _new_processes(self) -> str:
        if "subprocess" in sys.modules:
            sys.modules["subprocess"]._cleanup()  # waits for those that have ended, and that nobody has any more
        if "multiprocessing.process" in sys.modules:
            sys.modules["multiprocessing.process"]._cleanup()
        if not _has_processes():
            return ""
        new = {pid: name for pid, name in _processes().items() if pid not in self._processes}
        return _listed([f"process {pid} ({name}) running" for pid, name in new.items()])


def _has_processes() -> bool:
    """Return whether this process has children, ended or not; False where the system cannot tell."""
    if not hasattr(os, "waitid"):
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _processes() -> dict[int, str]:
    """Return the children of this process that have not ended, and their names."""
    import psutil  # imported late: most steps have no children

    processes = {}
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE:
                processes[child.pid] = child.name()
    return processes


def _environ() -> dict[bytes, bytes]:
    """Return the environment as it is kept: a comparison of the mapping itself decodes each entry, twice."""
    return os.environ._data  # type: ignore[attr-defined,no-any-return]


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _limits() -> dict[int, tuple[int, int]]:
    was_there = "resource" in sys.modules
    import resource

    numbers = {number for name, number in vars(resource).items() if name.startswith("RLIMIT_")}
    limits = dict(_known_limits(sorted(numbers)))
    if not was_there:
        del sys.modules["resource"]  # where nobody has it, nobody changes a limit: reading them all is slow
    return limits


def _height(limit: int) -> float:
    import resource

    return float("inf") if limit == resource.RLIM_INFINITY else limit


def _known_limits(numbers: list[int]) -> Iterator[tuple[int, tuple[int, int]]]:
    import resource

    for number in numbers:
        try:
            yield number, resource.getrlimit(number)
        except (OSError, ValueError):  # not on this system
            continue


def find_lowest_free(any_open: int = 0) -> int:
    """Return the number that the next descriptor would get: one that was left open has taken it. -1 if there is none.

    Args:
        any_open: a descriptor that is open.
    """
    try:
        fd = os.dup(any_open)
    except OSError:
        return -1
    os.close(fd)
    return fd


def _descriptors() -> dict[int, str]:
    """Return the open descriptors and what they are of."""
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    return dict(_read_links(folder, sorted(map(int, os.listdir(folder)))))


def _read_links(folder: str, fds: list[int]) -> Iterator[tuple[int, str]]:
    for fd in fds:
        try:
            os.fstat(fd)
            yield fd, os.readlink(f"{folder}/{fd}") if folder.startswith("/proc") else "a file"
        except OSError:  # the one that listdir itself has used
            continue


def _listed(names: list[Any]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

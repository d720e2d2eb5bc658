"""The program's half of its guardian, the third line of defence against children that outlive their program.

The first is the end of the pipe, which a child that waits for work notices. The second is ``PR_SET_PDEATHSIG``, which
ends a child that is stuck in C code, but not what that child has started. The guardian kills whole groups. There is one
per program, started before the first child and ended after the last.

The second line has a trap: the signal comes when the *thread* that started the child ends. So children are started in
the main thread, or in one that is kept here for that and lasts as long as the guardian.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

__all__ = ["acquire", "forget", "hide", "in_lasting_thread", "release", "show", "watch"]

T = TypeVar("T")

_lock = threading.Lock()
_users = 0
_process: subprocess.Popen[bytes] | None = None
_link: socket.socket | None = None  #: to its standard input
_shown: Counter[Path] = Counter()
_starter: ThreadPoolExecutor | None = None


def acquire() -> None:
    """Make sure that the guardian runs, until as many calls of ``release``."""
    global _users, _process, _link
    with _lock:
        if _process is None:
            command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guardian_main.py"))]
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    _process = subprocess.Popen(
                        command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, bufsize=0, start_new_session=True
                    )
                except BaseException:
                    ours.close()
                    raise
            _link = ours
        _users += 1


def release() -> None:
    """End the guardian if nobody else needs it. Everything it watches must be gone."""
    global _users, _process, _link, _starter
    with _lock:
        _users -= 1
        if _users == 0 and _process is not None:
            process, _process = _process, None
            assert _link is not None
            _link.close()
            _link = None
            _shown.clear()
            process.send_signal(signal.SIGCONT)  # somebody may have stopped it
            process.wait()
            if _starter is not None:
                _starter.shutdown()
                _starter = None


def in_lasting_thread(call: Callable[[], T]) -> T:
    """Return ``call()``, made in a thread that lasts until the guardian is released. Blocks; raises what it raises.

    Raises:
        OSError: the system has no thread left to give.
    """
    global _starter
    if threading.current_thread() is threading.main_thread():
        return call()
    with _lock:
        if _starter is None:
            _starter = ThreadPoolExecutor(1, thread_name_prefix="fuseline-starter")
        starter = _starter
    try:
        future = starter.submit(call)
    except RuntimeError as error:
        raise OSError(str(error)) from error
    return future.result()


def watch(leader: int) -> None:
    """Have the group that ``leader`` will lead killed when this program ends."""
    _tell(b"+%d\n" % leader)


def show(path: Path) -> None:
    """Have the guardian hold the lock on this file, too, until ``hide`` or until it has killed what it watches.

    It is given a descriptor that holds the lock. From then on it is held, even before the guardian has looked: what is
    on its way counts, too. See ``fuseline.presence``.
    """
    with _lock:
        _shown[path] += 1
        if _shown[path] > 1:
            return
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        _tell(b"=%b\n" % _on_a_line(path), fd)
    finally:
        os.close(fd)


def hide(path: Path) -> None:
    """Have the guardian let go of a file, after as many calls as of ``show``."""
    with _lock:
        _shown[path] -= 1
        if _shown[path] > 0:
            return
        del _shown[path]
    _tell(b"~%b\n" % _on_a_line(path))


def _on_a_line(path: Path) -> bytes:
    """Return what stands for a path: it may have line breaks, and cannot have null bytes."""
    return os.fsencode(path).replace(b"\n", b"\0")


def forget(leader: int) -> None:
    """Say that the group is gone, before its number can be used again."""
    _tell(b"-%d\n" % leader)


def _tell(line: bytes, *fds: int) -> None:
    with _lock:
        if _link is not None:
            try:
                socket.send_fds(_link, [line], list(fds)) if fds else _link.sendall(line)
            except (BrokenPipeError, ConnectionResetError):  # somebody killed it: two lines of defence are left
                pass


def _after_fork_in_child() -> None:
    # A fork of the program must not keep the link open: the guardian would think that the program still lives.
    global _users, _process, _link, _starter, _lock
    _lock = threading.Lock()
    _starter = None
    if _link is not None:
        _link.close()
    if _process is not None:
        _process.returncode = 0  # not ours to wait for
    _shown.clear()
    _users, _process, _link = 0, None, None


os.register_at_fork(after_in_child=_after_fork_in_child)

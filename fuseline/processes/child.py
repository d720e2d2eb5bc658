"""One child process: started through loky, ended for certain.

loky starts a child with a clean ``exec``: no fork of a threaded process, ``__main__`` is not imported again, and the
environment is set before anything is imported. The child leads a session and process group of its own.

The end of a child, whoever wants it::

    end(): SIGTERM to the group ──grace──▶ SIGKILL to the group ──▶ reap ──▶ nobody of the group is alive: gone
    it ends by itself: ─────────────────────────▲

Signals go out before the child is reaped: until then its number, which is also that of its group, cannot be used again.
If somebody else has reaped it, none goes to a process that has this number now.

Just before SIGKILL everything is stopped, so that nothing is started while it is listed what there is to kill.
All of this is driven by ``advance``, which never blocks, so that many children can end side by side.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import signal
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from multiprocessing import Pipe
from typing import Any, Generic

import psutil

from fuseline.channel import M
from fuseline.processes import guardian
from fuseline.processes.line import LineEnd, ProgramLine
from fuseline.processes.outbox import Outbox
from fuseline.processes.output import Output, OutputMarks
from fuseline.processes.stamp import Stamp
from fuseline.processes.tickets import Tickets
from fuseline.processes.tree import descendants, group_members, is_alive, kill_processes, signal_group

__all__ = ["Child"]

_log = logging.getLogger("fuseline")

#: Seconds between two looks at what is left of a group.
_LOOK = 0.01
#: Seconds after SIGKILL in which a process must be gone; one in an uninterruptible wait of the kernel may take longer.
_PATIENCE = 5.0


class Child(Generic[M]):
    """A child process that runs ``target(its end of the line, stamp, tickets, output.theirs, pid of this program)``.

    The guardian must have been acquired.

    Args:
        environment: on top of this program's.
        decode: makes a message of what the child has encoded.
        show: is given what the child prints, as ``Output`` says.

    Raises:
        OSError: the system has no process or descriptor left to give.
    """

    def __init__(
        self,
        target: Callable[[LineEnd, Stamp, Tickets, OutputMarks, int], None],
        environment: Mapping[str, str],
        decode: Callable[[Any], M],
        show: Callable[[int, bytes], None],
    ) -> None:
        from fuseline.processes.launch import launch  # loky is for those who start a child

        with ExitStack() as undo:
            self._connection, theirs = Pipe(duplex=True)
            undo.callback(self._connection.close)
            with theirs, closing(self._open_output(undo, show)) as their_output:
                outbox = Outbox()
                undo.callback(outbox.close)
                self.stamp = Stamp()
                undo.callback(self.stamp.close)
                self.tickets = Tickets()
                undo.callback(self.tickets.close)
                args = (LineEnd(theirs.fileno(), outbox), self.stamp, self.tickets, their_output, os.getpid())
                self._process = guardian.in_lasting_thread(lambda: launch(target, args, environment))
            outbox.close_fd()
            self.stamp.close_fd()
            self.pid: int = self._process.pid
            undo.callback(self._process.join)
            undo.callback(os.kill, self.pid, signal.SIGKILL)
            undo.callback(guardian.forget, self.pid)
            guardian.watch(self.pid)
            self._exit_fd: int = _open_exit_fd(self._process)
            undo.pop_all()
        _there.add(self)
        self.line: ProgramLine[M] = ProgramLine(self._connection.fileno(), outbox, decode)
        self.channel = self.line.channel  #: for what the program says
        self.returncode: int | None = None  #: as of ``waitpid``: negative for a signal; None if unknown
        self._tree: list[psutil.Process] = []
        self._kill_at: float | None = None
        self._give_up_at: float | None = None
        self._reaped = False
        self.is_gone = False  #: whether it is proven that nothing of it is left

    def _open_output(self, undo: ExitStack, show: Callable[[int, bytes], None]) -> OutputMarks:
        self.output = Output(show)
        undo.callback(self.output.close)
        return self.output.theirs

    def fileno(self) -> int:
        """Return the descriptor of the pipe."""
        fd: int = self._connection.fileno()
        return fd

    @property
    def exit_fd(self) -> int:
        """A descriptor that becomes readable when the process ends, whatever its own children still hold open."""
        return self._exit_fd

    def has_exited(self) -> bool:
        """Return whether the process has ended, reaped or not."""
        if self._reaped:
            return True
        poller = select.poll()  # unlike select, it takes descriptors of any number
        poller.register(self._exit_fd, select.POLLIN)
        return bool(poller.poll(0))

    # -- ending -------------------------------------------------------------------------------------------------------

    @property
    def is_ending(self) -> bool:
        return self._kill_at is not None

    def end(self, now: float, grace: float) -> None:
        """Begin to end the process and everything it started: SIGTERM now, SIGKILL after ``grace`` seconds."""
        if self._kill_at is None:
            self.list_started()
            self._kill_at = now + grace
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a stopped process acts on no other signal

    def list_started(self) -> None:
        """Take note of what the process has started by now, so that it goes too, in whatever group it is."""
        known = set(self._tree)
        self._tree += [process for process in descendants(self.pid) if process not in known]

    def _signal(self, number: int) -> None:
        if self._is_ours():
            signal_group(self.pid, number)

    def _is_ours(self) -> bool:
        """Return whether our number cannot be that of another process."""
        if self._reaped:
            return False
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return True
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # the program waits for any process, or ignores SIGCHLD
            return not psutil.pid_exists(self.pid)
        return True

    def advance(self, now: float) -> float | None:
        """Bring the end forward as far as it goes without waiting, and set ``is_gone`` when it is complete.

        Returns:
            When to call again, in monotonic seconds; None if only the end of the process is worth waiting for, or all
            is done.
        """
        if self.is_gone:
            return None
        exited = self.has_exited()
        if not exited and (self._kill_at is None or now < self._kill_at):
            return self._kill_at
        if self._give_up_at is None:
            gentle = exited and self._kill_at is not None and now < self._kill_at
            if gentle and (others := group_members(self.pid)) and others != [self.pid]:
                return now + _LOOK  # the child is dead, and what it started still has its grace
            if not exited:
                self._signal(signal.SIGSTOP)
                self.list_started()
            self._signal(signal.SIGKILL)
            kill_processes(self._tree)
            self._give_up_at = now + _PATIENCE
        if not exited and not self.has_exited():
            return self._look_again(now)
        self._reap()
        if group_members(self.pid) or any(map(is_alive, self._tree)):
            return self._look_again(now)
        self._let_go()
        return None

    def _look_again(self, now: float) -> float | None:
        assert self._give_up_at is not None
        if now < self._give_up_at:
            return now + _LOOK
        _log.error("process %d, or one that it started, did not end after SIGKILL; giving it up", self.pid)
        self._let_go()
        return None

    def _reap(self) -> None:
        if not self._reaped:
            self.returncode = self._process._popen.poll()  # None if the kernel has reaped it, say: then nobody knows
            self._reaped = True

    def _let_go(self) -> None:
        self.is_gone = True
        _there.discard(self)
        guardian.forget(self.pid)
        os.close(self._exit_fd)
        self._connection.close()
        self.output.close()
        self.line.close()
        self.stamp.close()
        self.tickets.close()
        self._process = None  # with the last reference, loky closes its own descriptor

    def kill_and_wait(self) -> None:
        """Kill the process and its group, and wait until it is dead."""
        self._signal(signal.SIGKILL)
        self._process.join()


_there: weakref.WeakSet[Child[Any]] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End what is still there when the program exits without having closed its pool."""
    for child in list(_there):
        child.kill_and_wait()


def _after_fork_in_child() -> None:
    _there.clear()  # they are of the program


os.register_at_fork(after_in_child=_after_fork_in_child)


def _open_exit_fd(process: Any) -> int:
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(process.pid)
    # Elsewhere the pipe whose other end only the child has, and what it forks: later than the truth, but never wrong.
    fd: int = os.dup(process.sentinel)
    return fd

"""Tormentor: does to processes what the plots say, and undoes in time what can be undone.

A full disk is played by RLIMIT_FSIZE, which ``prlimit`` sets for a running process of the same user, without any
privilege and in any container: from then on its files cannot grow past a size. A small tmpfs would have to be mounted,
and filling a real file system would hit everybody else on the machine.
"""

from __future__ import annotations

import heapq
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from .history import Fault
from .plan import Plot, Signal, Target
from .processes import find

__all__ = ["Tormentor"]

_NUMBERS = {Signal.KILL: signal.SIGKILL, Signal.TERM: signal.SIGTERM, Signal.STOP: signal.SIGSTOP}


class Tormentor:
    """Does faults when their time has come.

    Args:
        plots: what is to come, in order.
        begin: what their times count from, in monotonic seconds.
        engines: tells the processes of the engine programs.
        folder: where ``runs.db`` and ``journal`` are.
    """

    def __init__(self, plots: Iterable[Plot], begin: float, engines: Callable[[], list[int]], folder: Path) -> None:
        self._plots = list(reversed(list(plots)))
        self._begin = begin
        self._engines = engines
        self._folder = folder
        self._undo: list[tuple[float, int, psutil.Process, Signal]] = []
        self.faults: list[Fault] = []
        self.missed = 0  #: plots whose target was not there

    @property
    def counts(self) -> Counter[str]:
        return Counter(f"{fault.signal} {fault.target}" for fault in self.faults)

    def act(self) -> None:
        """Do, and undo, what is due."""
        now = time.monotonic()
        while self._undo and self._undo[0][0] <= now:
            _, _, process, done = heapq.heappop(self._undo)
            _undo(process, done)
        while self._plots and self._begin + self._plots[-1].at <= now:
            self._do(self._plots.pop())

    def relent(self) -> None:
        """Undo all that can be undone, now."""
        self._plots.clear()
        for _, _, process, done in self._undo:
            _undo(process, done)
        self._undo.clear()

    def _do(self, plot: Plot) -> None:
        there = find(plot.target, self._engines(), self._folder / "runs.db")
        if not there:
            self.missed += 1
            return
        process = there[min(int(plot.pick * len(there)), len(there) - 1)]
        lasts = plot.signal in (Signal.STOP, Signal.FULL)
        now = time.monotonic()
        try:
            if plot.signal is Signal.FULL:
                self._fill(process, plot)
            else:
                process.send_signal(_NUMBERS[plot.signal])
        except (psutil.Error, OSError):
            self.missed += 1
            return
        if lasts:
            heapq.heappush(self._undo, (now + plot.lasts, len(self.faults), process, plot.signal))
        self.faults.append(Fault(now, plot.signal, plot.target, process.pid, now + plot.lasts * lasts))

    def _fill(self, process: psutil.Process, plot: Plot) -> None:
        """Let the files of a process grow no more, or a little; a child must still be able to write its journal."""
        if not hasattr(resource, "prlimit"):
            raise OSError("only Linux can do this to another process")
        room = plot.room
        if plot.target is Target.CHILD:
            with suppress(FileNotFoundError):
                room += (self._folder / "journal").stat().st_size + 100_000
        _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, most))


def _undo(process: psutil.Process, done: Signal) -> None:
    with suppress(psutil.Error, OSError):
        if not process.is_running():
            return  # its number may be another one's now
        if done is Signal.STOP:
            os.kill(process.pid, signal.SIGCONT)
        else:
            _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))

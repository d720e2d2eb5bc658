"""The memory of a process and everything it started, looked at now and then.

A look walks the processes of the machine, which takes milliseconds where there are many. So the looks are as far apart
as it takes for all of them together to stay within a small share of a CPU.
"""

from __future__ import annotations

import os
import time

import psutil

from fuseline.processes.tree import descendants

__all__ = ["MemoryWatch", "tree_memory"]

#: Seconds between two looks at the same processes, if looking is cheap.
_INTERVAL = 0.1
#: The share of a CPU that all looks of an executor may take.
_SHARE = 0.05


class MemoryWatch:
    """Watches a child and everything it started.

    Args:
        leader: the child, which leads a process group.
        limit: bytes.
        others: all watches that share a CPU; this one joins them until ``end``.
        now: monotonic seconds.
    """

    def __init__(self, leader: int, limit: int, others: set[MemoryWatch], now: float) -> None:
        self.limit = limit
        self.due = now + _INTERVAL  #: when to look next, in monotonic seconds
        self._leader = leader
        self._others = others
        others.add(self)

    def wait(self, now: float) -> None:
        """Look later, because there is nothing to see yet."""
        self.due = now + _INTERVAL

    def look(self) -> int:
        """Return how many bytes are used."""
        before = time.thread_time()
        used = tree_memory(self._leader)
        took = time.thread_time() - before
        self.due = time.monotonic() + max(_INTERVAL, took * len(self._others) / _SHARE)
        return used

    def end(self) -> None:
        """Let the others have its share."""
        self._others.discard(self)


def tree_memory(leader: int) -> int:
    """Return the resident bytes of a process, what it has started, and the group it leads.

    A page that several of them share counts once for each.
    """
    pids = {leader, *(process.pid for process in descendants(leader))}
    pids.update(pid for pid in psutil.pids() if _is_member(pid, leader))
    return sum(map(_resident, pids))


def _is_member(pid: int, leader: int) -> bool:
    try:
        return os.getpgid(pid) == leader
    except OSError:
        return False


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it has just ended
        return 0

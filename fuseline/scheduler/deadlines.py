"""When runs must have ended, the earliest first."""

from __future__ import annotations

import heapq
import itertools

from fuseline.scheduler.run import Run

__all__ = ["Deadlines"]


class Deadlines:
    """The deadlines of runs in progress: most of them end long before, and must not be held until then.

    An entry costs a logarithm of the runs in progress, on the average.
    """

    __slots__ = ("_heap", "_of", "_ties")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Run]] = []
        self._of: dict[Run, float] = {}
        self._ties = itertools.count()

    def add(self, run: Run, moment: float) -> None:
        """Await the end of a run until ``moment``."""
        self._of[run] = moment
        heapq.heappush(self._heap, (moment, next(self._ties), run))

    def discard(self, run: Run) -> None:
        """Await the end of a run no more."""
        self._of.pop(run, None)
        if len(self._heap) > 2 * len(self._of):  # so a walk over all of them drops more than half
            self._heap = sorted(entry for entry in self._heap if entry[2] in self._of)  # which is a heap, too

    def first(self) -> tuple[float, Run] | None:
        """Return the earliest deadline and its run, or None."""
        heap = self._heap
        while heap and heap[0][2] not in self._of:
            heapq.heappop(heap)
        return (heap[0][0], heap[0][2]) if heap else None

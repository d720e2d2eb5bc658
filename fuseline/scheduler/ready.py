"""The order in which steps are handed out: older runs first, within a run the step that became ready last.

So runs finish one after the other, and memory is bounded by the runs in progress rather than by all that were
dispatched. One of these serves all runs of one workflow.
"""

from __future__ import annotations

import heapq
import itertools

from fuseline.scheduler.run import Run

__all__ = ["ReadyRuns"]


class ReadyRuns:
    """The runs of one workflow that have steps to hand out.

    A run whose ready steps vanished (it was cancelled, say) is dropped when it comes to the front.
    """

    __slots__ = ("_heap", "_ties")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Run]] = []  #: (number of the run, tie-breaker, run)
        self._ties = itertools.count()  #: a run that was resumed has the number of the one that it was

    def add(self, run: Run) -> None:
        """Queue a run that has got its first ready step."""
        if not run.queued:
            run.queued = True
            heapq.heappush(self._heap, (run.number, next(self._ties), run))

    def first(self) -> Run | None:
        """Return the oldest run that has a ready step, or None."""
        heap = self._heap
        while heap and not heap[0][2].ready:
            heapq.heappop(heap)[2].queued = False
        return heap[0][2] if heap else None

"""The order in which steps are handed out: older runs first, within a run the step that became ready last.

So runs finish one after the other, and memory is bounded by the runs in progress rather than by all that were
dispatched. One of these serves all runs of one workflow.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque

from fuseline.scheduler.run import Run
from fuseline.states import State

__all__ = ["ReadyRuns"]


class ReadyRuns:
    """The runs of one workflow that have steps to hand out.

    Runs that nobody has started yet are in the order of their dispatch anyway; only those in progress, few at a time,
    need a heap. A run whose ready steps vanished (it was cancelled, say) is dropped when it comes to the front.
    """

    __slots__ = ("_fresh", "_started", "_ties")

    def __init__(self) -> None:
        self._fresh: deque[Run] = deque()
        self._started: list[tuple[int, int, Run]] = []
        self._ties = itertools.count()  #: a run that was resumed has the number of the one that it was

    def add(self, run: Run) -> None:
        """Queue a run that has got its first ready step."""
        if run.queued:
            return
        run.queued = True
        if run.state is State.PENDING and (not self._fresh or self._fresh[-1].number < run.number):
            self._fresh.append(run)
        else:
            heapq.heappush(self._started, (run.number, next(self._ties), run))

    def first(self) -> Run | None:
        """Return the oldest run that has a ready step, or None."""
        fresh, started = self._fresh, self._started
        while started and not started[0][2].ready:
            heapq.heappop(started)[2].queued = False
        while fresh and not fresh[0].ready:
            fresh.popleft().queued = False
        if started and (not fresh or started[0][0] < fresh[0].number):
            return started[0][2]
        return fresh[0] if fresh else None

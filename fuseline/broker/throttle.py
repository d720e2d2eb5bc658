"""Throttle: makes a producer of runs wait while workers cannot take more, so that what waits needs no end of memory."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

__all__ = ["Throttle"]

_log = logging.getLogger("fuseline")

#: Steps that may wait, in all runs of a workflow, before a producer of more runs has to; but never fewer runs than so.
_MOST_STEPS = 100_000
_MOST_RUNS = 100
#: Seconds for which a producer waits in vain.
_PATIENCE = 10.0


class Throttle:
    """Of one producer of runs of one workflow.

    Args:
        workflow_id: of the workflow, for a warning.
        steps: of the workflow.
        backlog: returns how many of its runs have not ended.
        is_served: returns whether somebody works on them; else there is nothing to wait for.
        changed: is notified when a run has ended.
    """

    def __init__(
        self,
        workflow_id: str,
        steps: int,
        backlog: Callable[[], int],
        is_served: Callable[[], bool],
        changed: threading.Condition,
    ) -> None:
        self._workflow_id = workflow_id
        self._most: float = max(_MOST_STEPS // max(1, steps), _MOST_RUNS)
        self._backlog = backlog
        self._is_served = is_served
        self._changed = changed

    def wait(self) -> None:
        """Wait until there is room for another run. If none ends for a while, make the producer wait no more."""
        with self._changed:
            least, give_up = math.inf, 0.0
            while (backlog := self._backlog()) >= self._most and self._is_served():
                if backlog < least:
                    least, give_up = backlog, time.monotonic() + _PATIENCE
                left = give_up - time.monotonic()
                if left <= 0:
                    self._most = math.inf
                    _log.warning(
                        "no run of workflow %r has ended in %g s: who dispatches more of them need not wait any more",
                        self._workflow_id,
                        _PATIENCE,
                    )
                else:
                    self._changed.wait(left)

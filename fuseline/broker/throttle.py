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
        load: returns how many of its runs have not ended, and how many workers in other threads serve it: without
            any, there is nothing to wait for.
        changed: is notified when a run has ended, or a worker has left.
        pause: seconds after which to look again all the same.
    """

    def __init__(
        self,
        workflow_id: str,
        steps: int,
        load: Callable[[], tuple[int, int]],
        changed: threading.Condition,
        pause: float = math.inf,
    ) -> None:
        self._workflow_id = workflow_id
        self._most: float = max(_MOST_STEPS // max(1, steps), _MOST_RUNS)
        self._load = load
        self._changed = changed
        self._pause = pause

    def wait(self) -> None:
        """Wait until there is room for another run. If none ends for a while, make the producer wait no more."""
        with self._changed:
            least, give_up = math.inf, 0.0
            while self._most < math.inf:
                runs, workers = self._load()
                if runs < self._most or not workers:
                    return
                if runs < least:
                    least, give_up = runs, time.monotonic() + _PATIENCE
                left = give_up - time.monotonic()
                if left <= 0:
                    self._most = math.inf
                    _log.warning(
                        "no run of workflow %r has ended in %g s: who dispatches more of them need not wait any more",
                        self._workflow_id,
                        _PATIENCE,
                    )
                else:
                    self._changed.wait(min(left, self._pause))

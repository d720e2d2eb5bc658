"""Pace: how long attempts take, and so how many a child should have at hand."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from fuseline.messages import AttemptReport

__all__ = ["Pace"]

#: Seconds; a child that is done with a longer attempt loses next to nothing while it waits to be told the next one.
_SHORT = 0.1
#: Share of the newest attempt in the mean.
_WEIGHT = 0.125
#: Seconds of work that a child has at hand: long enough for its program to wait for a CPU, too.
_AT_HAND = 0.01
#: Assignments that wait in a child, at most: enough for steps that take no time to bridge a broker's commit.
_MOST = 128


class Pace:
    """The moving mean of the durations of attempts."""

    def __init__(self) -> None:
        self._mean: float | None = None

    def note(self, reports: Sequence[AttemptReport]) -> None:
        """Take in attempts whose reports have just come."""
        mean, now = self._mean, time.monotonic()
        for report in reports:
            if report.started is not None:
                duration = (now if report.ended is None else report.ended) - report.started
                mean = duration if mean is None else mean + _WEIGHT * (duration - mean)
        self._mean = mean

    @property
    def depth(self) -> int:
        """How many assignments may be in one child, the running one included."""
        if self._mean is None or self._mean >= _SHORT:
            return 1
        return 1 + min(_MOST, math.ceil(_AT_HAND / max(self._mean, 1e-6)))

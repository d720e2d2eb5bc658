"""ManualClock: time that passes when a test says so."""

from __future__ import annotations

__all__ = ["ManualClock"]


class ManualClock:
    """Call it to read the time: ``MemoryBroker(clock=ManualClock())``.

    Args:
        now: where it starts, in seconds.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: ``seconds`` is negative; a monotonic clock does not go back.
        """
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot go back {-seconds} s")
        self.now += seconds

"""WorkflowTimeoutPolicy: how long a run may take as a whole."""

from __future__ import annotations

from typing import Any

from fuseline.errors import PolicyError
from fuseline.policies.base import WorkflowPolicy, is_finite

__all__ = ["WorkflowTimeoutPolicy"]


class WorkflowTimeoutPolicy(WorkflowPolicy):
    """Ends a run that takes longer than ``seconds``, as FAILED: its result is ``RunTimedOut``.

    The time counts from the start of its first step, so waiting for a worker to begin with it does not count; the waits
    of retries do. When it is up, all steps that have not ended are cancelled at once, waiting retries included. Those
    that run are killed; on an executor that cannot kill, they end by themselves, and nobody hears what they return.

    The broker sees to it. Time in which no broker runs does not count, nor does what has passed since the last event of
    the run before its broker ended: a machine that was off for the night does not end what it was in the middle of,
    and no clock on the wall is trusted. A run that is resumed gets its time afresh. Of several, the shortest counts.

    Args:
        seconds: more than 0, finite.

    Raises:
        PolicyError: ``seconds`` is no such number.
    """

    def __init__(self, seconds: float) -> None:
        if not is_finite(seconds) or seconds <= 0:
            raise PolicyError(f"WorkflowTimeoutPolicy({seconds!r}): give a finite number of seconds, more than 0.")
        self.seconds = float(seconds)

    def to_config(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.to_config() == other.to_config()

    def __hash__(self) -> int:
        return hash(self.seconds)

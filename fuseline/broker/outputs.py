"""Outputs: what attempts have printed, in a broker that keeps its runs in memory."""

from __future__ import annotations

from fuseline.errors import UnknownStepError
from fuseline.records import RunRecord

__all__ = ["Outputs", "check_attempt"]

#: Characters in all; those of the run that was the first to print go first.
_MOST = 64 << 20


class Outputs:
    """What attempts have printed, of the newest runs."""

    def __init__(self) -> None:
        self._texts: dict[str, dict[tuple[str, int], str]] = {}  #: {run: {(step, attempt): text}}
        self._size = 0

    def add(self, instance_id: str, step_name: str, attempt: int, text: str) -> None:
        """Keep the output of an attempt."""
        self._texts.setdefault(instance_id, {})[step_name, attempt] = text
        self._size += len(text)
        while self._size > _MOST:
            self.forget(next(iter(self._texts)))

    def get(self, instance_id: str, step_name: str, attempt: int) -> str:
        """Return the output of an attempt; empty if there is none."""
        return self._texts.get(instance_id, {}).get((step_name, attempt), "")

    def forget(self, instance_id: str) -> None:
        """Drop all that belongs to a run."""
        self._size -= sum(map(len, self._texts.pop(instance_id, {}).values()))


def check_attempt(record: RunRecord, step_name: str, attempt: int | None) -> int:
    """Return ``attempt``, or the number of the last one of a step for None.

    Raises:
        UnknownStepError: the run has no such step.
    """
    if step_name not in record.steps:
        raise UnknownStepError(step_name, record.workflow, list(record.steps))
    return record.steps[step_name].attempts if attempt is None else attempt

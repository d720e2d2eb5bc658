"""MemoryLimitPolicy: how much memory an attempt may use."""

from __future__ import annotations

from typing import Any

from fuseline.errors import PolicyError
from fuseline.policies.base import StepPolicy, is_finite

__all__ = ["MemoryLimitPolicy"]

#: More than any machine has, and still a number that travels.
_MOST = 2**60


class MemoryLimitPolicy(StepPolicy):
    """Ends an attempt whose processes use more than ``bytes`` of memory, as ``StepOutOfMemory``.

    What counts is the resident memory of the child that runs the step and of everything that it has started, looked at
    about ten times a second; so what is used for a moment between two looks goes unseen. A page that several processes
    share counts once for each of them. Python itself and the modules it has imported count too, and so does what
    earlier steps have left in the child.

    On Linux an allocation that is far beyond the limit is refused before it is made, in the child and in what it
    starts: the step gets a ``MemoryError``, and ends with ``StepOutOfMemory`` unless it handles it. Files that are
    mapped into memory, such as a ``numpy.memmap``, are not refused, but count as far as they are resident.

    It needs an executor that ``limits_memory``. ``Workflow._execute_step`` in a hand-written worker limits nothing.

    Args:
        bytes: a whole number, 1 or more. ``2 * 10**9`` and ``2e9`` are the same.

    Raises:
        PolicyError: ``bytes`` is no such number.
    """

    needs = frozenset({"limits_memory"})

    def __init__(self, bytes: float) -> None:  # noqa: A002 - a limit of bytes; what else would it be called
        if not is_finite(bytes) or bytes != int(bytes) or not 1 <= bytes <= _MOST:
            raise PolicyError(f"MemoryLimitPolicy({bytes!r}): give a whole number of bytes from 1 to 2**60.")
        self.bytes = int(bytes)

    def to_config(self) -> dict[str, Any]:
        return {"bytes": self.bytes}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.to_config() == other.to_config()

    def __hash__(self) -> int:
        return hash(self.bytes)

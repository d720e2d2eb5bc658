"""Refusing this very process an allocation that is far beyond its limit, before it is made.

Who looks at the memory of an attempt from outside comes too late for a single allocation of all that the machine has.
Linux can refuse it: RLIMIT_DATA limits the private memory that a process may write to, resident or not, and leaves out
mapped files (since 4.7). Much of that memory is never touched, as the stacks of threads and the arenas of ``malloc``,
so the guard is a good deal wider than the limit, which is for the look from outside.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Self

from fuseline.errors import StepOutOfMemory
from fuseline.messages import Payload

__all__ = ["MemoryGuard"]

#: Bytes that a process may ask for on top of its limit, because most of them stay untouched.
_SLACK = 2**30


class MemoryGuard:
    """Around an attempt: makes a ``StepOutOfMemory`` of the ``MemoryError`` that leaves it.

    Processes that are started meanwhile have the same guard, each for itself.
    """

    def __init__(self, limit: int, step_name: str, payload: Payload) -> None:
        self._limit = limit
        self._step_name = step_name
        self._payload = payload
        self._before: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            import resource

            soft, hard = self._before = resource.getrlimit(resource.RLIMIT_DATA)
            others = [each for each in (soft, hard) if each != resource.RLIM_INFINITY]
            wanted = min(_memory_of_ours("VmData") + self._limit + _SLACK, *others, 2**62)
            resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            self._take_back(self._before[0])
        if isinstance(error, MemoryError) and not isinstance(error, StepOutOfMemory):
            raise StepOutOfMemory(
                step_name=self._step_name,
                limit=self._limit,
                used=_memory_of_ours("VmRSS"),
                instance_id=self._payload.instance_id,
                attempt=self._payload.attempt,
            ) from error

    def _take_back(self, soft: int) -> None:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        except (OSError, ValueError):  # the step has lowered the hard limit: its own affair
            pass


def _memory_of_ours(name: str) -> int:
    """Return a line of ``/proc/self/status`` in bytes; 0 where there is none."""
    try:
        fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # another system, or a step has used up all descriptors
        return 0
    try:
        text = os.read(fd, 8192).decode()
    finally:
        os.close(fd)
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0

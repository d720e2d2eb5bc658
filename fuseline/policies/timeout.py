"""StepTimeoutPolicy: how long an attempt may take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from fuseline.context import current_run
from fuseline.errors import PolicyError, StepTimedOut
from fuseline.policies.base import StepPolicy, is_finite
from fuseline.policies.interrupt import Interrupted, call_with_limit

if TYPE_CHECKING:
    from fuseline.step import Step

__all__ = ["StepTimeoutPolicy"]


class StepTimeoutPolicy(StepPolicy):
    """Ends an attempt that runs longer than ``seconds``, as ``StepTimedOut``.

    The time counts from the start of the attempt in its slot, never from queueing, and each retry gets it afresh. On an
    executor that kills, the child is killed with everything it started, be it stuck in C code. On others the attempt is
    interrupted: an exception is raised in the running frame of a ``def``, which takes effect when the interpreter runs
    its next instruction, and an ``async def`` is cancelled at its next ``await``.

    Args:
        seconds: more than 0, finite.
        kill: True refuses, when the workflow is built, an executor that can only interrupt.

    Raises:
        PolicyError: ``seconds`` is no such number.
    """

    def __init__(self, seconds: float, *, kill: bool = False) -> None:
        if not is_finite(seconds) or seconds <= 0:
            raise PolicyError(f"StepTimeoutPolicy({seconds!r}): give a finite number of seconds, more than 0.")
        self.seconds = float(seconds)
        self.kill = bool(kill)
        if kill:
            self.needs = frozenset({"kills"})

    def execute(self, step: Step, call: Callable[[], Any]) -> Any:
        context = current_run()
        if context is not None and context.killed_from_outside:
            return call()
        try:
            return call_with_limit(call, self.seconds)
        except Interrupted as interruption:
            raise self._timed_out(step) from interruption.__cause__

    async def execute_async(self, step: Step, call: Callable[[], Awaitable[Any]]) -> Any:
        context = current_run()
        if context is not None and context.killed_from_outside:
            return await call()
        import asyncio  # imported late: it is large, and few steps need it

        limit = asyncio.timeout(self.seconds)
        try:
            async with limit:
                return await call()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise self._timed_out(step) from error

    def _timed_out(self, step: Step) -> StepTimedOut:
        context = current_run()
        return StepTimedOut(
            step_name=step.name,
            timeout=self.seconds,
            killed=False,
            instance_id=context.instance_id if context else None,
            attempt=context.attempt if context else None,
        )

    def to_config(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "kill": self.kill}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.to_config() == other.to_config()

    def __hash__(self) -> int:
        return hash((self.seconds, self.kill))

"""Which attempt is this? ``current_run()`` answers inside of steps, policies and observers."""

from __future__ import annotations

import zlib
from contextvars import ContextVar

import msgspec

__all__ = ["RunContext", "StopNow", "current_run", "entered", "make_seed"]


class StopNow(KeyboardInterrupt):
    """The user has asked twice to stop, while a step runs in the main thread: no attempt may swallow this one."""


class RunContext(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where the calling code runs."""

    workflow_id: str
    instance_id: str | None  #: the run; None in a call of ``_execute_step`` outside of one
    step_name: str | None = None  #: None in the hooks about the workflow as a whole
    attempt: int | None = None  #: 1 for the first try; None where step_name is
    failures: int = 0  #: attempts before this one that have failed
    #: Whether somebody outside this process ends it at the deadline, so that nobody needs to interrupt it from inside.
    killed_from_outside: bool = False

    @property
    def seed(self) -> int | None:
        """From 0 to 2**32 - 1: the same for the same run, step and number of failures. None where ``attempt`` is."""
        return None if self.step_name is None else make_seed(self.instance_id, self.step_name, self.failures)


entered: ContextVar[RunContext | None] = ContextVar("fuseline_run", default=None)


def current_run() -> RunContext | None:
    """Return the run, step and attempt that the calling code belongs to, or None outside of any."""
    return entered.get()


def make_seed(instance_id: str | None, step_name: str, failures: int) -> int:
    """Return the seed of an attempt, from 0 to 2**32 - 1, which is what numpy takes.

    Failures count, so that a retry draws other numbers; restarts do not, so that an attempt which is started again
    because its program has died draws the same ones.
    """
    name = step_name if instance_id is None else f"{instance_id}\0{step_name}\0{failures}"
    return zlib.crc32(name.encode("utf-8", "surrogatepass"))

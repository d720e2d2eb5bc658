"""Which attempt is this? ``current_run()`` answers inside of steps, policies and observers."""

from __future__ import annotations

from contextvars import ContextVar

import msgspec

__all__ = ["RunContext", "StopNow", "current_run", "entered"]


class StopNow(KeyboardInterrupt):
    """The user has asked twice to stop, while a step runs in the main thread: no attempt may swallow this one."""


class RunContext(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where the calling code runs."""

    workflow_id: str
    instance_id: str | None  #: the run; None in a call of ``_execute_step`` outside of one
    step_name: str | None = None  #: None in the hooks about the workflow as a whole
    attempt: int | None = None  #: 1 for the first try; None where step_name is
    #: From 0 to 2**32 - 1: the same for the same run, step and number of failures. None where ``attempt`` is.
    seed: int | None = None
    #: Whether somebody outside this process ends it at the deadline, so that nobody needs to interrupt it from inside.
    killed_from_outside: bool = False


entered: ContextVar[RunContext | None] = ContextVar("fuseline_run", default=None)


def current_run() -> RunContext | None:
    """Return the run, step and attempt that the calling code belongs to, or None outside of any."""
    return entered.get()

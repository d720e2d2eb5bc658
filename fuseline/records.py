"""How a run stands, as plain data: what a store keeps of it, and what a broker tells those who ask.

Values and exceptions in a record are the opaque bytes they travel as. Times are seconds since the epoch, because a
record outlives the process, and the boot, whose monotonic clock could place them.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from fuseline.states import State
from fuseline.values import ErrorInfo, Value

__all__ = ["Move", "RunRecord", "StepRecord"]


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How a step of a run stands."""

    state: State
    attempts: int = 0  #: how often it was started
    restarts: int = 0  #: how many of these starts follow the death of a worker
    failures: Mapping[int, int] = {}  #: {place of a policy among the step's policies: failures it has decided}
    token: int | None = None  #: of the assignment that runs
    worker_id: str | None = None  #: who has that assignment
    result: Value | None = None  #: if it succeeded and the result is still needed
    error: ErrorInfo | None = None  #: what the last attempt raised
    cause: str = ""  #: why it was skipped or cancelled
    started: float | None = None  #: start of the last attempt
    finished: float | None = None
    due: float | None = None  #: when the next attempt may start, of one that is RETRYING
    unwanted: bool = False  #: whether somebody has asked for its end


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How a run stands."""

    instance_id: str
    number: int  #: of its dispatch: an older run has a smaller one
    workflow_id: str
    workflow: str  #: the workflow's name
    outputs: tuple[str, ...]  #: names of steps
    state: State
    cancelled: bool = False  #: whether somebody has asked for its end
    inputs: Mapping[str, Value]
    steps: Mapping[str, StepRecord]  #: by name, in the order of the schema
    failed: tuple[str, ...] = ()  #: names of steps, in the order in which they failed
    started_by: str | None = None  #: the worker that was to tell of its start, the last one
    start_token: int | None = None  #: of the assignment with which it was; 0 if that was handed back, and no other is
    created: float
    started: float | None = None
    finished: float | None = None
    #: seconds of the limit that it has used up, until its last event; None if it has no limit, or not begun
    spent: float | None = None
    timed_out: float | None = None  #: the limit, in seconds, if it was ended for that


class Move(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A run or one of its steps went to another state."""

    step_name: str | None  #: None where it is about the run
    state: State
    attempt: int | None  #: 1 for the first try; None where it is about the run
    cause: str  #: why, where the state does not say it
    worker_id: str | None = None  #: who was given the step, where it is RUNNING
    at: float  #: seconds since the epoch

"""What travels between a broker, its workers and those who watch: frozen, small, without methods that act.

::

    broker ── StepAssignment ─▶ worker ── StepAssignment ─▶ executor
    broker ◀── StepReport ───── worker ◀─ AttemptReport ─── executor
    broker ── ReportAnswer ───▶ worker

User values in them are ``Value``s, opaque bytes; only a ``StepReport`` of a hand-written worker may carry the object
itself, which its broker encodes on arrival.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from fuseline.errors import PolicyError
from fuseline.states import State
from fuseline.values import ErrorInfo, Value

__all__ = [
    "AttemptReport",
    "FailureAction",
    "FailureDecision",
    "FinishNotice",
    "KillNotice",
    "Note",
    "Notice",
    "Outcome",
    "Payload",
    "Phase",
    "RecallNotice",
    "ReportAnswer",
    "ReportStatus",
    "RunInfo",
    "StepAssignment",
    "StepInfo",
    "StepReport",
    "Unloadable",
]


# -- decisions about failures -----------------------------------------------------------------------------------------


class FailureAction(enum.StrEnum):
    """What becomes of a step after an attempt has failed."""

    RETRY = "RETRY"  #: try again after a delay
    FAIL = "FAIL"  #: the step has failed, and so has its run
    SKIP = "SKIP"  #: do without it and without the steps that need it; the run can still succeed


class FailureDecision(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a policy decides about a failed attempt: ``FailureDecision(FailureDecision.RETRY, delay=2.0)``."""

    action: FailureAction
    delay: float = 0.0  #: seconds until the next attempt may start; only for RETRY

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            PolicyError: the action is none, or the delay is negative or not finite.
        """
        if not isinstance(self.action, FailureAction) or not 0.0 <= self.delay < math.inf:
            raise PolicyError(
                f"FailureDecision({self.action!r}, delay={self.delay!r}): give RETRY, FAIL or SKIP, and for RETRY a "
                "finite number of seconds of 0 or more."
            )
        # Whatever kind of number it is, it has to travel.
        msgspec.structs.force_setattr(self, "delay", float(self.delay))

    RETRY: ClassVar[FailureAction] = FailureAction.RETRY
    FAIL: ClassVar[FailureAction] = FailureAction.FAIL
    SKIP: ClassVar[FailureAction] = FailureAction.SKIP


# -- broker to worker -------------------------------------------------------------------------------------------------


class Payload(msgspec.Struct, frozen=True, kw_only=True, array_like=True, dict=True):
    """What an attempt gets to work with."""

    #: {parameter of run_step: its value}; for a ``*parameter`` a tuple of values
    arguments: dict[str, Value | tuple[Value, ...]]
    attempt: int = 1  #: 1 for the first try
    #: {place of a policy among the step's policies: failures it has decided so far}
    failures: dict[int, int] = msgspec.field(default_factory=dict)
    instance_id: str | None = None
    starts_run: bool = False  #: whether who gets it tells observers that the run starts

    @property
    def note(self) -> Note | None:
        """What ``Workflow._execute_step`` has left here. It does not travel."""
        return self.__dict__.get("_note")

    def leave_note(self, note: Note) -> None:
        """Leave it for the client half of the broker, which completes the report with it."""
        self.__dict__["_note"] = note


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What the bare report of a hand-written worker does not say."""

    result: Any  #: the object that the attempt returned
    report: AttemptReport  #: how the attempt ended
    hear: Callable[[ReportAnswer], None]  #: wants to know what the broker has made of it


class StepAssignment(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """One attempt of one step, handed to one worker."""

    workflow_id: str
    instance_id: str
    step_name: str
    payload: Payload
    token: int  #: names this hand-over; never used again
    attempt: int = 1  #: 1 for the first try
    timeout: float | None = None  #: seconds from the start of the attempt in its slot; None means no limit
    failure_stops_run: bool = True  #: whether nothing else of its run may start once it has failed
    memory_limit: int | None = None  #: resident bytes of all its processes; None means no limit
    #: Token of the assignment that it follows: it begins where that one has returned, right after it and only then.
    #: Its payload has ``COMING`` for that one's result. None if it begins anywhere.
    follows: int | None = None


class KillNotice(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Tells a worker that nobody wants the outcome of an assignment any more."""

    token: int


class RecallNotice(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Tells a worker that an assignment need not be begun any more; if it was, it may finish."""

    token: int


class FinishNotice(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Tells a worker that a run it has started ended without a report, by being cancelled."""

    workflow_id: str
    instance_id: str
    state: State


Notice = KillNotice | RecallNotice | FinishNotice


# -- executor to worker -----------------------------------------------------------------------------------------------


class Outcome(enum.StrEnum):
    """How an attempt ended, as far as an executor can tell; what follows from it is not the executor's business."""

    RETURNED = "RETURNED"
    RAISED = "RAISED"
    TIMED_OUT = "TIMED_OUT"
    KILLED = "KILLED"  #: because it was asked to
    LOST = "LOST"  #: what ran it is gone


class Phase(enum.IntEnum):
    """How far an attempt is."""

    LOADING = 0  #: the code of its workflow
    ARGUMENTS = 1  #: they are unpickled
    RUNNING = 2  #: its code, or that of its policies
    RESULT = 3  #: it has returned; its result is pickled and sent


class AttemptReport(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True, gc=False):
    """How an accepted assignment ended; an executor gives exactly one for each."""

    token: int
    outcome: Outcome
    result: Value | None = None  #: only with RETURNED
    error: ErrorInfo | None = None  #: with every other outcome
    decision: FailureDecision | None = None  #: what the step's own policies decided where it ran, if they could
    decided_by: int | None = None  #: place of the policy that decided, among the step's policies
    started: float | None = None  #: monotonic seconds; None if it never started, so that it may simply be handed back
    ended: float | None = None  #: likewise; None where it could not say so itself
    output: str = ""  #: the end of what it has printed and logged, where that is kept


# -- worker to broker -------------------------------------------------------------------------------------------------


class StepReport(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How an assignment ended.

    The first five fields are all that a hand-written worker needs. ``state`` is ``SUCCEEDED``, ``FAILED``, ``SKIPPED``,
    ``CANCELLED``, or ``READY`` to hand an assignment back that was never started.
    """

    workflow_id: str
    instance_id: str
    step_name: str
    state: State
    result: Any = None  #: the object itself, or its Value
    error: BaseException | ErrorInfo | None = None
    token: int | None = None  #: None means: the assignment of this step that the worker holds
    #: None after a failure means that the broker shall decide by the retry policies in the schema
    decision: FailureDecision | None = None
    decided_by: int | None = None  #: place of the policy that decided, among the step's policies
    output: str = ""  #: the end of what the attempt has printed and logged
    told: bool = False  #: whether observers know of the start of the run, though this is handed back as READY


class ReportStatus(enum.StrEnum):
    """Whether a report changed anything."""

    ACCEPTED = "ACCEPTED"
    STALE = "STALE"  #: about an assignment that was settled, or given to somebody else, before
    UNKNOWN = "UNKNOWN"  #: about something that was never assigned


class ReportAnswer(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """What a broker says to a report; every event is told to exactly one worker."""

    status: ReportStatus
    step_state: State | None = None  #: what the step went to; None if the report changed nothing
    delay: float = 0.0  #: seconds until the next attempt, if step_state is RETRYING
    run_state: State | None = None  #: the end of the run, if this report ended it


# -- for those who ask ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unloadable:
    """Stands for a value that cannot be unpickled in this program."""

    error: BaseException  #: what unpickling it has raised


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """How a step of a run stands."""

    name: str
    state: State
    attempts: int  #: how often it was started
    error: BaseException | None = None  #: what the last attempt raised, or a faithful stand-in
    cause: str = ""  #: why it was skipped or cancelled
    started_at: float | None = None  #: start of the last attempt, seconds since the epoch
    finished_at: float | None = None  #: seconds since the epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """How a run stands."""

    instance_id: str
    workflow_id: str
    workflow: str  #: the workflow's name
    state: State
    inputs: dict[str, Any]  #: an ``Unloadable`` stands for one that cannot be unpickled here
    steps: dict[str, StepInfo]
    created_at: float  #: seconds since the epoch
    started_at: float | None = None
    finished_at: float | None = None

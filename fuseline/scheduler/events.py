"""What the core is told (past tense) and what it tells (imperative, or past where it is news)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from fuseline.messages import ReportAnswer, StepAssignment, StepReport
from fuseline.records import RunRecord
from fuseline.schema import WorkflowSchema
from fuseline.states import State
from fuseline.values import Value

# -- events -----------------------------------------------------------------------------------------------------------


class WorkerRegistered(msgspec.Struct, frozen=True):
    """A worker is there and can run steps of these workflows."""

    worker_id: str
    schemas: tuple[WorkflowSchema, ...]


class WorkerLeft(msgspec.Struct, frozen=True):
    """A worker has gone, and its processes are known to be dead: what it held goes back."""

    worker_id: str


class RunDispatched(msgspec.Struct, frozen=True):
    """Somebody wants a run."""

    instance_id: str
    schema: WorkflowSchema
    inputs: Mapping[str, Value]


class RunRestored(msgspec.Struct, frozen=True):
    """A run that an earlier scheduler had is taken up again.

    A worker that has one of its steps counts as one that this scheduler knows: ``WorkerLeft`` tells that it is gone,
    ``WorkerRegistered`` that it is there.
    """

    schema: WorkflowSchema
    record: RunRecord
    epoch: float  #: what to add to the seconds of ``now`` to get seconds since the epoch


class StepsRequested(msgspec.Struct, frozen=True):
    """A worker has room for ``limit`` more steps."""

    worker_id: str
    limit: int
    chains: bool = False  #: whether it may get steps together with those that they follow


class Reported(msgspec.Struct, frozen=True):
    """A worker says how assignments ended; their results and errors are encoded."""

    worker_id: str
    reports: Sequence[StepReport]


class TimePassed(msgspec.Struct, frozen=True):
    """Retries may be due, and runs may have had their time."""


class RunCancelled(msgspec.Struct, frozen=True):
    """Somebody wants a run to stop."""

    instance_id: str


class StepCancelled(msgspec.Struct, frozen=True):
    """Somebody wants a step not to run, or not to go on."""

    instance_id: str
    step_name: str


class RunForgotten(msgspec.Struct, frozen=True):
    """Nobody needs a settled run any more."""

    instance_id: str


Event = (
    WorkerRegistered
    | WorkerLeft
    | RunDispatched
    | RunRestored
    | StepsRequested
    | Reported
    | TimePassed
    | RunCancelled
    | StepCancelled
    | RunForgotten
)


# -- commands ---------------------------------------------------------------------------------------------------------


class Assign(msgspec.Struct, frozen=True):
    """Hand these to the worker."""

    worker_id: str
    assignments: Sequence[StepAssignment]


class Kill(msgspec.Struct, frozen=True):
    """Tell the worker that nobody wants the outcome of an assignment any more."""

    worker_id: str
    token: int


class Recall(msgspec.Struct, frozen=True):
    """Tell the worker that an assignment need not be begun any more; if it was, it may finish."""

    worker_id: str
    token: int


class Answer(msgspec.Struct, frozen=True):
    """Say these to the reports at hand, in their order."""

    answers: Sequence[ReportAnswer]


class StepsReady(msgspec.Struct, frozen=True):
    """There is something to hand out again: wake workers of this workflow that found nothing before."""

    workflow_id: str


class Finished(msgspec.Struct, frozen=True):
    """A run has ended."""

    workflow_id: str
    instance_id: str
    state: State
    #: The worker to tell, because no report of a worker ended the run; None if there is none, or a report did.
    tell: str | None = None


class Moved(msgspec.Struct, frozen=True, gc=False):
    """A step or, where ``step_name`` is None, a run went to another state. Only told while somebody watches."""

    instance_id: str
    step_name: str | None
    state: State
    attempt: int | None
    cause: str  #: why, where the state does not say it; empty if it does


class Dropped(msgspec.Struct, frozen=True):
    """Nobody needs these values any more, which are in files."""

    files: Sequence[str]


Command = Assign | Kill | Recall | Answer | StepsReady | Finished | Moved | Dropped

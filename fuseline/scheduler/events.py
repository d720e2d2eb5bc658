"""What the core is told (past tense) and what it tells (imperative, or past where it is news)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fuseline.messages import ReportAnswer, StepAssignment, StepReport
from fuseline.schema import WorkflowSchema
from fuseline.states import State
from fuseline.values import Value

# -- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerRegistered:
    """A worker is there and can run steps of these workflows."""

    worker_id: str
    schemas: tuple[WorkflowSchema, ...]


@dataclass(frozen=True, slots=True)
class WorkerLeft:
    """A worker has gone, and its processes are known to be dead: what it held goes back."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class RunDispatched:
    """Somebody wants a run."""

    instance_id: str
    schema: WorkflowSchema
    inputs: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class StepsRequested:
    """A worker has room for ``limit`` more steps."""

    worker_id: str
    limit: int


@dataclass(frozen=True, slots=True)
class Reported:
    """A worker says how an assignment ended; its result and error are encoded."""

    worker_id: str
    report: StepReport


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Retries may be due."""


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """Somebody wants a run to stop."""

    instance_id: str


@dataclass(frozen=True, slots=True)
class RunForgotten:
    """Nobody needs a settled run any more."""

    instance_id: str


Event = (
    WorkerRegistered | WorkerLeft | RunDispatched | StepsRequested | Reported | TimePassed | RunCancelled | RunForgotten
)


# -- commands ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Assign:
    """Hand this to the worker."""

    worker_id: str
    assignment: StepAssignment


@dataclass(frozen=True, slots=True)
class Kill:
    """Tell the worker that nobody wants the outcome of an assignment any more."""

    worker_id: str
    token: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Say this to the report at hand."""

    answer: ReportAnswer


@dataclass(frozen=True, slots=True)
class StepsReady:
    """There is something to hand out again: wake workers of this workflow that found nothing before."""

    workflow_id: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A run has ended."""

    workflow_id: str
    instance_id: str
    state: State
    #: The worker to tell, because no report of a worker ended the run; None if there is none, or a report did.
    tell: str | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """A step or, where ``step_name`` is None, a run went to another state. Only told while somebody watches."""

    instance_id: str
    step_name: str | None
    state: State
    attempt: int | None
    cause: str


Command = Assign | Kill | Answer | StepsReady | Finished | Moved

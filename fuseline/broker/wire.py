"""What a broker process and the programs around it say to each other.

::

    program ── Hello(key) ─────────────────▶ broker      the first message of a link; nothing else is heard before it
    program ◀─ Welcome ───────────────────── broker
    program ── a request ──────────────────▶ broker
    program ◀─ its reply, or Refused ─────── broker      one for each request, in their order
    program ◀─ News, Happened ────────────── broker      at any time, on the link of a worker or of a watcher

A link is one connection. Each worker has one of its own, whose end tells that the worker has gone.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fuseline import errors
from fuseline.channel import Incoming, incoming
from fuseline.messages import FailureDecision, Notice, ReportAnswer, StepAssignment, StepReport
from fuseline.records import Move, RunRecord
from fuseline.states import State
from fuseline.values import ErrorInfo, Value

__all__ = [
    "FROM_BROKER",
    "PROTOCOL",
    "TO_BROKER",
    "Answers",
    "BrokerStatus",
    "Cancel",
    "CheckStore",
    "Dispatch",
    "Done",
    "Ended",
    "FindRuns",
    "FindUnknown",
    "Forget",
    "Found",
    "FromBroker",
    "GetLoad",
    "GetOutput",
    "GetRun",
    "GetStatus",
    "GetSteps",
    "GetStory",
    "Happened",
    "Hello",
    "Know",
    "Leave",
    "ListRuns",
    "Load",
    "Migrate",
    "News",
    "Prune",
    "Refused",
    "Register",
    "Registered",
    "Removed",
    "ReportSteps",
    "Resume",
    "Retire",
    "Runs",
    "Steps",
    "Story",
    "ToBroker",
    "Trade",
    "Unregister",
    "Watch",
    "Welcome",
    "WorkerInfo",
]

#: Both ends must have the same.
PROTOCOL = 4


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The base of all."""


# -- program to broker ------------------------------------------------------------------------------------------------


class Hello(_Message, frozen=True):
    """Asks to be let in."""

    key: str
    protocol: int = PROTOCOL


class FindUnknown(_Message, frozen=True):
    """Asks which of these workflows the broker was not told of."""

    workflows: list[tuple[str, str]]  #: (workflow_id, fingerprint)


class GetLoad(_Message, frozen=True):
    """Asks how much there is to do in a workflow."""

    workflow_id: str


class Know(_Message, frozen=True):
    """Tells a schema; later messages, of any link, name it by its id and fingerprint."""

    schema: str  #: JSON


class Dispatch(_Message, frozen=True):
    """Asks for runs. The ids are made by who asks, so that what is sent twice can be told."""

    workflow_id: str
    fingerprint: str
    runs: list[tuple[str, dict[str, Value]]]  #: (instance_id, inputs)
    again: bool = False  #: whether it may have come before, over a link that was lost


class Register(_Message, frozen=True):
    """Makes the link that of a worker, or tells that a worker which the broker may know is still there."""

    worker_id: str
    workflows: list[tuple[str, str]]  #: (workflow_id, fingerprint)
    held: list[int]  #: tokens of the assignments that it has


class Unregister(_Message, frozen=True):
    """Says that the worker runs nothing any more."""

    held: list[int]  #: tokens of the assignments that it has; others have never reached it


class GetSteps(_Message, frozen=True):
    """Asks for assignments."""

    limit: int


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """A ``StepReport`` whose result and error are encoded."""

    workflow_id: str
    instance_id: str
    step_name: str
    state: State
    result: Value | None
    error: ErrorInfo | None
    token: int | None
    decision: FailureDecision | None
    decided_by: int | None
    output: str = ""
    told: bool = False

    @classmethod
    def of(cls, report: StepReport) -> Ended:
        """Return a report that ``encode_report`` has made."""
        assert report.error is None or isinstance(report.error, ErrorInfo)
        return cls(
            report.workflow_id,
            report.instance_id,
            report.step_name,
            report.state,
            report.result,
            report.error,
            report.token,
            report.decision,
            report.decided_by,
            report.output,
            report.told,
        )

    def report(self) -> StepReport:
        """Return the report."""
        return StepReport(
            workflow_id=self.workflow_id,
            instance_id=self.instance_id,
            step_name=self.step_name,
            state=self.state,
            result=self.result,
            error=self.error,
            token=self.token,
            decision=self.decision,
            decided_by=self.decided_by,
            output=self.output,
            told=self.told,
        )


class ReportSteps(_Message, frozen=True):
    """Says how assignments have ended."""

    reports: list[Ended]
    again: bool = False  #: whether it may have come before, over a link that was lost


class Trade(_Message, frozen=True):
    """Says how assignments have ended, and how many more there is room for. Its answer is in the ``News``, and so are
    steps, as soon as there are any."""

    reports: list[Ended]
    room: int
    seen: int  #: assignments that have come in ``News`` on this link, so that none under way is counted twice
    again: bool = False  #: whether the reports may have come before, over a link that was lost


class GetRun(_Message, frozen=True):
    """Asks how a run stands."""

    instance_id: str


class ListRuns(_Message, frozen=True):
    """Asks how runs stand."""

    workflow_id: str | None
    state: State | None
    limit: int | None  #: how many of the newest; None for all


class FindRuns(_Message, frozen=True):
    """Asks for the ids of runs that begin like this."""

    prefix: str
    limit: int


class GetStory(_Message, frozen=True):
    """Asks for all moves of a run."""

    instance_id: str


class GetOutput(_Message, frozen=True):
    """Asks what an attempt has printed; its answer is ``Found``."""

    instance_id: str
    step_name: str
    attempt: int | None  #: None for the last one


class Watch(_Message, frozen=True):
    """Makes the link that of a watcher, who is told what happens."""

    instance_id: str | None  #: None for all runs


class Cancel(_Message, frozen=True):
    """Asks for the end of a run, or of one of its steps."""

    instance_id: str
    step_name: str | None = None


class Resume(_Message, frozen=True):
    """Asks for a run to go on that failed or was cancelled."""

    instance_id: str
    workflow: tuple[str, str] | None  #: (workflow_id, fingerprint); None if it is what it was
    changed: bool


class Migrate(_Message, frozen=True):
    """Asks for the runs to go on with this workflow that wait with an earlier version of it."""

    workflow: tuple[str, str]  #: (workflow_id, fingerprint)


class Forget(_Message, frozen=True):
    """Asks for a run to be dropped."""

    instance_id: str


class Prune(_Message, frozen=True):
    """Asks for old runs to be removed. It is done when the reply says that there were none any more."""

    keep_for: float | None
    keep_runs: int | None


class GetStatus(_Message, frozen=True):
    """Asks how the broker is."""


class CheckStore(_Message, frozen=True):
    """Asks whether the store is whole."""


class Retire(_Message, frozen=True):
    """Asks the broker to leave its store to another one, unless somebody wants it to stay."""


class Leave(_Message, frozen=True):
    """Says goodbye. The reply comes when the broker has closed its store, if this was the last link."""


ToBroker = (
    Hello
    | FindUnknown
    | GetLoad
    | Know
    | Dispatch
    | Register
    | Unregister
    | GetSteps
    | ReportSteps
    | Trade
    | GetRun
    | ListRuns
    | GetOutput
    | GetStory
    | FindRuns
    | Watch
    | Cancel
    | Resume
    | Migrate
    | Forget
    | Prune
    | GetStatus
    | CheckStore
    | Retire
    | Leave
)


# -- broker to program ------------------------------------------------------------------------------------------------


class Welcome(_Message, frozen=True):
    """Lets a link in."""

    pid: int  #: of the broker
    door: str  #: the folder of its socket
    presence: str  #: the folder where programs that work for it show that they are alive
    values: str | None  #: the folder of large values
    spools: str | None  #: the folder where reports are written first
    syncs: bool  #: whether they must survive a power cut


class Done(_Message, frozen=True):
    """Answers a request that asks for nothing but to be done."""

    had_effect: bool = True


class Registered(_Message, frozen=True):
    """Answers ``Register``."""

    void: list[int]  #: tokens that the worker holds and that are worth nothing any more
    unsettled: int  #: runs that the worker can serve and that have not ended


class Steps(_Message, frozen=True):
    """Answers ``GetSteps``."""

    assignments: list[StepAssignment]
    unsettled: int


class Answers(_Message, frozen=True):
    """Answers ``ReportSteps``, in its order."""

    answers: list[ReportAnswer]
    unsettled: int


class Runs(_Message, frozen=True):
    """Answers ``GetRun`` and ``ListRuns``."""

    records: list[RunRecord]


class Story(_Message, frozen=True):
    """Answers ``GetStory``."""

    moves: list[Move]


class Found(_Message, frozen=True):
    """Answers ``FindRuns``, ``FindUnknown`` (with ids), ``GetOutput``, ``Migrate`` and ``CheckStore``."""

    texts: list[str]


class Load(_Message, frozen=True):
    """Answers ``GetLoad``."""

    runs: int  #: that have not ended
    workers: int  #: that serve the workflow


class Removed(_Message, frozen=True):
    """Answers ``Prune``."""

    count: int


class WorkerInfo(msgspec.Struct, frozen=True, array_like=True):
    """Somebody who works for a broker."""

    worker_id: str
    pid: int | None  #: of its program; None if it is missing, or the system does not say
    workflows: list[str]  #: ids
    running: int  #: assignments that it has
    is_missing: bool  #: whether it left without a word, and is not known to be dead


class BrokerStatus(_Message, frozen=True):
    """How a broker process is."""

    pid: int
    version: str  #: of fuseline
    path: str | None  #: of its store
    durability: str
    stays: bool  #: whether it goes on when the last program has left
    started: float  #: seconds since the epoch
    programs: int  #: links to others
    workers: list[WorkerInfo]
    counts: dict[str, int]  #: {state: runs}
    size_bytes: int  #: of the store, with what lies beside it; 0 without one
    keep_for: float | None  #: seconds after its end that a run stays
    keep_runs: int | None  #: how many stay that have ended


class Refused(_Message, frozen=True):
    """Answers a request that cannot be granted."""

    kind: str  #: name of a class in ``fuseline.errors``
    message: str
    fields: dict[str, Any]

    @classmethod
    def because(cls, error: errors.FuselineError) -> Refused:
        """Return an error in a form that travels."""
        return cls(type(error).__name__, str(error), dict(vars(error)))

    def error(self) -> errors.FuselineError:
        """Return the error."""
        kind = getattr(errors, self.kind, errors.BrokerError)
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in self.fields.items()}
        return errors.rebuild(kind, (self.message,), fields)


class News(_Message, frozen=True):
    """Tells a worker that it is worth asking for steps, what it should know, and what it has traded for."""

    notices: list[Notice]
    unsettled: int
    answers: list[ReportAnswer]  #: to the reports it has traded, in their order
    assignments: list[StepAssignment]


class Happened(_Message, frozen=True):
    """Tells a watcher of a move."""

    instance_id: str
    move: Move


FromBroker = (
    Welcome
    | Done
    | Registered
    | Steps
    | Answers
    | Runs
    | Story
    | Found
    | Load
    | Removed
    | BrokerStatus
    | Refused
    | News
    | Happened
)

TO_BROKER: Incoming[ToBroker] = incoming(ToBroker)
FROM_BROKER: Incoming[FromBroker] = incoming(FromBroker)

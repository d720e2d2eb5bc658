"""What the tests of the pure parts share: a clock moved by hand, schemas in one line, and a bench for the scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fuseline.encoding import decode, encode, encode_error
from fuseline.messages import FailureDecision, ReportAnswer, ReportStatus, StepAssignment, StepReport
from fuseline.policies import Policy
from fuseline.policies.base import policy_config
from fuseline.scheduler import (
    Answer,
    Assign,
    Command,
    Event,
    Reported,
    RunCancelled,
    RunDispatched,
    Scheduler,
    StepsRequested,
    TimePassed,
    WorkerLeft,
    WorkerRegistered,
)
from fuseline.scheduler.run import Run
from fuseline.schema import ParameterSchema, StepSchema, WorkflowSchema
from fuseline.states import State
from fuseline.values import ErrorInfo, Value

from .witness import Witness

#: A net against deadlock, in seconds; never the thing measured.
HANG = 20.0


class FakeClock:
    """Monotonic seconds that pass only when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def step_schema(
    name: str, *predecessors: str, parameters: Sequence[ParameterSchema] | None = None, policies: Sequence[Policy] = ()
) -> StepSchema:
    """Return a step that, unless told otherwise, takes the results of all its predecessors as ``*parts``."""
    if parameters is None:
        parameters = (ParameterSchema(name="parts", required=False, variadic=True),) if predecessors else ()
    return StepSchema(
        name=name,
        kind="Work",
        predecessors=predecessors,
        parameters=tuple(parameters),
        policies=tuple(map(policy_config, policies)),
    )


def dag(
    edges: str,
    *,
    outputs: str | None = None,
    policies: Mapping[str, Sequence[Policy]] | None = None,
    on_failure: str = "stop",
    name: str = "wf",
    version: str = "",
) -> WorkflowSchema:
    """Return the schema of a graph written as ``"a>b>d a>c>d e"``; names are in the order of their first mention.

    Args:
        edges: chains, each after the steps it mentions were mentioned in an order that respects the edges.
        outputs: names, ``"d e"``; default are the steps without successors.
        policies: ``{step's name: its policies}``.
    """
    before: dict[str, dict[str, None]] = {}
    for chain in edges.split():
        names = chain.split(">")
        for i, step in enumerate(names):
            before.setdefault(step, {})
            if i:
                before[step][names[i - 1]] = None
    used = {other for others in before.values() for other in others}
    ends = outputs.split() if outputs is not None else [step for step in before if step not in used]
    steps = tuple(step_schema(s, *others, policies=(policies or {}).get(s, ())) for s, others in before.items())
    return WorkflowSchema(
        workflow_id=f"{name}@{version}" if version else name,
        name=name,
        version=version,
        steps=steps,
        outputs=tuple(ends),
        on_failure=on_failure,
    )


def chain_schema(length: int) -> WorkflowSchema:
    """Return the schema of a chain of ``length`` steps, ``s0`` to ``s<length - 1>``."""
    names = [f"s{i}" for i in range(length)]
    steps = tuple(step_schema(name, *names[max(0, i - 1) : i]) for i, name in enumerate(names))
    return WorkflowSchema(workflow_id="chain", name="chain", steps=steps, outputs=(names[-1],))


def error_info(error: BaseException | None = None) -> ErrorInfo:
    """Return an exception as a worker reports it."""
    return encode_error(error if error is not None else RuntimeError("boom"))


def report_of(assignment: StepAssignment, state: State, **fields: Any) -> StepReport:
    """Return a report about ``assignment``, with its token unless told otherwise."""
    return StepReport(
        **{
            "workflow_id": assignment.workflow_id,
            "instance_id": assignment.instance_id,
            "step_name": assignment.step_name,
            "token": assignment.token,
            "state": state,
            **fields,
        }
    )


class Bench:
    """A scheduler with verbs, and a witness that checks the invariants after every event.

    Args:
        schema: of the runs that ``dispatch`` makes; a worker ``w`` that serves it is registered.
        watch: whether the invariants are checked, which takes time by the size of the runs.
    """

    def __init__(self, schema: WorkflowSchema | None = None, *, worker: str | None = "w", watch: bool = True) -> None:
        self.scheduler = Scheduler()
        self.now = 0.0
        self.schema = schema
        self.commands: list[Command] = []
        self._witness = Witness(self.scheduler) if watch else None
        if schema is not None and worker is not None:
            self.register(worker, schema)

    def handle(self, event: Event) -> list[Command]:
        """Tell the scheduler and return its commands, which ``commands`` keeps until the next event."""
        self.commands = self.scheduler.handle(event, self.now)
        if self._witness is not None:
            self._witness.see(event, self.commands)
        return self.commands

    def told(self, kind: type[Command]) -> list[Any]:
        """Return those of the last commands that are of a kind."""
        return [command for command in self.commands if isinstance(command, kind)]

    # -- workers ------------------------------------------------------------------------------------------------------

    def register(self, worker: str, *schemas: WorkflowSchema) -> None:
        self.handle(WorkerRegistered(worker, schemas))

    def leave(self, worker: str = "w") -> None:
        self.handle(WorkerLeft(worker))

    def take(self, limit: int = 1, worker: str = "w", *, chains: bool = False) -> list[StepAssignment]:
        """Return what the worker is given when it asks for ``limit`` steps."""
        self.handle(StepsRequested(worker, limit, chains))
        return [assignment for command in self.told(Assign) for assignment in command.assignments]

    def take_one(self, worker: str = "w") -> StepAssignment:
        [assignment] = self.take(1, worker)
        return assignment

    def take_names(self, limit: int = 100, worker: str = "w") -> list[str]:
        return [assignment.step_name for assignment in self.take(limit, worker)]

    def report(self, report: StepReport, worker: str = "w") -> ReportAnswer:
        [answer] = self.report_all([report], worker)
        return answer

    def report_all(self, reports: Sequence[StepReport], worker: str = "w") -> list[ReportAnswer]:
        self.handle(Reported(worker, reports))
        return [answer for command in self.told(Answer) for answer in command.answers]

    def succeed(self, assignment: StepAssignment, result: Any = None, worker: str = "w") -> ReportAnswer:
        return self.report(report_of(assignment, State.SUCCEEDED, result=encode(result)), worker)

    def fail(
        self,
        assignment: StepAssignment,
        error: BaseException | None = None,
        *,
        decision: FailureDecision | None = None,
        worker: str = "w",
        **fields: Any,
    ) -> ReportAnswer:
        report = report_of(assignment, State.FAILED, error=error_info(error), decision=decision, **fields)
        return self.report(report, worker)

    def skip(self, assignment: StepAssignment, worker: str = "w") -> ReportAnswer:
        return self.report(report_of(assignment, State.SKIPPED), worker)

    def hand_back(self, assignment: StepAssignment, worker: str = "w") -> ReportAnswer:
        return self.report(report_of(assignment, State.READY), worker)

    def end_killed(self, assignment: StepAssignment, worker: str = "w") -> ReportAnswer:
        return self.report(report_of(assignment, State.CANCELLED), worker)

    # -- runs and time ------------------------------------------------------------------------------------------------

    def dispatch(self, instance_id: str = "r", schema: WorkflowSchema | None = None, **inputs: Any) -> Run:
        known = schema or self.schema
        assert known is not None
        values = {name: encode(value) for name, value in inputs.items()}
        self.handle(RunDispatched(instance_id, known, values))
        return self.run(instance_id)

    def cancel(self, instance_id: str = "r") -> None:
        self.handle(RunCancelled(instance_id))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.handle(TimePassed())

    def run(self, instance_id: str = "r") -> Run:
        return self.scheduler.run(instance_id)

    def states(self, instance_id: str = "r") -> dict[str, State]:
        run = self.run(instance_id)
        return dict(zip(run.plan.names, run.states, strict=True))

    def results(self, instance_id: str = "r") -> dict[str, Any]:
        """Return the results that the scheduler still holds."""
        run = self.run(instance_id)
        return {run.plan.names[step]: decode(value) for step, value in run.results.items()}

    def causes(self, instance_id: str = "r") -> dict[str, str]:
        run = self.run(instance_id)
        return {run.plan.names[step]: cause for step, cause in run.causes.items()}

    def step_through(self, names: str, worker: str = "w") -> None:
        """Let the steps succeed one after the other, each with its name as its result; they must come in this order."""
        for name in names.split():
            assignment = self.take_one(worker)
            assert assignment.step_name == name
            self.succeed(assignment, name, worker)

    def finish(self, worker: str = "w") -> int:
        """Let everything succeed that can, and return how many events it took."""
        events = 0
        while self.scheduler.unsettled(worker):
            assignments = self.take(10, worker)
            events += 1 + len(assignments)
            for assignment in assignments:
                self.succeed(assignment, worker=worker)
            if not assignments:
                due = self.scheduler.next_due()
                assert due is not None, "nothing is ready, nothing is due, and not everything has ended"
                self.now = max(self.now, due)
        return events


def arguments_of(assignment: StepAssignment) -> dict[str, Any]:
    """Return the arguments of an assignment as objects."""

    def read(value: Value | tuple[Value, ...]) -> Any:
        return tuple(map(decode, value)) if isinstance(value, tuple) else decode(value)

    return {name: read(value) for name, value in assignment.payload.arguments.items()}


ACCEPTED, STALE, UNKNOWN = ReportStatus.ACCEPTED, ReportStatus.STALE, ReportStatus.UNKNOWN

"""What a scheduler promises, written down a second time: slow, without queues or counters, to be believed at a reading.

It is told the same events as the scheduler and says what has to follow. Everything that the scheduler keeps up to date
is found anew here, by looking at all steps: which step has become ready, which can never start, whether a run is over,
who needs a result. Steps of these workflows either take the results of all steps before them or of none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fuseline.messages import FailureDecision, ReportStatus, StepReport
from fuseline.scheduler import (
    Event,
    Reported,
    RunCancelled,
    RunDispatched,
    RunForgotten,
    StepCancelled,
    StepsRequested,
    TimePassed,
    WorkerLeft,
    WorkerRegistered,
)
from fuseline.schema import StepSchema, WorkflowSchema
from fuseline.states import State

__all__ = ["Reference"]

PENDING, READY, RUNNING, RETRYING = State.PENDING, State.READY, State.RUNNING, State.RETRYING
SUCCEEDED, FAILED, SKIPPED, CANCELLED = State.SUCCEEDED, State.FAILED, State.SKIPPED, State.CANCELLED
RESTARTS = 10  #: so often may a step start again because its worker ended

Said = tuple[Any, ...]  #: what is told: ("assign", …), ("answer", …), ("kill", …) …


@dataclass
class RefStep:
    """A step of a run."""

    schema: StepSchema
    state: State = PENDING
    attempts: int = 0
    restarts: int = 0
    failures: dict[int, int] = field(default_factory=dict)
    unwanted: bool = False
    cause: str = ""  #: why it was skipped or cancelled
    blame: str = ""  #: why those that depend on it never start
    token: int | None = None
    promise: tuple[int, str, int] | None = None  #: the token it will have, whose, and that of the step it follows
    due: float | None = None
    stamp: int = 0  #: when it became ready, or began to wait: larger is later


@dataclass
class RefRun:
    """A run of a workflow."""

    name: str
    schema: WorkflowSchema
    steps: dict[str, RefStep]
    state: State = PENDING
    cancelled: bool = False
    failed: list[str] = field(default_factory=list)
    started: bool = False
    started_by: str | None = None
    start_token: int | None = None
    age: int = 0  #: smaller is older

    @property
    def stops(self) -> bool:
        return self.cancelled or bool(self.failed and self.schema.on_failure == "stop")

    def before(self, step: RefStep) -> list[RefStep]:
        return [self.steps[name] for name in step.schema.predecessors]

    def steps_done(self, step: RefStep) -> bool:
        return all(each.state is SUCCEEDED for each in self.before(step))

    def keeps_result(self, name: str) -> bool:
        """Whether somebody may still ask for the result of a step: an output, or the argument of one to come."""
        if self.steps[name].state is not SUCCEEDED:
            return False
        if name in self.schema.outputs:
            return True
        return any(takes(step, name) and not step.state.is_settled for step in self.steps.values())


def takes(step: RefStep, name: str) -> bool:
    return bool(step.schema.parameters) and name in step.schema.predecessors


class Reference:
    """The whole scheduler. ``handle`` takes an event and returns what has to be told because of it."""

    def __init__(self) -> None:
        self.runs: dict[str, RefRun] = {}
        self.workers: dict[str, tuple[str, ...] | None] = {}  #: {worker: its workflows; None if only heard of}
        self.held: dict[int, tuple[str, str, str]] = {}  #: {token: (worker, run, step)}
        self.last_token = 0
        self._count = 0  #: of all that was stamped
        self._said: list[Said] = []
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            WorkerRegistered: self._registered,
            WorkerLeft: self._left,
            RunDispatched: self._dispatched,
            RunCancelled: self._run_cancelled,
            StepCancelled: self._step_cancelled,
            RunForgotten: self._forgotten,
            StepsRequested: self._requested,
            TimePassed: self._time_passed,
            Reported: self._reported,
        }

    def handle(self, event: Event, now: float) -> list[Said]:
        self._said = []
        self._handlers[type(event)](event, now)
        return self._said

    def next_due(self) -> float | None:
        waiting = [step.due for run in self.runs.values() for step in run.steps.values() if step.due is not None]
        return min(waiting, default=None)

    # -- what follows by itself ---------------------------------------------------------------------------------------

    def _settle(self, run: RefRun, *, reported: bool = False) -> None:
        """Let everything follow that follows from how the steps of a run stand, until nothing does."""
        while self._settle_one(run) or self._break_one(run) or self._keep_one(run):
            pass
        for step in reversed(run.steps.values()):  # so that the first one became ready last, and goes out first
            if step.state is PENDING and all(each.state is SUCCEEDED for each in run.before(step)):
                self._ready(run, step)
        if run.state.is_settled or not all(step.state.is_settled for step in run.steps.values()):
            return
        run.state = self._end_of(run)
        tell = run.started_by if not reported and run.started_by in self.workers else None
        self._said.append(("finished", run.name, run.state, tell))

    @staticmethod
    def _settle_one(run: RefRun) -> bool:
        """Cancel or skip one step that can never start; return whether there was one."""
        for step in run.steps.values():
            if run.stops and step.state in (PENDING, READY, RETRYING):
                why = "the run was cancelled" if run.cancelled else f"step {run.failed[0]!r} failed"
                step.state, step.cause, step.due = CANCELLED, why, None
                return True
            lost = [each for each in run.before(step) if each.state in (FAILED, SKIPPED, CANCELLED)]
            if step.state is PENDING and lost:
                step.state = SKIPPED if lost[0].state is SKIPPED else CANCELLED
                step.cause = step.blame = lost[0].blame
                return True
        return False

    @staticmethod
    def _break_one(run: RefRun) -> bool:
        """Take back one promise whose step cannot follow any more; return whether there was one."""
        for step in run.steps.values():
            if step.promise is not None:
                ahead = [each.token or (each.promise and each.promise[0]) for each in run.before(step)]
                if step.state is not PENDING or not (step.promise[2] in ahead or run.steps_done(step)):
                    step.promise = None
                    return True
        return False

    def _keep_one(self, run: RefRun) -> bool:
        """Start one step that was promised to, and whose time has come; return whether there was one."""
        for step in run.steps.values():
            if step.promise is not None and run.steps_done(step):
                step.token, worker, _ = step.promise
                step.state, step.promise = RUNNING, None
                step.attempts += 1
                self.held[step.token] = (worker, run.name, step.schema.name)
                return True
        return False

    @staticmethod
    def _end_of(run: RefRun) -> State:
        states = {step.state for step in run.steps.values()}
        if run.cancelled and not states <= {SUCCEEDED, SKIPPED}:
            return CANCELLED
        if FAILED in states:
            return FAILED
        return CANCELLED if CANCELLED in states else SUCCEEDED

    def _stamp(self, step: RefStep) -> None:
        self._count += 1
        step.stamp = self._count

    def _ready(self, run: RefRun, step: RefStep) -> None:
        step.state, step.due = READY, None
        self._stamp(step)
        if ("ready", run.schema.workflow_id) not in self._said:
            self._said.append(("ready", run.schema.workflow_id))

    # -- workers ------------------------------------------------------------------------------------------------------

    def _registered(self, event: WorkerRegistered, now: float) -> None:
        self.workers[event.worker_id] = tuple(schema.workflow_id for schema in event.schemas)

    def _left(self, event: WorkerLeft, now: float) -> None:
        del self.workers[event.worker_id]
        lost = [(token, run, step) for token, (worker, run, step) in self.held.items() if worker == event.worker_id]
        for token, _, _ in lost:
            del self.held[token]
        for _, run_name, name in lost:
            run = self.runs[run_name]
            run.steps[name].token = None
            while self._break_one(run):
                pass
            self._restart(run, name)
            self._settle(run)

    def _requested(self, event: StepsRequested, now: float) -> None:
        self._time_passed(TimePassed(), now)
        left = event.limit
        while left:
            served = [run for run in self.runs.values() if run.schema.workflow_id in self.workers[event.worker_id]]
            ready = [(run, step) for run in served for step in run.steps.values() if step.state is READY]
            if not ready:
                return
            run, step = max(ready, key=lambda each: (-each[0].age, each[1].stamp))
            self._assign(event.worker_id, run, step)
            left -= 1
            follows = self.last_token
            while left and event.chains and (after := self._only_next(run, step)) is not None:
                step, follows = after, self._promise(event.worker_id, run, after, follows)
                left -= 1

    @staticmethod
    def _only_next(run: RefRun, step: RefStep) -> RefStep | None:
        """Return the first step that waits for this one alone, and was never begun."""
        for after in run.steps.values():
            waits_for = [each for each in run.before(after) if each.state is not SUCCEEDED]
            if after.state is PENDING and not after.attempts and waits_for == [step]:
                return after
        return None

    def _promise(self, worker: str, run: RefRun, step: RefStep, follows: int) -> int:
        self.last_token += 1
        step.promise = (self.last_token, worker, follows)
        arguments = len(step.schema.predecessors) if step.schema.parameters else 0
        whom = (worker, self.last_token, run.name, step.schema.name)
        self._said.append(("assign", *whom, 1, {}, False, arguments))
        return self.last_token

    def _assign(self, worker: str, run: RefRun, step: RefStep) -> None:
        self.last_token += 1
        step.state, step.token = RUNNING, self.last_token
        step.attempts += 1
        self.held[step.token] = (worker, run.name, step.schema.name)
        starts_run = run.start_token is None
        if starts_run:
            run.state, run.started, run.started_by, run.start_token = RUNNING, True, worker, step.token
        arguments = len(step.schema.predecessors) if step.schema.parameters else 0
        whom = (worker, step.token, run.name, step.schema.name)
        self._said.append(("assign", *whom, step.attempts, dict(step.failures), starts_run, arguments))

    # -- runs ---------------------------------------------------------------------------------------------------------

    def _dispatched(self, event: RunDispatched, now: float) -> None:
        self._count += 1
        steps = {schema.name: RefStep(schema) for schema in event.schema.steps}
        self.runs[event.instance_id] = run = RefRun(event.instance_id, event.schema, steps, age=self._count)
        self._settle(run)

    def _run_cancelled(self, event: RunCancelled, now: float) -> None:
        run = self.runs[event.instance_id]
        if not run.state.is_settled and not run.cancelled:
            run.cancelled = True
            self._tell_holders("kill", run)
            self._settle(run)

    def _step_cancelled(self, event: StepCancelled, now: float) -> None:
        run = self.runs[event.instance_id]
        step = run.steps[event.step_name]
        if step.state.is_settled or step.unwanted:
            return
        step.unwanted = True
        if step.state is RUNNING:
            assert step.token is not None
            self._said.append(("kill", self.held[step.token][0], step.token))
        else:
            if step.promise is not None:
                self._tell_promised("kill", run, step.promise[0])
            self._cancel(run, step)
        self._settle(run)

    def _forgotten(self, event: RunForgotten, now: float) -> None:
        del self.runs[event.instance_id]

    def _time_passed(self, event: TimePassed, now: float) -> None:
        waiting = [(run, step) for run in self.runs.values() for step in run.steps.values() if step.due is not None]
        for run, step in sorted(waiting, key=lambda each: (each[1].due, each[1].stamp)):
            if step.due is not None and step.due <= now:
                self._ready(run, step)

    def _tell_holders(self, what: str, run: RefRun) -> None:
        for token, (worker, run_name, _) in self.held.items():
            if run_name == run.name:
                self._said.append((what, worker, token))
        for step in run.steps.values():
            if step.promise is not None:
                self._said.append((what, step.promise[1], step.promise[0]))
                step.promise = None

    def _tell_promised(self, what: str, run: RefRun, token: int) -> None:
        """Tell who was promised a step with this token, and those that would follow it, and take that back."""
        for step in run.steps.values():
            if step.promise is not None and token in (step.promise[0], step.promise[2]):
                token = step.promise[0]  # they come in this order
                self._said.append((what, step.promise[1], token))
                step.promise = None

    # -- ends of attempts ---------------------------------------------------------------------------------------------

    def _reported(self, event: Reported, now: float) -> None:
        for report in event.reports:
            self._hear(event.worker_id, report, now)

    def _hear(self, worker_id: str, report: StepReport, now: float) -> None:
        run = self.runs.get(report.instance_id)
        step = run.steps.get(report.step_name) if run is not None else None
        if run is None or step is None:
            self._said.append(("answer", ReportStatus.UNKNOWN, None, 0.0, None))
            return
        if report.state is READY and (step.promise or (None,))[:2] == (report.token, worker_id):
            step.promise = None
            self._settle(run)
            self._said.append(("answer", ReportStatus.ACCEPTED, PENDING, 0.0, None))
            return
        token = report.token if report.token is not None else step.token
        if token is None or self.held.get(token) != (worker_id, run.name, step.schema.name):
            was_given = step.attempts > 0 or (report.token is not None and 0 < report.token <= self.last_token)
            status = ReportStatus.STALE if was_given else ReportStatus.UNKNOWN
            self._said.append(("answer", status, None, 0.0, None))
            return
        del self.held[token]
        step.token = None
        if report.state is READY and token == run.start_token and not report.told:
            run.start_token = None  # the next assignment tells of it
        while report.state is not SUCCEEDED and self._break_one(run):
            pass  # who was to follow it knows by itself
        delay = self._end_attempt(run, step, report, now)
        state = step.state
        self._settle(run, reported=True)
        end = run.state if run.state.is_settled else None
        self._said.append(("answer", ReportStatus.ACCEPTED, state, delay, end))

    def _end_attempt(self, run: RefRun, step: RefStep, report: StepReport, now: float) -> float:
        name = step.schema.name
        if report.state is SUCCEEDED:
            step.state, step.failures = SUCCEEDED, {}
        elif report.state is READY:
            step.attempts -= 1  # it was not begun
            self._give_back(run, step)
        elif report.state is CANCELLED and not (step.unwanted or run.stops):
            self._restart(run, name)
        elif report.state is CANCELLED:
            self._cancel(run, step)
        elif report.state is SKIPPED:
            self._skip(step)
        else:
            return self._fail_attempt(run, step, report, now)
        return 0.0

    def _fail_attempt(self, run: RefRun, step: RefStep, report: StepReport, now: float) -> float:
        decision, place = report.decision, report.decided_by
        if decision is None:
            decision, place = self._decide(step), 0
        if decision.action == FailureDecision.SKIP:
            self._skip(step)
        elif decision.action == FailureDecision.FAIL or (run.stops and not step.unwanted):
            self._fail(run, step)
        elif step.unwanted:
            self._cancel(run, step)
        else:
            if place is not None:
                step.failures[place] = step.failures.get(place, 0) + 1
            step.state, step.due = RETRYING, now + decision.delay
            self._stamp(step)
            return decision.delay
        return 0.0

    @staticmethod
    def _decide(step: RefStep) -> FailureDecision:
        for policy in step.schema.policies:  # one at most, and it answers for any exception
            if step.failures.get(0, 0) < policy["config"]["max_retries"]:
                return FailureDecision(FailureDecision.RETRY, policy["config"]["wait"])
        return FailureDecision(FailureDecision.FAIL)

    def _fail(self, run: RefRun, step: RefStep) -> None:
        stopped_before = run.stops
        step.state, step.blame = FAILED, f"step {step.schema.name!r} failed"
        run.failed.append(step.schema.name)
        if run.stops and not stopped_before:
            self._tell_holders("recall", run)

    def _restart(self, run: RefRun, name: str) -> None:
        step = run.steps[name]
        step.restarts += 1
        if step.restarts > RESTARTS and not step.unwanted and not run.stops:
            self._fail(run, step)
        else:
            self._give_back(run, step)

    def _give_back(self, run: RefRun, step: RefStep) -> None:
        if step.unwanted or run.stops:
            self._cancel(run, step)
        else:
            self._ready(run, step)

    @staticmethod
    def _skip(step: RefStep) -> None:
        step.state, step.cause = SKIPPED, "a policy chose to skip it"
        step.blame = f"step {step.schema.name!r} was skipped"

    @staticmethod
    def _cancel(run: RefRun, step: RefStep) -> None:
        if run.cancelled:
            step.cause = "the run was cancelled"
        elif step.unwanted:
            step.cause = "it was cancelled"
        else:
            step.cause = f"step {run.failed[0]!r} failed"
        step.state, step.due = CANCELLED, None
        step.blame = f"step {step.schema.name!r} was cancelled"

    # -- another scheduler --------------------------------------------------------------------------------------------

    def restart(self, first_token: int) -> None:
        """Go on as the scheduler after this one, which knows what was recorded: all runs, but no worker by itself."""
        self.last_token = first_token - 1
        held, self.held, self.workers = self.held, {}, {}
        for run in self.runs.values():
            for step in run.steps.values():
                step.promise = None
                if step.token is not None:
                    self.held[step.token] = held[step.token]
                    self.workers[held[step.token][0]] = None
                if step.state is RETRYING:
                    self._stamp(step)
            self._stamp_ready(run)

    def resume(self, name: str) -> set[str]:
        """Let a run that has ended go on: what has succeeded or was skipped is kept, if the rest can build on it.

        Returns:
            The steps that start anew.
        """
        run = self.runs.pop(name)
        there = {other for other in run.steps if run.keeps_result(other)}
        kept = {other for other, step in run.steps.items() if step.state in (SUCCEEDED, SKIPPED)}
        while more := {other for other in kept if self._is_needed_anew(run, other, kept, there)}:
            kept -= more
        self._said = []
        anew = run.steps.keys() - kept
        for other in anew:
            run.steps[other] = RefStep(run.steps[other].schema, attempts=run.steps[other].attempts)
        run.state = RUNNING if run.started else PENDING
        run.cancelled, run.failed, run.started_by, run.start_token = False, [], None, None
        self.runs[name] = run
        self._settle(run)
        self._stamp_ready(run)
        return anew

    @staticmethod
    def _is_needed_anew(run: RefRun, name: str, kept: set[str], there: set[str]) -> bool:
        """Whether a step that had ended well has to run again for those that start anew."""
        anew = [step for other, step in run.steps.items() if other not in kept and name in step.schema.predecessors]
        if run.steps[name].state is SKIPPED:
            return bool(anew)
        return name not in there and (name in run.schema.outputs or any(takes(step, name) for step in anew))

    def _stamp_ready(self, run: RefRun) -> None:
        for step in reversed(run.steps.values()):
            if step.state is READY:
                self._stamp(step)

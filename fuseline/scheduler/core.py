"""The scheduling core: ``handle(event, now) -> commands``.

It decides which step is ready, who gets it, what follows its end, and when a run is over. It is told the time with each
event, acts on nothing, and can be driven by a test in three lines::

    scheduler.handle(WorkerRegistered("w", (schema,)), now=0.0)
    scheduler.handle(RunDispatched("r", schema, {}), now=0.0)
    [assign] = scheduler.handle(StepsRequested("w", 1), now=0.0)

Each event costs O(1) per step and edge it touches, and a logarithm of the runs that wait; there is no scan over runs,
steps or workers. (A worker that serves several workflows looks at the front of the queue of each.) The steps of a run
are walked once when the run stops early, and each of them settles by that.

A token names each hand-over. It is live from ``Assign`` until the first report with it, or until its worker has left;
any other report changes nothing, so an outcome is observed exactly once, however often a step had to start.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection
from typing import Any

from fuseline.errors import (
    RunNotFinished,
    StepLost,
    UnknownRunError,
    UnknownStepError,
    UnknownWorkerError,
    WorkflowChangedError,
    WorkflowError,
)
from fuseline.messages import (
    FailureAction,
    FailureDecision,
    ReportAnswer,
    ReportStatus,
    StepAssignment,
    StepReport,
)
from fuseline.scheduler.archive import restore_run
from fuseline.scheduler.deadlines import Deadlines
from fuseline.scheduler.events import (
    Answer,
    Assign,
    Command,
    Dropped,
    Event,
    Finished,
    Kill,
    Moved,
    Recall,
    Reported,
    RunCancelled,
    RunDispatched,
    RunForgotten,
    RunRestored,
    StepCancelled,
    StepsReady,
    StepsRequested,
    TimePassed,
    WorkerLeft,
    WorkerRegistered,
)
from fuseline.scheduler.invariants import check_scheduler
from fuseline.scheduler.plan import Plan
from fuseline.scheduler.ready import ReadyRuns
from fuseline.scheduler.run import Run
from fuseline.schema import WorkflowSchema
from fuseline.states import State
from fuseline.values import ErrorInfo, encode_own_error

__all__ = ["MAX_CHAIN", "MAX_RESTARTS", "Scheduler"]

#: How often a step may start again because its engine died; more than that, and the step is likely what kills engines.
MAX_RESTARTS = 10

#: How many steps may be handed out together with one that they follow: enough to make the hand-over cheap for each.
MAX_CHAIN = 100

_SUCCEEDED = ReportAnswer(status=ReportStatus.ACCEPTED, step_state=State.SUCCEEDED)  #: most of them are this one
_STALE = ReportAnswer(status=ReportStatus.STALE)
_UNKNOWN = ReportAnswer(status=ReportStatus.UNKNOWN)


class _Flow:
    """A workflow and its runs."""

    __slots__ = ("plan", "ready", "unsettled", "workers")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ready = ReadyRuns()
        self.unsettled = 0
        self.workers = 0


class _Worker:
    __slots__ = ("flows", "held", "is_registered")

    def __init__(self) -> None:
        self.is_registered = False  #: if not, it is known from a run that was restored
        self.flows: list[_Flow] = []
        self.held: dict[int, None] = {}  #: tokens, in the order they were given out


class Scheduler:
    """Owns runs. Not thread-safe: its housing calls ``handle`` once at a time.

    Args:
        draw: gives a random number in [0, 1), for the jitter of retries that no worker has decided on.
        first_token, first_number: of the first assignment and the first run. Larger than any that a scheduler before
            it, whose runs are restored, has given out.
        checked: whether to check all invariants after each event, which costs time for each step of each run.
    """

    def __init__(
        self,
        draw: Callable[[], float] = lambda: 0.5,
        *,
        first_token: int = 1,
        first_number: int = 1,
        checked: bool = False,
    ) -> None:
        self.runs: dict[str, Run] = {}
        self.watched = False  #: whether to tell every move
        self._draw = draw
        self._checked = checked
        self._flows: dict[str, _Flow] = {}
        self._workers: dict[str, _Worker] = {}
        self._live: dict[int, tuple[str, Run, int]] = {}  #: {token: (worker, run, step)}
        self._last_token = first_token - 1
        self._numbers = itertools.count(first_number)
        self._retries: list[tuple[float, int, Run, int]] = []  #: (due, tie-breaker, run, step)
        self._deadlines = Deadlines()
        #: {token: (worker, run's id, step's name)} of what ran when its run had had its time, and may not be dead yet
        self._lingering: dict[int, tuple[str, str, str]] = {}
        self._commands: list[Command] = []
        self._moves: int  #: that have followed from the event at hand
        self._most_moves = 0  #: that may follow from an event: the sum over all runs
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            WorkerRegistered: self._worker_registered,
            WorkerLeft: self._worker_left,
            RunDispatched: self._run_dispatched,
            RunRestored: self._run_restored,
            StepsRequested: self._steps_requested,
            Reported: self._reported,
            TimePassed: self._time_passed,
            RunCancelled: self._run_cancelled,
            StepCancelled: self._step_cancelled,
            RunForgotten: self._run_forgotten,
        }

    # -- asking -------------------------------------------------------------------------------------------------------

    def run(self, instance_id: str) -> Run:
        """Return the state of a run, to be read only.

        Raises:
            UnknownRunError: there is none of this id.
        """
        try:
            return self.runs[instance_id]
        except KeyError:
            raise UnknownRunError(instance_id) from None

    def unsettled(self, worker_id: str) -> int:
        """Return how many runs that this worker can serve have not ended."""
        return sum(flow.unsettled for flow in self._worker(worker_id).flows)

    def load(self, workflow_id: str) -> tuple[int, int]:
        """Return how many runs of a workflow have not ended, and how many workers serve it."""
        flow = self._flows.get(workflow_id)
        return (0, 0) if flow is None else (flow.unsettled, flow.workers)

    def next_due(self) -> float | None:
        """Return when time alone does something next, in monotonic seconds, or None: a retry may start, a run ends."""
        while self._retries and not self._is_waiting(self._retries[0]):
            heapq.heappop(self._retries)
        moments = [self._retries[0][0]] if self._retries else []
        if (deadline := self.next_deadline()) is not None:
            moments.append(deadline)
        return min(moments, default=None)

    def next_deadline(self) -> float | None:
        """Return when the next run has had its time, in monotonic seconds, or None if none has a limit."""
        first = self._deadlines.first()
        return None if first is None else first[0]

    def lingers(self, instance_id: str) -> bool:
        """Return whether a worker may still run a step of this run, though that has had its time and has ended."""
        return any(of_run == instance_id for _, of_run, _ in self._lingering.values())

    def let_linger(self, worker_id: str, held: Collection[int]) -> None:
        """Take note that of what may linger at a worker, it has these tokens only."""
        for token, (owner, _, _) in list(self._lingering.items()):
            if owner == worker_id and token not in held:
                del self._lingering[token]

    def held_by(self, worker_id: str) -> tuple[int, ...]:
        """Return the live tokens of a worker, in the order they were given out."""
        return tuple(self._worker(worker_id).held)

    def token_of(self, worker_id: str, report: StepReport) -> int | None:
        """Return the live token that a report is about; None if this worker has none for it."""
        if report.token is None:
            found = self._find(report)
            if found is None or found[0].workers.get(found[1]) != worker_id:
                return None
            return found[0].running[found[1]]
        live = self._live.get(report.token)
        if live is None or live[0] != worker_id:
            return None
        _, run, step = live
        is_it = run.instance_id == report.instance_id and run.plan.names[step] == report.step_name
        return report.token if is_it else None

    def assigned(self, token: int) -> tuple[Run, int]:
        """Return the run and the step that a live token stands for."""
        _, run, step = self._live[token]
        return run, step

    # -- the one way in -----------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in what happened at ``now`` (monotonic seconds, never going back) and return what to do, in order.

        Raises:
            WorkflowError, UnknownRunError, UnknownWorkerError, RunNotFinished: the event makes no sense; nothing was
                changed.
            IllegalMove, EndlessMoves, InvariantBroken: a bug in here. What is held may be wrong now: go on from what
                was recorded.
        """
        self._commands = commands = list[Command]()
        self._moves = 0
        self._handlers[type(event)](event, now)
        if self._checked:
            check_scheduler(self)
        return commands

    # -- workers ------------------------------------------------------------------------------------------------------

    def _worker_registered(self, event: WorkerRegistered, now: float) -> None:
        flows = [self._flow(schema) for schema in event.schemas]
        worker = self._workers.setdefault(event.worker_id, _Worker())
        if worker.is_registered:
            raise WorkflowError(f"worker id {event.worker_id!r} is taken. Each worker registers once.")
        for flow in flows:
            flow.workers += 1
        worker.is_registered = True
        worker.flows = flows

    def _worker_left(self, event: WorkerLeft, now: float) -> None:
        worker = self._worker(event.worker_id)
        for flow in worker.flows:
            flow.workers -= 1
        self.let_linger(event.worker_id, ())
        ended = [self._release(token) for token in list(worker.held)]
        del self._workers[event.worker_id]  # first, so that it is told nothing of what follows
        for _, run, step in ended:
            run.break_promise(run.promised_after(step))
            self._restart(run, step, now)
            self._finish_if_done(run, now)

    def _worker(self, worker_id: str) -> _Worker:
        try:
            return self._workers[worker_id]
        except KeyError:
            raise UnknownWorkerError(worker_id) from None

    def _flow(self, schema: WorkflowSchema) -> _Flow:
        flow = self._flows.get(schema.workflow_id)
        if flow is not None and flow.plan.fingerprint != schema.fingerprint:
            self.check_unused(schema.workflow_id)
            flow = None  # nobody works with the old one any more
        if flow is None:
            flow = self._flows[schema.workflow_id] = _Flow(Plan(schema))
        return flow

    def check_unused(self, workflow_id: str, but: Collection[Run] = ()) -> None:
        """Make sure that a changed workflow may take the place of this one.

        Args:
            but: runs that have not ended, and do not matter.

        Raises:
            WorkflowChangedError: a worker serves it, or another run of it has not ended.
        """
        flow = self._flows.get(workflow_id)
        if flow is None:
            return
        if flow.workers:
            raise WorkflowChangedError(workflow_id, workers=flow.workers)
        if flow.unsettled <= len(but):
            return
        others = set(but)
        in_the_way = [
            run.instance_id
            for run in self.runs.values()
            if run.plan.workflow_id == workflow_id and run not in others and not run.state.is_settled
        ]
        raise WorkflowChangedError(workflow_id, in_the_way)

    # -- runs ---------------------------------------------------------------------------------------------------------

    def _run_dispatched(self, event: RunDispatched, now: float) -> None:
        if event.instance_id in self.runs:
            raise WorkflowError(f"run id {event.instance_id!r} is taken. Each run has an id of its own.")
        flow = self._flow(event.schema)
        bound = flow.plan.bind(event.inputs)
        run = Run(event.instance_id, next(self._numbers), flow.plan, bound, event.inputs, now)
        self._keep(run)
        flow.unsettled += 1
        for step in flow.plan.roots:
            run.make_ready(step)
        self._follow(run)

    def _run_restored(self, event: RunRestored, now: float) -> None:
        if event.record.instance_id in self.runs:
            raise WorkflowError(f"run id {event.record.instance_id!r} is taken. Each run has an id of its own.")
        flow = self._flow(event.schema)
        run = restore_run(event.record, flow.plan, event.epoch)
        run.taken_up = now
        self._keep(run)
        if run.state.is_settled:
            return
        flow.unsettled += 1
        for step, token in run.running.items():
            worker_id = run.workers[step]
            # It comes back and registers, or somebody finds that it is gone.
            self._workers.setdefault(worker_id, _Worker()).held[token] = None
            self._live[token] = (worker_id, run, step)
        for step, due in run.due.items():
            # Never longer than it was to wait when it failed: the clock on the wall may have been moved meanwhile.
            run.due[step] = min(due, now + due - run.step_started.get(step, now))
            self._await_retry(run, step)
        if event.record.spent is not None and flow.plan.timeout is not None and not run.cancelled:
            run.timed_from = now - min(max(event.record.spent, 0.0), flow.plan.timeout)
            self._deadlines.add(run, run.timed_from + flow.plan.timeout)
        if run.ready:
            flow.ready.add(run)
            self._commands.append(StepsReady(flow.plan.workflow_id))
        self._finish_if_done(run, now)  # of a changed workflow, nothing may be left to do

    def _run_cancelled(self, event: RunCancelled, now: float) -> None:
        run = self.run(event.instance_id)
        if run.state.is_settled or run.cancelled:
            return
        run.cancel(now)
        self._deadlines.discard(run)
        for token in run.running.values():
            self._commands.append(Kill(self._live[token][0], token))
        self._kill_promised(run.break_promises())
        self._finish_if_done(run, now)

    def _kill_promised(self, broken: list[tuple[int, str]]) -> None:
        """Have ended what follows a step, and may have begun if the report of that is on its way."""
        self._commands += [Kill(worker_id, token) for token, worker_id in broken]

    def _step_cancelled(self, event: StepCancelled, now: float) -> None:
        run = self.run(event.instance_id)
        step = run.plan.index.get(event.step_name)
        if step is None:
            raise UnknownStepError(event.step_name, run.plan.schema.name, run.plan.names)
        if run.states[step].is_settled or step in run.unwanted:
            return
        self._kill_promised(run.break_promise(step))
        run.reject(step, now)
        if (token := run.running.get(step)) is not None:
            self._commands.append(Kill(run.workers[step], token))
        self._finish_if_done(run, now)

    def _run_forgotten(self, event: RunForgotten, now: float) -> None:
        run = self.run(event.instance_id)
        if not run.state.is_settled:
            raise RunNotFinished(run.instance_id, run.plan.schema.name, run.state)
        del self.runs[event.instance_id]
        self._most_moves -= run.most_moves

    def _keep(self, run: Run) -> None:
        self.runs[run.instance_id] = run
        self._most_moves += run.most_moves

    def _finish_if_done(self, run: Run, now: float, *, reported: bool = False) -> None:
        """End a run whose steps are all settled, and follow its moves.

        Args:
            reported: whether the answer to a report will tell of the end, so that nobody else need be told.
        """
        finished = run.finish_if_done(now)
        self._follow(run)
        if finished:
            self._deadlines.discard(run)
            self._flows[run.plan.workflow_id].unsettled -= 1
            tell = run.started_by if not reported and run.started_by in self._workers else None
            self._commands.append(Finished(run.plan.workflow_id, run.instance_id, run.state, tell))

    def _follow(self, run: Run) -> None:
        """Do what the moves of a run since the last call ask for: queue it, wake workers, tell those who watch."""
        workflow_id = run.plan.workflow_id
        self._moves += len(run.journal)
        if self._moves > self._most_moves:
            raise run.endless(self._most_moves)
        for step, _, _ in run.journal:
            if step is not None and run.states[step] is State.READY:
                self._flows[workflow_id].ready.add(run)
                self._commands.append(StepsReady(workflow_id))
                break
        if self.watched:
            for step, state, cause in run.journal:
                name = None if step is None else run.plan.names[step]
                attempt = None if step is None else run.attempts[step]
                self._commands.append(Moved(run.instance_id, name, state, attempt, cause))
        run.journal.clear()
        if run.dropped:
            self._commands.append(Dropped(run.dropped))
            run.dropped = []

    # -- handing out --------------------------------------------------------------------------------------------------

    def _steps_requested(self, event: StepsRequested, now: float) -> None:
        worker = self._worker(event.worker_id)
        self._time_passed(TimePassed(), now)
        assigned: list[StepAssignment] = []
        while len(assigned) < event.limit and (run := self._oldest(worker)) is not None:
            while len(assigned) < event.limit and run.ready:  # nothing becomes ready meanwhile: it stays the oldest
                step = run.ready.pop()
                assigned.append(self._assign(event.worker_id, run, step, now))
                if event.chains:
                    assigned += self._promise(event.worker_id, run, step, min(event.limit - len(assigned), MAX_CHAIN))
            self._follow(run)
        if assigned:
            self._commands.append(Assign(event.worker_id, assigned))

    def _oldest(self, worker: _Worker) -> Run | None:
        firsts = [run for flow in worker.flows if (run := flow.ready.first()) is not None]
        return min(firsts, key=lambda run: run.number, default=None)

    def _assign(self, worker_id: str, run: Run, step: int, now: float) -> StepAssignment:
        self._last_token = token = self._last_token + 1
        self._start(worker_id, run, step, token, now)
        if run.timed_from is None:
            run.timed_from = now
            if run.plan.timeout is not None:
                self._deadlines.add(run, now + run.plan.timeout)
        starts_run = not run.start_token
        if starts_run:
            run.start_differs = run.start_token is not None
            run.started_by, run.start_token = worker_id, token
        return self._hand_out(run, step, token, run.attempts[step], starts_run, None)

    def _start(self, worker_id: str, run: Run, step: int, token: int, now: float) -> None:
        """Begin the life of a token."""
        run.start(step, token, worker_id, now)
        self._workers[worker_id].held[token] = None
        self._live[token] = (worker_id, run, step)

    def _promise(self, worker_id: str, run: Run, step: int, limit: int) -> list[StepAssignment]:
        """Hand out, with a step, up to ``limit`` that can come after it only, each after the other.

        The worker goes on with them by itself. Here, each starts when the success of the one before it is reported.
        """
        promised: list[StepAssignment] = []
        token = run.running[step]
        while len(promised) < limit and (after := run.only_next(step)) is not None:
            follows, self._last_token = token, self._last_token + 1
            step, token = after, self._last_token
            run.promised[step] = (token, worker_id)
            promised.append(self._hand_out(run, step, token, 1, False, follows))
        return promised

    @staticmethod
    def _hand_out(
        run: Run, step: int, token: int, attempt: int, starts_run: bool, follows: int | None
    ) -> StepAssignment:
        plan = run.plan
        return StepAssignment(
            workflow_id=plan.workflow_id,
            instance_id=run.instance_id,
            step_name=plan.names[step],
            payload=run.payload(step, attempt, starts_run),
            token=token,
            attempt=attempt,
            timeout=plan.timeouts[step],
            failure_stops_run=plan.stops_on_failure,
            memory_limit=plan.memory_limits[step],
            follows=follows,
        )

    # -- reports ------------------------------------------------------------------------------------------------------

    def _reported(self, event: Reported, now: float) -> None:
        self._commands.append(Answer([self._hear(event.worker_id, report, now) for report in event.reports]))

    def _hear(self, worker_id: str, report: StepReport, now: float) -> ReportAnswer:
        """Let follow what follows from a report, and return what to say to it."""
        token = self.token_of(worker_id, report)
        if token is None:
            self._forget_lingering(worker_id, report)
            return self._hear_of_promised(worker_id, report) or self._answer_to_strange(report)
        _, run, step = self._release(token)
        delay = self._end_attempt(run, step, token, report, now)
        state = run.states[step]
        if run.open_steps:
            self._follow(run)
            if state is State.SUCCEEDED:
                return _SUCCEEDED
        else:
            self._finish_if_done(run, now, reported=True)
        run_state = run.state if run.state.is_settled else None
        return ReportAnswer(status=ReportStatus.ACCEPTED, step_state=state, delay=delay, run_state=run_state)

    def _hear_of_promised(self, worker_id: str, report: StepReport) -> ReportAnswer | None:
        """Let a step wait again that is handed back before the one has ended that it follows; None if there is none."""
        found = self._find(report)
        if found is None or report.state is not State.READY:
            return None
        run, step = found
        if run.promised.get(step) != (report.token, worker_id):
            return None
        run.break_promise(step)
        return ReportAnswer(status=ReportStatus.ACCEPTED, step_state=run.states[step])

    def _find(self, report: StepReport) -> tuple[Run, int] | None:
        """Return the run and the step that a report names, if they are there."""
        run = self.runs.get(report.instance_id)
        if run is None or report.step_name not in run.plan.index:
            return None
        return run, run.plan.index[report.step_name]

    def _answer_to_strange(self, report: StepReport) -> ReportAnswer:
        found = self._find(report)
        if found is None:
            return _UNKNOWN
        run, step = found
        was_handed_out = report.token is not None and 0 < report.token <= self._last_token
        return _STALE if run.attempts[step] or was_handed_out else _UNKNOWN

    def _forget_lingering(self, worker_id: str, report: StepReport) -> None:
        """Take note that what has lingered has ended."""
        about = (worker_id, report.instance_id, report.step_name)
        for token, each in list(self._lingering.items()):
            if each == about and report.token in (token, None):
                del self._lingering[token]

    def _release(self, token: int) -> tuple[str, Run, int]:
        """End the life of a token."""
        worker_id, run, step = live = self._live.pop(token)
        del self._workers[worker_id].held[token]
        run.release(step)
        return live

    def _end_attempt(self, run: Run, step: int, token: int, report: StepReport, now: float) -> float:
        """Let follow what follows from a report; return the delay of a retry."""
        if report.state is State.SUCCEEDED:
            following = run.succeed(step, report.result, now)
            if following is not None:
                promised, worker_id = run.promised.pop(following)
                self._start(worker_id, run, following, promised, now)
            return 0.0
        run.break_promise(run.promised_after(step))
        if report.state is State.SKIPPED:
            self._note_error(run, step, report)
            run.skip(step, now)
        elif report.state is State.READY:
            run.attempts[step] -= 1  # it never started
            if token == run.start_token and not report.told:
                run.untell_start()
            run.give_back(step, "it was not begun", now)
        elif report.state is State.CANCELLED:
            if run.may_not_start(step):
                run.cancel_step(step, now)
            else:
                self._restart(run, step, now)  # its worker ended it for reasons of its own
        else:
            return self._fail_attempt(run, step, report, now)
        return 0.0

    def _fail_attempt(self, run: Run, step: int, report: StepReport, now: float) -> float:
        """Retry, skip or fail; return the delay of a retry."""
        error = self._note_error(run, step, report)
        decision, place = report.decision, report.decided_by
        if decision is None:
            decision, place = self._decide(run, step, error)
        if decision.action is FailureAction.SKIP:
            run.skip(step, now)
        elif decision.action is FailureAction.RETRY and step in run.unwanted:
            run.cancel_step(step, now)
        elif decision.action is FailureAction.RETRY and not run.is_stopping:
            run.retry(step, now + decision.delay, place)
            self._await_retry(run, step)
            return decision.delay
        else:
            self._fail(run, step, now)
        return 0.0

    def _fail(self, run: Run, step: int, now: float) -> None:
        """Settle a step as failed; if that stops its run, nothing of it may begin any more."""
        if run.fail(step, now):
            self._commands += [Recall(run.workers[other], token) for other, token in run.running.items()]
            self._commands += [Recall(worker_id, token) for token, worker_id in run.break_promises()]

    def _await_retry(self, run: Run, step: int) -> None:
        heapq.heappush(self._retries, (run.due[step], next(self._numbers), run, step))

    @staticmethod
    def _note_error(run: Run, step: int, report: StepReport) -> ErrorInfo | None:
        error = report.error if isinstance(report.error, ErrorInfo) else None
        if error is not None:
            run.errors[step] = error
        return error

    def _decide(self, run: Run, step: int, error: ErrorInfo | None) -> tuple[FailureDecision, int | None]:
        """Decide about a failure that its worker has not decided on, by the retry policies in the schema."""
        decided = run.failures.get(step, {})
        names = None if error is None else error.type_names
        for place, policy in run.plan.retries[step]:
            decision = policy.decide(names, decided.get(place, 0) + 1, self._draw)
            if decision is not None:
                return decision, place
        return FailureDecision(FailureDecision.FAIL), None

    # -- starting again -----------------------------------------------------------------------------------------------

    def _restart(self, run: Run, step: int, now: float) -> None:
        """Put back a step whose worker ended while it ran: not the step's doing, so no retry is used up."""
        run.restarts[step] = run.restarts.get(step, 0) + 1
        if run.restarts[step] <= MAX_RESTARTS or run.may_not_start(step):
            run.give_back(step, "its worker ended", now)
            return
        lost = StepLost(
            f"step {run.plan.names[step]!r} of run {run.instance_id} was restarted {MAX_RESTARTS} times, because "
            "its engines ended while it ran. See whether it is what ends them.",
            step_name=run.plan.names[step],
            instance_id=run.instance_id,
            attempt=run.attempts[step],
        )
        run.errors[step] = encode_own_error(lost)
        self._fail(run, step, now)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _time_passed(self, event: TimePassed, now: float) -> None:
        while (first := self._deadlines.first()) is not None and first[0] <= now:
            self._time_out(first[1], now)
        while self._retries and self._retries[0][0] <= now:
            entry = heapq.heappop(self._retries)
            if self._is_waiting(entry):
                entry[2].make_ready(entry[3], "its wait is over")
                self._follow(entry[2])

    def _time_out(self, run: Run, now: float) -> None:
        """End a run that has had its time, whatever of it still runs: that may take any time to end."""
        for step, token in list(run.running.items()):
            worker_id, _, _ = self._release(token)
            self._lingering[token] = (worker_id, run.instance_id, run.plan.names[step])
            self._commands.append(Kill(worker_id, token))
        self._kill_promised(run.break_promises())
        run.time_out(now)
        self._finish_if_done(run, now)

    @staticmethod
    def _is_waiting(entry: tuple[float, int, Run, int]) -> bool:
        _, _, run, step = entry
        return run.states[step] is State.RETRYING  # and only this entry ends that, or a cancellation

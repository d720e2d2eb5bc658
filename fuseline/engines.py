"""ProcessEngine: takes assignments from a broker, has an executor run them, reports back.

::

    broker ─── steps ────▶ engine ── submit ─▶ executor ── pipe ─▶ child
       ▲                     │ ▲                  │
       └─ trade: reports ────┘ └────── poll ──────┘
             and room

One thread, the one that calls ``work()``, does all of it and waits in one place, a selector, for whatever comes first:
a report, news from the broker, a deadline, a signal.
"""

from __future__ import annotations

import logging
import selectors
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from fuseline.attempt import context_of, decide_failure
from fuseline.broker.base import Broker
from fuseline.broker.memory import MemoryBroker
from fuseline.context import RunContext, StopNow
from fuseline.encoding import decode_error
from fuseline.errors import WorkflowError
from fuseline.executors.base import Executor, check_processes
from fuseline.lane import End, Lane, make_lanes
from fuseline.messages import (
    AttemptReport,
    FinishNotice,
    KillNotice,
    Notice,
    Outcome,
    RecallNotice,
    ReportAnswer,
    ReportStatus,
    StepAssignment,
    StepReport,
)
from fuseline.policies.base import WorkflowPolicy
from fuseline.progress import Progress
from fuseline.signals import StopSignals
from fuseline.states import State
from fuseline.wakeup import Wakeup
from fuseline.workflow import Workflow

__all__ = ["ProcessEngine", "run_once"]

_log = logging.getLogger("fuseline")

DEFAULT_EXECUTOR = "loky"
#: Seconds; a selector refuses to wait for ages.
_LONGEST_WAIT = 3600.0


class ProcessEngine:
    """Runs the steps that a broker hands out.

    Use it as a context manager to keep its children warm between calls of ``work()``; without that, ``work()`` starts
    and ends them itself.

    Args:
        broker: whose runs to work on.
        workflows: what this engine can run.
        processes: how many steps run at a time, 1 or more; default is the number of usable CPUs.
        executor: for workflows that name none; default is ``"loky"``.

    Raises:
        WorkflowError: there are no workflows, two have the same id, or ``processes`` is impossible.
        UnknownExecutorError: nothing is registered under the name of an executor.
        UnsupportedPolicyError: an executor cannot honour a policy.
        NotPicklableError: a step cannot be sent to a child process; the error names the part of it to blame.
    """

    def __init__(
        self,
        broker: Broker,
        workflows: Iterable[Workflow],
        *,
        processes: int | None = None,
        executor: str | Executor | None = None,
    ) -> None:
        if not isinstance(broker, Broker):
            raise WorkflowError(f"an engine works for a Broker, not {broker!r}. Pass MemoryBroker(), say.")
        if isinstance(workflows, Workflow):
            workflows = [workflows]
        self._broker = broker
        self._wakeup: Wakeup | None = None
        self._drains = False
        self._is_working = False
        self._stays_warm = False
        if processes is not None:
            check_processes(processes)
        self._executor = executor
        self._lanes = make_lanes(workflows, processes, self._choose)

    def _choose(self, workflow: Workflow) -> str | Executor:
        return workflow.executor or self._executor or DEFAULT_EXECUTOR

    def observe(self, policy: WorkflowPolicy) -> None:
        """Have a policy observe all workflows of this engine. It becomes no part of them, nor of their schemas."""
        for lane in self._lanes:
            for served in lane.workflows.values():
                served.observers.add(policy)

    # -- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._stays_warm = True
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stays_warm = False
        self.close()

    def close(self) -> None:
        """End all children, running steps included. Blocks until they are gone; may be called twice."""
        with ExitStack() as stack:  # each is closed, whatever happens to another
            for lane in self._lanes:
                stack.callback(lane.close)

    def stop(self) -> None:
        """Ask ``work()`` to drain: take nothing new, finish what runs, return. Returns at once; from any thread.

        If it is not working, the next call of ``work()`` returns at once.
        """
        self._drains = True
        if (wakeup := self._wakeup) is not None:
            wakeup.set()

    def work(self, *, block: bool = False) -> None:
        """Work until every run that this engine can serve has ended, waiting retries included.

        Blocks. Ctrl-C or SIGTERM in the main thread drains; the second one kills what runs; the third leaves now.

        Args:
            block: go on until ``stop()`` or a signal, waiting for new runs.

        Raises:
            KeyboardInterrupt, SystemExit: after Ctrl-C or SIGTERM.
            RuntimeError: this engine is working already, in another thread.
        """
        if self._is_working:
            raise RuntimeError("this engine is working already. Use one engine per thread.")
        self._is_working = True
        try:
            with ExitStack() as stack:
                self._wakeup = Wakeup()
                stack.callback(self._wakeup.close)
                signals = stack.enter_context(StopSignals(self._wakeup.set))
                try:
                    self._start()
                    self._serve(stack, signals, block)
                    for lane in self._lanes:
                        lane.flush()
                except BaseException as error:
                    self.close()  # before the workers unregister: what they held is given away then
                    if isinstance(error, StopNow):
                        raise signals.exception() from None
                    raise
                if signals.count:
                    raise signals.exception()
        finally:
            self._is_working = self._drains = False
            self._wakeup = None
            if not self._stays_warm:
                self.close()

    def _start(self) -> None:
        try:
            for lane in self._lanes:
                lane.executor.workplace = self._broker.workplace
                lane.start()
        except BaseException:
            self.close()
            raise

    # -- the loop -----------------------------------------------------------------------------------------------------

    def _serve(self, stack: ExitStack, signals: StopSignals, block: bool) -> None:
        assert self._wakeup is not None
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(self._wakeup.fileno(), selectors.EVENT_READ)
        for lane in self._lanes:
            lane.worker_id = self._broker.register_worker([served.schema for served in lane.workflows.values()])
            stack.callback(self._broker.unregister_worker, lane.worker_id)
            if lane.executor.chains:
                self._broker.allow_chains(lane.worker_id)
            selector.register(self._broker.news(lane.worker_id).fileno(), selectors.EVENT_READ)
            selector.register(lane.executor.fileno(), selectors.EVENT_READ)
        drains = False
        while True:
            self._wakeup.clear()
            if signals.count >= 2:
                raise signals.exception()
            if not drains and (self._drains or signals.count):
                drains = True
                for lane in self._lanes:
                    lane.recall()
                if signals.count and any(lane.running for lane in self._lanes):
                    kills = all(lane.executor.kills for lane in self._lanes)
                    more = "the next" if kills else "the third"
                    _log.warning("stopping when the steps that run have ended; %s Ctrl-C or SIGTERM ends them", more)
            for lane in self._lanes:
                self._turn(lane, signals, drains)
            if self._is_done(drains, block):
                return
            selector.select(self._patience(drains))

    def _turn(self, lane: Lane, signals: StopSignals, drains: bool) -> None:
        broker = self._broker
        broker.news(lane.worker_id).clear()
        signals.interrupts = lane.executor.runs_in_caller
        try:
            reports = lane.poll()
        finally:
            signals.interrupts = False
        ends = [end for report in reports if (end := self._judge(lane, report)) is not None] if reports else []
        lane.unanswered.extend(ends)
        room = 0 if drains else lane.room()
        answers, assignments = broker.trade(lane.worker_id, [end.report for end in ends], room)
        for answer in answers:
            self._tell_end(lane, lane.unanswered.popleft(), answer)
        # Only now: a notice about one of these assignments may have come together with it.
        notices = broker.keep_alive(lane.worker_id)
        unwanted = _unwanted(notices)
        if drains:
            lane.refuse(assignments)
        else:
            lane.refuse([each for each in assignments if each.token in unwanted])
            assignments = [each for each in assignments if each.token not in unwanted]
            if assignments or lane.holds:
                failing = {end.report.instance_id for end in lane.unanswered if end.report.state is State.FAILED}
                lane.accept(assignments, failing)
        self._heed(lane, notices, unwanted)
        begun = lane.executor.begun()
        for token in list(lane.untold) if begun is None else begun:
            if (assignment := lane.untold.pop(token, None)) is not None:
                self._tell_start(lane, assignment)

    def _is_done(self, drains: bool, block: bool) -> bool:
        if any(lane.running or lane.unanswered for lane in self._lanes):
            return False
        return drains or not (block or any(self._broker.unsettled(lane.worker_id) for lane in self._lanes))

    def _patience(self, drains: bool) -> float | None:
        """Return how many seconds may pass before something is to be done unasked; None for any number."""
        now = time.monotonic()
        waits = [when - now for lane in self._lanes if (when := lane.deadline()) is not None]
        if (deadline := self._broker.next_deadline()) is not None:
            waits.append(deadline)
        # Where nothing new may start, a retry that is due has to wait anyway.
        asking = [] if drains else [lane for lane in self._lanes if lane.executor.free_slots()]
        waits += [due for lane in asking if (due := self._broker.next_due(lane.worker_id)) is not None]
        return min(max(0.0, min(waits)), _LONGEST_WAIT) if waits else None

    # -- one assignment -----------------------------------------------------------------------------------------------

    def _tell_start(self, lane: Lane, assignment: StepAssignment) -> None:
        """Tell the observers of a start, of which they do not know."""
        served = lane.workflows[assignment.workflow_id]
        step, _ = served.hosted[assignment.step_name]
        step.state, step.error = State.RUNNING, None
        if served.observers.heed_starts:
            context = context_of(assignment.step_name, assignment.payload, assignment.workflow_id)
            served.observers.step_started(context, step, starts_run=lane.start_run(assignment.instance_id))

    def _heed(self, lane: Lane, notices: Sequence[Notice], unwanted: Collection[int]) -> None:
        if unwanted:
            lane.recall(unwanted)  # all at once: else one takes the place of another in a child, and begins
        for notice in notices:
            if isinstance(notice, KillNotice):
                lane.executor.kill(notice.token)
            elif isinstance(notice, FinishNotice):
                context = RunContext(workflow_id=notice.workflow_id, instance_id=notice.instance_id)
                lane.workflows[notice.workflow_id].observers.run_finished(context, notice.state)

    def _judge(self, lane: Lane, report: AttemptReport) -> End | None:
        """Return what the end of an attempt means for its step; None if nobody knows of that attempt."""
        assignment = lane.running.pop(report.token, None)
        if assignment is None:
            _log.warning("%r reports on assignment %d, which it does not have", lane.executor, report.token)
            return None
        served = lane.workflows[assignment.workflow_id]
        step, policies = served.hosted[assignment.step_name]
        if report.outcome is Outcome.RETURNED:
            said = StepReport(
                workflow_id=assignment.workflow_id,
                instance_id=assignment.instance_id,
                step_name=assignment.step_name,
                state=State.SUCCEEDED,
                result=report.result,
                token=report.token,
                output=report.output,
            )
            return End(said, assignment, step, served.observers, None)
        state, error = _judge(assignment, report)
        decision, decided_by = report.decision, report.decided_by
        if error is not None and decision is None:  # its process is gone, so nobody has asked the policies yet
            decision, decided_by = decide_failure(
                step, policies, error, assignment.payload, workflow_id=assignment.workflow_id
            )
        said = StepReport(
            workflow_id=assignment.workflow_id,
            instance_id=assignment.instance_id,
            step_name=assignment.step_name,
            state=state,
            error=report.error if error is not None else None,
            token=report.token,
            decision=decision,
            decided_by=decided_by,
            output=report.output,
            told=state is State.READY and lane.give_back(assignment),
        )
        return End(said, assignment, step, served.observers, error)

    def _tell_end(self, lane: Lane, end: End, answer: ReportAnswer) -> None:
        """Tell the observers what the broker has made of the end of an attempt."""
        if lane.untold.pop(end.assignment.token, None) is not None and end.observers.heed_starts:
            self._tell_start(lane, end.assignment)
        if answer.status is not ReportStatus.ACCEPTED:
            _log.info("%s report of step %r of run %s", answer.status, end.step.name, end.report.instance_id)
            return
        assert answer.step_state is not None
        end.step.state, end.step.error = answer.step_state, end.error
        if end.observers.heed_end(answer, end.error):
            assignment = end.assignment
            context = context_of(assignment.step_name, assignment.payload, assignment.workflow_id)
            end.observers.step_ended(context, end.step, answer, end.error, end.report.result)


def _unwanted(notices: Sequence[Notice]) -> set[int]:
    """Return the tokens of assignments that need not be begun any more."""
    return {notice.token for notice in notices if isinstance(notice, KillNotice | RecallNotice)}


def _judge(assignment: StepAssignment, report: AttemptReport) -> tuple[State, BaseException | None]:
    """Return what an outcome other than success means for the step, and the exception if it means a failure."""
    if report.outcome is Outcome.KILLED:
        return State.CANCELLED, None
    if report.outcome is Outcome.LOST and report.started is None:
        return State.READY, None
    assert report.error is not None
    return State.FAILED, decode_error(
        report.error,
        step_name=assignment.step_name,
        instance_id=assignment.instance_id,
        attempt=assignment.attempt,
    )


class _OneRunEngine(ProcessEngine):
    """The engine behind ``Workflow.run``, whose ``executor`` argument goes before what the workflow says."""

    def _choose(self, workflow: Workflow) -> str | Executor:
        return self._executor or super()._choose(workflow)


def run_once(
    workflow: Workflow,
    inputs: Mapping[str, Any] | None,
    *,
    executor: str | Executor | None = None,
    processes: int | None = None,
    broker: Broker | None = None,
    progress: bool | None = None,
    on_dispatch: Callable[[str], None] = lambda instance_id: None,
) -> Any:
    """Run ``workflow`` once in this program and return its result: what ``Workflow.run`` does.

    Args:
        on_dispatch: called with the id of the run once it exists.
    """
    is_shared = broker is not None
    broker = MemoryBroker() if broker is None else broker
    engine = _OneRunEngine(broker, [workflow], processes=processes, executor=executor)
    [lane] = engine._lanes
    [served] = lane.workflows.values()
    if progress:
        engine.observe(Progress(len(workflow.steps)))
    instance_id = broker.dispatch_workflow(served.schema, inputs)
    on_dispatch(instance_id)
    if is_shared:
        _work_until_ended(engine, broker, instance_id)
    else:
        engine.work()
    return broker.result(instance_id)


def _work_until_ended(engine: ProcessEngine, broker: Broker, instance_id: str) -> None:
    """Let an engine work until one run has ended; there may be others, and always new ones."""

    def stop() -> None:
        for _ in events:
            pass
        engine.stop()

    with broker.events(instance_id) as events:
        watcher = threading.Thread(target=stop, name="fuseline-watcher", daemon=True)
        watcher.start()
        try:
            engine.work()
        finally:
            events.close()
            watcher.join()

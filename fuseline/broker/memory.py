"""MemoryBroker: the scheduling core behind a lock, in the calling process."""

from __future__ import annotations

import contextlib
import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from functools import partial
from typing import Any

from fuseline.broker.base import Broker, EventStream, RunEvent, check_schema, encode_inputs, encode_report
from fuseline.broker.info import results_of, run_info, run_result
from fuseline.broker.outputs import Outputs, check_attempt
from fuseline.broker.throttle import Throttle
from fuseline.broker.vault import Vault
from fuseline.errors import UnknownWorkerError
from fuseline.faults import checks_are_wanted
from fuseline.messages import (
    FinishNotice,
    KillNotice,
    Notice,
    Payload,
    RecallNotice,
    ReportAnswer,
    RunInfo,
    StepAssignment,
    StepReport,
)
from fuseline.scheduler import (
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
    Scheduler,
    StepsReady,
    StepsRequested,
    TimePassed,
    WorkerLeft,
    WorkerRegistered,
)
from fuseline.scheduler.archive import record_run
from fuseline.schema import WorkflowSchema
from fuseline.states import State
from fuseline.wakeup import Wakeup
from fuseline.workplace import Workplace

__all__ = ["MemoryBroker"]


class _Mailbox:
    """What the broker keeps for a worker."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.thread = threading.current_thread()  #: in which it has registered, and works, as a rule
        self.wakeup: Wakeup | None = None
        #: Whether it takes steps together with those that they follow. Such a worker is not written by hand.
        self.chains = False
        self.handed: dict[int | None, Payload] = {}  #: by token: what a hand-written worker leaves its notes in

    def wake(self) -> None:
        if self.wakeup is not None:
            self.wakeup.set()


class MemoryBroker(Broker):
    """A broker in the calling process, for tests and for ``Workflow.run``. Its runs end with it.

    Args:
        clock: gives monotonic seconds; a test may pass one that it moves by hand.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._epoch = time.time() - clock()
        self._scheduler = Scheduler(draw=random.Random().random, checked=checks_are_wanted())
        self._mailboxes: dict[str, _Mailbox] = {}
        self._hungry: dict[str, set[str]] = {}  #: {workflow: workers that found nothing to do}
        self._serves: dict[str, tuple[str, ...]] = {}  #: {worker: workflows}
        self._outputs = Outputs()
        self._vault: Vault | None = None  #: once somebody may have large values
        self._streams: list[_MemoryStream] = []
        self._changed = threading.Condition(threading.RLock())

    @property
    def workplace(self) -> Workplace:
        """Where large values go."""
        with self._changed:
            if self._vault is None:
                self._vault = Vault()
            return self._vault.workplace

    # -- dispatching --------------------------------------------------------------------------------------------------

    def dispatch_workflow(self, schema: WorkflowSchema, inputs: Mapping[str, Any] | None = None) -> str:
        values = encode_inputs(inputs, self.workplace if inputs else None)
        instance_id = os.urandom(8).hex()
        self._handle(RunDispatched(instance_id, check_schema(schema), values))
        return instance_id

    def dispatch_many(self, schema: WorkflowSchema, inputs: Iterable[Mapping[str, Any] | None]) -> list[str]:
        if isinstance(inputs, Sized):
            return super().dispatch_many(schema, inputs)
        known = check_schema(schema)
        load = partial(self._load_elsewhere, known.workflow_id)
        throttle = Throttle(known.workflow_id, len(known.steps), load, self._changed)
        ids: list[str] = []
        for each in inputs:
            throttle.wait()
            ids.append(self.dispatch_workflow(schema, each))
        return ids

    def _load_elsewhere(self, workflow_id: str) -> tuple[int, int]:
        """Return how many runs of a workflow have not ended, and how many workers in other threads serve it."""
        runs, workers = self._scheduler.load(workflow_id)
        here = threading.current_thread()
        ours = [worker_id for worker_id, mailbox in self._mailboxes.items() if mailbox.thread is here]
        return runs, workers - sum(workflow_id in self._serves[worker_id] for worker_id in ours)

    # -- working ------------------------------------------------------------------------------------------------------

    def register_worker(self, schemas: Iterable[WorkflowSchema]) -> str:
        known = tuple(map(check_schema, schemas))
        worker_id = f"worker-{os.urandom(4).hex()}"
        with self._changed:
            self._handle(WorkerRegistered(worker_id, known))
            self._mailboxes[worker_id] = _Mailbox()
            self._serves[worker_id] = tuple(schema.workflow_id for schema in known)
        return worker_id

    def unregister_worker(self, worker_id: str) -> None:
        with self._changed:
            self._handle(WorkerLeft(worker_id))
            mailbox = self._mailboxes.pop(worker_id)
            for workflow_id in self._serves.pop(worker_id):
                self._hungry.get(workflow_id, set()).discard(worker_id)
            self._changed.notify_all()  # who waits for its work, waits in vain
        if mailbox.wakeup is not None:
            mailbox.wakeup.close()

    def allow_chains(self, worker_id: str) -> None:
        self._mailbox(worker_id).chains = True

    def get_steps(self, worker_id: str, limit: int) -> Sequence[StepAssignment]:
        with self._changed:
            mailbox = self._mailbox(worker_id)
            commands = self._handle(StepsRequested(worker_id, limit, mailbox.chains), caller=worker_id)
            assignments = [each for command in commands if type(command) is Assign for each in command.assignments]
            if not mailbox.chains:
                for assignment in assignments:
                    mailbox.handed[assignment.token] = assignment.payload
            if len(assignments) < limit:
                for workflow_id in self._serves[worker_id]:
                    self._hungry.setdefault(workflow_id, set()).add(worker_id)
        return assignments

    def get_step(self, worker_id: str, timeout: float | None = 0.0) -> StepAssignment | None:
        deadline = math.inf if timeout is None else self._clock() + timeout
        with self._changed:
            while True:
                for assignment in self.get_steps(worker_id, 1):
                    return assignment
                now = self._clock()
                if now >= deadline:
                    return None
                due = self._scheduler.next_due()
                self._wait(min(deadline, math.inf if due is None else due) - now)

    def report_step(self, worker_id: str, report: StepReport) -> ReportAnswer:
        return self.report_steps(worker_id, [report])[0]

    def report_steps(self, worker_id: str, reports: Sequence[StepReport]) -> Sequence[ReportAnswer]:
        handed = self._mailbox(worker_id).handed
        if not handed:
            return self._take_in(worker_id, [encode_report(report, None) for report in reports])
        with self._changed:
            tokens = [
                self._scheduler.token_of(worker_id, report) if report.token is None else report.token
                for report in reports
            ]
        payloads = list(map(handed.get, tokens))
        answers = self._take_in(worker_id, list(map(encode_report, reports, payloads)))
        for token, payload, answer in zip(tokens, payloads, answers, strict=True):
            if answer.step_state is not None:
                handed.pop(token, None)
            if payload is not None and (note := payload.note) is not None:
                note.hear(answer)
        return answers

    def _take_in(self, worker_id: str, reports: Sequence[StepReport]) -> Sequence[ReportAnswer]:
        """Take in reports, whose results and errors are encoded."""
        with self._changed:
            self._pass_time()
            commands = self._handle(Reported(worker_id, reports), caller=worker_id)
            answers = next(command.answers for command in commands if type(command) is Answer)
            for report, answer in zip(reports, answers, strict=True):
                if answer.step_state is None:
                    if report.result is not None and report.result.file:
                        self._drop([report.result.file])  # it is too late
                    continue
                if report.output:
                    self._keep_output(report)
                if answer.step_state is State.RETRYING:
                    self._wake(report.workflow_id, caller=worker_id)  # sleepers count down to another moment now
                    self._changed.notify_all()
        return answers

    def _keep_output(self, report: StepReport) -> None:
        run = self._scheduler.run(report.instance_id)
        attempt = run.attempts[run.plan.index[report.step_name]]
        self._outputs.add(report.instance_id, report.step_name, attempt, report.output)

    def keep_alive(self, worker_id: str) -> Sequence[Notice]:
        mailbox = self._mailbox(worker_id)
        self._pass_time()
        if not mailbox.notices:
            return ()
        with self._changed:
            notices, mailbox.notices = mailbox.notices, []
        return notices

    def unsettled(self, worker_id: str) -> int:
        with self._changed:
            return self._scheduler.unsettled(worker_id)

    def next_due(self, worker_id: str) -> float | None:
        with self._changed:
            due = self._scheduler.next_due()
            return None if due is None else max(0.0, due - self._clock())

    def next_deadline(self) -> float | None:
        with self._changed:
            due = self._scheduler.next_deadline()
            return None if due is None else max(0.0, due - self._clock())

    def news(self, worker_id: str) -> Wakeup:
        with self._changed:
            mailbox = self._mailbox(worker_id)
            if mailbox.wakeup is None:
                mailbox.wakeup = Wakeup()
            return mailbox.wakeup

    def _mailbox(self, worker_id: str) -> _Mailbox:
        try:
            return self._mailboxes[worker_id]
        except KeyError:
            raise UnknownWorkerError(worker_id) from None

    # -- asking -------------------------------------------------------------------------------------------------------

    def get_run(self, instance_id: str) -> RunInfo:
        with self._changed:
            self._pass_time()
            record = record_run(self._scheduler.run(instance_id), self._epoch)
        return run_info(record)

    def list_runs(self, *, workflow_id: str | None = None, state: State | None = None) -> list[RunInfo]:
        with self._changed:
            self._pass_time()
            records = [
                record_run(run, self._epoch)
                for run in self._scheduler.runs.values()
                if (workflow_id is None or run.plan.workflow_id == workflow_id)
                and (state is None or run.state is state)
            ]
        return list(map(run_info, records))

    def result(self, instance_id: str, timeout: float | None = 0.0) -> Any:
        deadline = math.inf if timeout is None else self._clock() + timeout
        with self._changed:
            run = self._scheduler.run(instance_id)
            self._pass_time()
            while not run.state.is_settled and (left := deadline - self._clock()) > 0:
                self._wait(left)
                self._pass_time()
            values = [run.results.get(step) for step in run.plan.outputs]
            record = None if run.state is State.SUCCEEDED else record_run(run, self._epoch)  # which all steps are in
        return results_of(values) if record is None else run_result(record)

    def get_output(self, instance_id: str, step_name: str, attempt: int | None = None) -> str:
        with self._changed:
            record = record_run(self._scheduler.run(instance_id), self._epoch)
            return self._outputs.get(instance_id, step_name, check_attempt(record, step_name, attempt))

    def events(self, instance_id: str | None = None) -> EventStream:
        with self._changed:
            stream = _MemoryStream(self, instance_id)
            if instance_id is not None and self._scheduler.run(instance_id).state.is_settled:
                stream.close()
                return stream
            self._streams.append(stream)
            self._scheduler.watched = True
        return stream

    # -- ending -------------------------------------------------------------------------------------------------------

    def cancel(self, instance_id: str) -> bool:
        with self._changed:
            run = self._scheduler.run(instance_id)
            stops = not (run.cancelled or run.state.is_settled)
            self._handle(RunCancelled(instance_id))
        return stops

    def forget(self, instance_id: str) -> None:
        with self._changed:
            run = self._scheduler.run(instance_id)
            self._handle(RunForgotten(instance_id))
            self._drop(value.file for value in (*run.inputs.values(), *run.results.values()) if value.file)
            self._outputs.forget(instance_id)

    def _wait(self, seconds: float) -> None:
        """Wait for a change, or until a run has had its time, for so many seconds at most; the lock is held."""
        until = self.next_deadline()
        self._changed.wait(min(seconds, math.inf if until is None else until, threading.TIMEOUT_MAX))

    def _pass_time(self) -> None:
        """End the runs that have had their time. Nobody else does: there is no thread that waits for that."""
        with self._changed:
            due = self._scheduler.next_deadline()
            if due is not None and due <= self._clock():
                self._handle(TimePassed())

    # -- the core and its commands ------------------------------------------------------------------------------------

    def _handle(self, event: Event, caller: str | None = None) -> list[Command]:
        """Tell the core, and act on what it answers, except for what ``caller`` takes from it by itself."""
        with self._changed:
            commands = self._scheduler.handle(event, self._clock())
            for command in commands:
                if type(command) is not Assign and type(command) is not Answer:
                    self._act(command, caller)
        return commands

    def _act(self, command: Command, caller: str | None) -> None:
        if isinstance(command, StepsReady):
            self._wake(command.workflow_id, caller)
            self._changed.notify_all()
        elif isinstance(command, Kill):
            self._tell(command.worker_id, KillNotice(command.token))
        elif isinstance(command, Recall):
            self._tell(command.worker_id, RecallNotice(command.token))
        elif isinstance(command, Finished):
            if command.tell is not None:
                notice = FinishNotice(
                    workflow_id=command.workflow_id, instance_id=command.instance_id, state=command.state
                )
                self._tell(command.tell, notice)
            self._wake(command.workflow_id, caller)  # who works until all is settled may be done now
            self._changed.notify_all()
        elif isinstance(command, Moved):
            self._publish(command)
        elif isinstance(command, Dropped):
            self._drop(command.files)

    def _drop(self, files: Iterable[str]) -> None:
        for file in files:
            if self._vault is not None:
                self._vault.drop(file)

    def _tell(self, worker_id: str, notice: Notice) -> None:
        mailbox = self._mailboxes.get(worker_id)
        if mailbox is not None:
            mailbox.notices.append(notice)
            mailbox.wake()

    def _wake(self, workflow_id: str, caller: str | None) -> None:
        """Wake the workers that found nothing to do in this workflow; ``caller`` is awake and looks by itself."""
        hungry = self._hungry.get(workflow_id)
        if hungry:
            for worker_id in hungry:
                if worker_id != caller:
                    self._mailboxes[worker_id].wake()
            hungry.clear()

    def _publish(self, moved: Moved) -> None:
        event = RunEvent(
            instance_id=moved.instance_id,
            step_name=moved.step_name,
            state=moved.state,
            attempt=moved.attempt,
            cause=moved.cause,
            at=self._epoch + self._clock(),
        )
        for stream in list(self._streams):
            stream.put(event)
        self._changed.notify_all()

    def _unsubscribe(self, stream: _MemoryStream) -> None:
        with self._changed:
            with contextlib.suppress(ValueError):
                self._streams.remove(stream)
            self._scheduler.watched = bool(self._streams)
            self._changed.notify_all()


class _MemoryStream(EventStream):
    def __init__(self, broker: MemoryBroker, instance_id: str | None) -> None:
        self._broker = broker
        self._instance_id = instance_id
        self._events: deque[RunEvent] = deque()
        self._ended = False

    def put(self, event: RunEvent) -> None:
        if self._instance_id is None or event.instance_id == self._instance_id:
            self._events.append(event)
            if self._instance_id is not None and event.step_name is None and event.state.is_settled:
                self.close()

    def next_event(self, timeout: float | None = None) -> RunEvent | None:
        broker = self._broker
        give_up = math.inf if timeout is None else time.monotonic() + timeout
        with broker._changed:
            broker._pass_time()
            while not (self._events or self._ended) and (left := give_up - time.monotonic()) > 0:
                broker._wait(left)
                broker._pass_time()
            return self._events.popleft() if self._events else None

    def close(self) -> None:
        self._ended = True
        self._broker._unsubscribe(self)

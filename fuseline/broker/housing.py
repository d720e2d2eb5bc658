"""The scheduling core of a broker process, with a clock, a store, and the workers it must hear of or find dead.

It knows nothing of links: what is to be told to whom is in ``stirred``, ``notices`` and ``happened``, for the server to
tell once ``commit`` has returned.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from fuseline.broker.store import Changes, Store
from fuseline.errors import BrokerError, UnknownRunError
from fuseline.messages import (
    FinishNotice,
    KillNotice,
    Notice,
    RecallNotice,
    ReportAnswer,
    ReportStatus,
    StepAssignment,
    StepReport,
)
from fuseline.presence import is_gone
from fuseline.records import Move, RunRecord
from fuseline.scheduler import (
    Answer,
    Assign,
    Command,
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
from fuseline.values import Value

__all__ = ["Housing"]


class Housing:
    """The core, and what surrounds it but for the links.

    Args:
        store: where runs are kept; None keeps them here only.
        presence_folder: where programs that work for this broker show that they are alive.
    """

    def __init__(self, store: Store | None, presence_folder: Path) -> None:
        self.presence_folder = presence_folder
        self.stirred: set[str] = set()  #: workers that should ask again
        self.notices: dict[str, list[Notice]] = {}  #: {worker: what it should know}
        self.happened: list[tuple[str, Move]] = []  #: what watchers want to know; only while ``watched``
        self.watched = False
        self.missing: dict[str, None] = {}  #: workers that left without a word: they may be dead, or come back
        self._store = store
        self._epoch = time.time() - time.monotonic()
        epoch, last_number = (store.epoch, store.last_number) if store else (0, 0)
        # The epoch of the store is part of each token, so that none is given out twice.
        self._core = Scheduler(random.Random().random, first_token=(epoch << 32) + 1, first_number=last_number + 1)
        self._core.watched = True
        self._serves: dict[str, tuple[str, ...]] = {}  #: {worker: ids of workflows}
        self._hungry: dict[str, dict[str, None]] = {}  #: {workflow: workers that found nothing to do}
        self._changes = Changes()
        self._ended: list[str] = []  #: runs that the core need not keep once their end is stored

    # -- time and the store -------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Take up the runs that had not ended. Workers that had their steps are missing."""
        for schema, record in self._store.load_open() if self._store is not None else ():
            self._handle(RunRestored(schema, record, self._epoch))
            for step in record.steps.values():
                if step.worker_id is not None:
                    self.missing[step.worker_id] = None

    def next_due(self) -> float | None:
        """Return when a retry is due, in monotonic seconds, or None."""
        return self._core.next_due()

    def on_time(self, now: float) -> None:
        """Do what is due, and look whether those who are missing are dead."""
        if (due := self._core.next_due()) is not None and now >= due:
            self._handle(TimePassed())
        for worker_id in list(self.missing):
            if is_gone(self.presence_folder / worker_id.partition(".")[0]):
                self.worker_left(worker_id)

    def commit(self) -> None:
        """Store what has changed since the last call.

        Raises:
            StoreError: it could not be stored. What is held here is ahead of the store now, and must not be told.
        """
        if self._store is not None:
            self._store.commit(self._changes, self._epoch)
            for instance_id in self._ended:
                self._core.handle(RunForgotten(instance_id), time.monotonic())
        self._changes = Changes()
        self._ended.clear()

    # -- the core and its commands ------------------------------------------------------------------------------------

    def _handle(self, event: Event, *, matters: bool = False) -> list[Command]:
        """Tell the core, and act on what it answers.

        Args:
            matters: whether somebody relies on it after a power cut.
        """
        commands = self._core.handle(event, time.monotonic())
        self._changes.matters |= matters
        for command in commands:
            if isinstance(command, Moved):
                self._moved(command)
            elif isinstance(command, StepsReady):
                self._stir(command.workflow_id)
            elif isinstance(command, Kill):
                self._notify(command.worker_id, KillNotice(command.token))
            elif isinstance(command, Recall):
                self._notify(command.worker_id, RecallNotice(command.token))
            elif isinstance(command, Finished):
                self._finished(command)
        return commands

    def _moved(self, moved: Moved) -> None:
        now = time.monotonic()
        run = self._core.runs[moved.instance_id]
        step = None if moved.step_name is None else run.plan.index[moved.step_name]
        if step is None or moved.state is State.FAILED:
            self._changes.runs[run] = None  # which has a list of the steps that failed
        if step is not None and (moved.state is not State.READY or run.attempts[step]):
            self._changes.steps.setdefault((run, step), None)
        self._changes.moves.append((run, step, moved.state, moved.attempt, moved.cause, now))
        if self.watched:
            at = self._epoch + now
            move = Move(step_name=moved.step_name, state=moved.state, attempt=moved.attempt, cause=moved.cause, at=at)
            self.happened.append((moved.instance_id, move))

    def _finished(self, command: Finished) -> None:
        if self._store is not None:
            self._ended.append(command.instance_id)
        if command.tell is not None:
            notice = FinishNotice(workflow_id=command.workflow_id, instance_id=command.instance_id, state=command.state)
            self._notify(command.tell, notice)
        self._stir(command.workflow_id)  # who works until all is settled may be done now

    def _notify(self, worker_id: str, notice: Notice) -> None:
        self.notices.setdefault(worker_id, []).append(notice)
        self.stirred.add(worker_id)

    def _stir(self, workflow_id: str) -> None:
        """Have the workers ask again that found nothing to do in this workflow."""
        self.stirred.update(self._hungry.pop(workflow_id, ()))

    # -- dispatching --------------------------------------------------------------------------------------------------

    def dispatch(self, schema: WorkflowSchema, instance_id: str, inputs: dict[str, Value]) -> None:
        """Create a run, unless there is one of this id: then the request is one that was sent twice."""
        if not self._is_known(instance_id):
            self._handle(RunDispatched(instance_id, schema, inputs), matters=True)
            self._changes.runs[self._core.runs[instance_id]] = None

    def cancel(self, instance_id: str) -> bool:
        """Stop a run; return whether there was anything to stop."""
        run = self._core.runs.get(instance_id)
        if run is None:
            self.record(instance_id)
            return False
        stops = not (run.cancelled or run.state.is_settled)
        self._handle(RunCancelled(instance_id), matters=True)
        self._changes.runs[run] = None
        return stops

    def forget(self, instance_id: str) -> None:
        """Drop a run that has ended."""
        if self._store is None or instance_id in self._core.runs:
            self._handle(RunForgotten(instance_id), matters=True)
        else:
            self.record(instance_id)
        self._changes.forgotten.append(instance_id)

    # -- working ------------------------------------------------------------------------------------------------------

    def register(self, worker_id: str, schemas: Sequence[WorkflowSchema], held: Iterable[int]) -> list[int]:
        """Take in a worker, or take one back that was missing.

        Args:
            held: tokens of the assignments that it has.

        Returns:
            Those of them that are worth nothing any more.
        """
        if worker_id not in self._serves:
            self._handle(WorkerRegistered(worker_id, tuple(schemas)))
            self._serves[worker_id] = tuple(schema.workflow_id for schema in schemas)
        self.missing.pop(worker_id, None)
        expected, has = set(self._core.held_by(worker_id)), set(held)
        for token in expected - has:
            self._take_back(worker_id, token)
        if self.notices.get(worker_id):
            self.stirred.add(worker_id)
        return sorted(has - expected)

    def _take_back(self, worker_id: str, token: int) -> None:
        """Make a step ready again whose assignment has never reached its worker."""
        run, step = self._core.assigned(token)
        report = StepReport(
            workflow_id=run.plan.workflow_id,
            instance_id=run.instance_id,
            step_name=run.plan.names[step],
            state=State.READY,
            token=token,
        )
        self._handle(Reported(worker_id, report))

    def worker_left(self, worker_id: str) -> None:
        """Give to others what a worker had, which is known to run nothing any more."""
        self.missing.pop(worker_id, None)
        self._handle(WorkerLeft(worker_id))
        self.notices.pop(worker_id, None)
        for workflow_id in self._serves.pop(worker_id, ()):
            self._hungry.get(workflow_id, {}).pop(worker_id, None)

    def get_steps(self, worker_id: str, limit: int) -> list[StepAssignment]:
        """Return up to ``limit`` steps for a worker."""
        commands = self._handle(StepsRequested(worker_id, limit))
        assignments = [command.assignment for command in commands if isinstance(command, Assign)]
        if len(assignments) < limit:
            for workflow_id in self._serves[worker_id]:
                self._hungry.setdefault(workflow_id, {})[worker_id] = None
        return assignments

    def unsettled(self, worker_id: str) -> int:
        """Return how many runs that this worker can serve have not ended."""
        return self._core.unsettled(worker_id)

    def report(self, worker_id: str, report: StepReport) -> ReportAnswer:
        """Take in how an assignment ended."""
        run = self._core.runs.get(report.instance_id)
        commands = self._handle(Reported(worker_id, report), matters=True)
        answer = next(command.answer for command in commands if isinstance(command, Answer))
        if answer.step_state is State.SUCCEEDED and run is not None:
            step = run.plan.index[report.step_name]
            if run.bound.uses[step]:
                self._changes.steps[run, step] = report.result
        if answer.step_state is State.RETRYING:
            self._stir(report.workflow_id)  # sleepers count down to another moment now
        if answer.status is ReportStatus.UNKNOWN and run is None and self._is_known(report.instance_id):
            return ReportAnswer(status=ReportStatus.STALE)  # the core has dropped the run, the store has not
        return answer

    # -- asking -------------------------------------------------------------------------------------------------------

    def _is_known(self, instance_id: str) -> bool:
        return instance_id in self._core.runs or (self._store is not None and self._store.has(instance_id))

    def record(self, instance_id: str) -> RunRecord:
        """Return how a run stands.

        Raises:
            UnknownRunError: there is none of this id.
        """
        run = self._core.runs.get(instance_id)
        if run is not None:
            return record_run(run, self._epoch)
        found = None if self._store is None else self._store.load(instance_id)
        if found is None:
            raise UnknownRunError(instance_id)
        return found[1]

    def records(self, workflow_id: str | None, state: State | None) -> list[RunRecord]:
        """Return how the runs stand, oldest first; only those of a workflow, or in a state, if one is named."""
        if self._store is not None:
            self.commit()
            return [record for _, record in self._store.load_all(workflow_id, state)]
        return [
            record_run(run, self._epoch)
            for run in self._core.runs.values()
            if workflow_id in (None, run.plan.workflow_id) and state in (None, run.state)
        ]

    def story(self, instance_id: str) -> list[Move]:
        """Return all moves of a run, in their order."""
        self.record(instance_id)
        if self._store is None:
            raise BrokerError("this broker keeps no story of its runs, because it has no store. Give it a path.")
        self.commit()
        return self._store.story(instance_id)

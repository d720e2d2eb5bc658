"""The scheduling core of a broker process, with a clock, a store, and the workers it must hear of or find dead.

It knows nothing of links: what is to be told to whom is in ``stirred``, ``notices`` and ``happened``, for the server to
tell once what was committed ``has_settled``.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fuseline.broker.absentees import Absentees, program_of
from fuseline.broker.inquiries import Inquiries
from fuseline.broker.store import Changes, Moment, Store
from fuseline.broker.wire import WorkerInfo
from fuseline.errors import UnknownRunError, WorkflowChangedError, WorkflowError
from fuseline.faults import checks_are_wanted
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
    StepCancelled,
    StepsReady,
    StepsRequested,
    TimePassed,
    WorkerLeft,
    WorkerRegistered,
)
from fuseline.scheduler.archive import revive_record
from fuseline.scheduler.plan import Plan, timeout_cause
from fuseline.scheduler.run import Run
from fuseline.schema import WorkflowSchema
from fuseline.spool import read_spools
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
        self.stirred: set[str] = set()  #: workers that should ask again
        self.notices: dict[str, list[Notice]] = {}  #: {worker: what it should know}
        self.happened: list[tuple[str, Move]] = []  #: what watchers want to know; only while ``watched``
        self.watched = False
        self.missing = Absentees(presence_folder, None if store is None else store.spools_folder)
        self._has_swept = False  #: whether files were removed that are left over from before our start
        self._store = store
        self._epoch = time.time() - time.monotonic()
        epoch, last_number = (store.epoch, store.last_number) if store else (0, 0)
        # The epoch of the store is part of each token, so that none is given out twice.
        self._core = Scheduler(
            random.Random().random,
            first_token=(epoch << 32) + 1,
            first_number=last_number + 1,
            checked=checks_are_wanted(),
        )
        self._core.watched = True
        self._serves: dict[str, tuple[str, ...]] = {}  #: {worker: ids of workflows}
        self._hungry: dict[str, dict[str, None]] = {}  #: {workflow: workers that found nothing to do}
        self._changes = Changes()
        self._ended: list[str] = []  #: runs that the core need not keep once their end is stored
        self._acts: dict[type, Callable[[Any, float], None]] = {
            Moved: self._moved,
            StepsReady: self._readied,
            Kill: self._killed,
            Recall: self._recalled,
            Finished: self._finished,
        }
        self.ask = Inquiries(self._core, store, self._epoch, self.commit)

    # -- time and the store -------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Take up the runs that had not ended. Workers that had their steps are missing."""
        for schema, record in self._store.load_open() if self._store is not None else ():
            self._handle(RunRestored(schema, record, self._epoch))
            for step in record.steps.values():
                if step.worker_id is not None:
                    self.missing.add(step.worker_id)
        self.missing.tidy_up_all()

    def next_due(self) -> float | None:
        """Return when a retry is due or a run has had its time, in monotonic seconds, or None."""
        return self._core.next_due()

    def on_time(self, now: float) -> None:
        """Do what is due, and look whether those who are missing are dead."""
        if (due := self._core.next_due()) is not None and now >= due:
            self._handle(TimePassed())
        if dead := self.missing.find_dead(now):
            for worker_id in dead:
                self.worker_left(worker_id)
            self.commit()  # then nobody needs their spools any more
            self.missing.tidy_up(map(program_of, dead))
        if not (self.missing or self._has_swept) and self._store is not None:
            self.commit()
            self._store.sweep()  # not before all last words were heard and stored: they may refer to files
            self._has_swept = True

    def commit(self, *, behind: bool = False) -> None:
        """Store what has changed since the last call.

        Args:
            behind: whether not to wait for the disk. It is stored when ``has_settled`` says so.

        Raises:
            StoreError: it could not be stored. What is held here is ahead of the store now, and must not be told.
        """
        if self._store is not None:
            self._store.commit(self._changes, self._epoch, behind=behind)
            for instance_id in self._ended:
                self._core.handle(RunForgotten(instance_id), time.monotonic())
        self._changes = Changes()
        self._ended.clear()

    def has_settled(self) -> bool:
        """Return whether all that was committed is stored; ``settle`` would not wait. Raises like ``commit``."""
        return self._store is None or self._store.has_settled()

    def settle(self) -> None:
        """Wait for what was committed to be stored. Raises like ``commit``."""
        if self._store is not None:
            self._store.settle()

    # -- the core and its commands ------------------------------------------------------------------------------------

    def _handle(self, event: Event, *, matters: bool = False) -> list[Command]:
        """Tell the core, and act on what it answers.

        Args:
            matters: whether somebody relies on it after a power cut.
        """
        now = time.monotonic()
        commands = self._core.handle(event, now)
        if matters:
            self._changes.matters = True
        for command in commands:
            if (act := self._acts.get(type(command))) is not None:
                act(command, now)
        return commands

    def _killed(self, command: Kill, now: float) -> None:
        self._notify(command.worker_id, KillNotice(command.token))

    def _recalled(self, command: Recall, now: float) -> None:
        self._notify(command.worker_id, RecallNotice(command.token))

    def _readied(self, command: StepsReady, now: float) -> None:
        self._stir(command.workflow_id)

    def _moved(self, moved: Moved, now: float) -> None:
        changes, state, name = self._changes, moved.state, moved.step_name
        run = self._core.runs[moved.instance_id]
        settles = state.is_settled
        if settles:
            changes.matters = True  # whatever has led to it: the death of a worker, say
        token = worker_id = None
        if name is None:
            if settles:
                changes.runs[run] = None
        else:
            step = run.plan.index[name]
            if state is State.RUNNING:
                token, worker_id = run.running[step], run.workers[step]
            elif settles or state is not State.READY or run.attempts[step]:
                changes.steps.setdefault((run, step), None)
        # When a run began and ended, and with which steps, can be seen without a row for it; and who is to tell of its
        # start, as long as that is the one who got its first step.
        if run.start_differs:
            run.start_differs = False
            changes.runs[run] = None
        is_stored = name is not None and (run.started is not None or state is not State.READY)
        if is_stored or self.watched:
            moment = Moment(run, name, state, moved.attempt, moved.cause, now, token, worker_id)
            self._note(moment, stored=is_stored)

    def _note(self, moment: Moment, *, stored: bool = True) -> None:
        """Let the watchers know of a move, and the store."""
        if stored:
            self._changes.moves.append(moment)
        if self.watched:
            move = Move(
                step_name=moment.step_name,
                state=moment.state,
                attempt=moment.attempt,
                cause=moment.cause,
                worker_id=moment.worker_id,
                at=self._epoch + moment.at,
            )
            self.happened.append((moment.run.instance_id, move))

    def _finished(self, command: Finished, now: float) -> None:
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

    def dispatch(
        self, schema: WorkflowSchema, instance_id: str, inputs: dict[str, Value], *, again: bool = False
    ) -> None:
        """Create a run.

        Args:
            again: whether the request may have come before: if there is a run of this id, it is that one.
        """
        if not (again and self.ask.is_known(instance_id)):
            self._handle(RunDispatched(instance_id, schema, inputs), matters=True)
            self._changes.new_runs.append(self._core.runs[instance_id])

    def cancel(self, instance_id: str, step_name: str | None) -> bool:
        """Stop a run, or one step of it; return whether there was anything to stop."""
        run = self._core.runs.get(instance_id)
        if run is None:
            self.ask.record(instance_id)
            return False
        if step_name is None:
            stops = not (run.cancelled or run.state.is_settled)
            self._handle(RunCancelled(instance_id), matters=True)
            self._changes.runs[run] = None
            return stops
        was = (len(run.unwanted), run.open_steps)
        self._handle(StepCancelled(instance_id, step_name), matters=True)
        if was == (len(run.unwanted), run.open_steps):
            return False  # and its row stays as it is: it may have a result
        self._changes.steps.setdefault((run, run.plan.index[step_name]), None)
        return True

    def resume(self, instance_id: str, schema: WorkflowSchema | None, *, changed: bool) -> bool:
        """Let a run go on that failed or was cancelled; return whether it was one.

        Args:
            schema: the workflow as it is now; None if it is still the same.
            changed: whether it may be another one than the run had. Then one that waits goes on with it, too.

        Raises:
            WorkflowChangedError: it is, and may not be.
            WorkflowError: the inputs of the run do not fit it any more, or it has had its time and a step still runs.
        """
        store = self.ask.stored("cannot resume runs")
        self.commit()
        found = store.load(instance_id)
        if found is None:
            raise UnknownRunError(instance_id)
        known, record = found
        schema = schema or known
        if (schema.workflow_id, schema.fingerprint) != (known.workflow_id, known.fingerprint) and not changed:
            raise WorkflowChangedError(schema.workflow_id)
        if self._core.lingers(instance_id):
            raise WorkflowError(
                f"run {instance_id} has had its time, but a step of it still runs. Try again when that has ended."
            )
        if record.state in (State.FAILED, State.CANCELLED):
            revived = revive_record(record, Plan(schema))
            self._restore(schema, revived, "resumed", ended=record)
            return True
        old = [run for run in self._older_runs(schema) if run.instance_id == instance_id and not run.running]
        self._move(old, schema)
        return bool(old)

    def migrate(self, schema: WorkflowSchema) -> list[str]:
        """Let all runs that wait with an earlier version of a workflow go on with this one; return their ids.

        Raises:
            WorkflowChangedError: a worker serves the earlier version.
            WorkflowError: the inputs of one do not fit any more, or it has a step that may still run. None was changed.
        """
        self.ask.stored("has no runs that are older than their workflow")
        self.commit()
        old = self._older_runs(schema)
        self._move(old, schema)
        return [run.instance_id for run in old]

    def _older_runs(self, schema: WorkflowSchema) -> list[Run]:
        """Return the runs that have not ended, of a workflow that was another one when they began."""
        return [
            run
            for run in self._core.runs.values()
            if run.plan.workflow_id == schema.workflow_id
            and run.plan.fingerprint != schema.fingerprint
            and not run.state.is_settled
        ]

    def _move(self, runs: Sequence[Run], schema: WorkflowSchema) -> None:
        """Let runs that wait go on with another version of their workflow. First what may refuse, then all of them."""
        if not runs:
            return
        plan = Plan(schema)
        self._core.check_unused(schema.workflow_id, runs)
        for run in runs:
            if run.running:
                raise WorkflowError(
                    f"run {run.instance_id} has a step whose worker may still be there. Try again when that has ended."
                )
        revived = [revive_record(self.ask.record(run.instance_id), plan) for run in runs]
        for run in runs:  # it ends in the core alone: for the store, and for those who watch, it goes on
            self._core.handle(RunCancelled(run.instance_id), time.monotonic())
            self._core.handle(RunForgotten(run.instance_id), time.monotonic())
        for record in revived:
            self._restore(schema, record, "moved to the changed workflow")

    def _restore(self, schema: WorkflowSchema, record: RunRecord, how: str, *, ended: RunRecord | None = None) -> None:
        """Take up a run again.

        Args:
            ended: how it had ended, if it had.
        """
        self._handle(RunRestored(schema, record, self._epoch), matters=True)
        run = self._core.runs[record.instance_id]
        if ended is not None and ended.finished is not None:
            at = ended.finished - self._epoch
            cause = timeout_cause(ended.timed_out)
            self._changes.moves.append(Moment(run, None, ended.state, None, cause, at, None, None))
        now = time.monotonic()
        self._changes.revived.append(run)
        self._changes.runs[run] = None
        self._note(Moment(run, None, run.state, None, f"it was {how}", now, None, None))
        for step, (name, known) in enumerate(record.steps.items()):
            if known.state is State.PENDING:
                attempts = known.attempts
                self._note(Moment(run, name, run.states[step], attempts, f"the run was {how}", now, None, None))
            if known.state is not State.PENDING or known.attempts:
                self._changes.steps[run, step] = known.result

    def forget(self, instance_id: str) -> None:
        """Drop a run that has ended."""
        if self._store is None or instance_id in self._core.runs:
            self._handle(RunForgotten(instance_id), matters=True)
            self.ask.outputs.forget(instance_id)
            if instance_id in self._ended:  # just now, and nobody need drop it any more
                self._ended.remove(instance_id)
        else:
            self.ask.record(instance_id)
        self._changes.matters = True  # or a power cut may bring it back without its files
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
        self.missing.discard(worker_id)
        has = set(held)
        expected = self.take_back(worker_id, has)
        if self.notices.get(worker_id):
            self.stirred.add(worker_id)
        return sorted(has - expected)

    def take_back(self, worker_id: str, held: Collection[int]) -> set[int]:
        """Make the steps ready again whose assignments have never reached their worker.

        Args:
            held: tokens of the assignments that it has.

        Returns:
            The tokens of all the worker was given.
        """
        given = set(self._core.held_by(worker_id))
        self._core.let_linger(worker_id, held)
        for token in given.difference(held):
            run, step = self._core.assigned(token)
            report = StepReport(
                workflow_id=run.plan.workflow_id,
                instance_id=run.instance_id,
                step_name=run.plan.names[step],
                state=State.READY,
                token=token,
            )
            self._handle(Reported(worker_id, (report,)))
        return given

    def worker_left(self, worker_id: str) -> None:
        """Give to others what a worker had, which is known to run nothing any more."""
        self.missing.discard(worker_id)
        self._hear_last_words(worker_id)
        self._handle(WorkerLeft(worker_id))
        self.notices.pop(worker_id, None)
        for workflow_id in self._serves.pop(worker_id, ()):
            self._hungry.get(workflow_id, {}).pop(worker_id, None)

    def _hear_last_words(self, worker_id: str) -> None:
        """Take in what the processes of a worker have finished without our hearing of it."""
        held = set(self._core.held_by(worker_id))
        if self._store is None or not held:
            return
        for report in read_spools(self._store.spools_folder, program_of(worker_id)):
            has_file = report.result is not None and report.result.file
            if report.token in held and not (has_file and not os.path.exists(has_file)):
                held.discard(report.token)
                run, step = self._core.assigned(report.token)
                self.report(worker_id, report_of(report, run, step))

    def get_steps(self, worker_id: str, limit: int) -> list[StepAssignment]:
        """Return up to ``limit`` steps for a worker."""
        commands = self._handle(StepsRequested(worker_id, limit))
        assignments = [each for command in commands if isinstance(command, Assign) for each in command.assignments]
        if len(assignments) < limit:
            for workflow_id in self._serves[worker_id]:
                self._hungry.setdefault(workflow_id, {})[worker_id] = None
        return assignments

    def unsettled(self, worker_id: str) -> int:
        """Return how many runs that this worker can serve have not ended."""
        return self._core.unsettled(worker_id)

    def report(self, worker_id: str, report: StepReport, *, again: bool = False) -> ReportAnswer:
        """Take in how an assignment ended.

        Args:
            again: whether it may be one that was accepted before, and whose answer was lost on its way.
        """
        run = self._core.runs.get(report.instance_id)
        commands = self._handle(Reported(worker_id, (report,)), matters=True)
        [answer] = next(command.answers for command in commands if isinstance(command, Answer))
        if answer.step_state is State.SUCCEEDED and run is not None:
            step = run.plan.index[report.step_name]
            if run.bound.uses[step]:
                self._changes.steps[run, step] = report.result
        if answer.status is ReportStatus.ACCEPTED:
            if report.output and run is not None:
                self._keep_output(run, report)
            return answer
        if self._store is not None and again:
            self.commit()
            if (before := self._store.outcome(worker_id, report)) is not None:
                return before
        if report.result is not None and report.result.file:
            self._drop_file(report.result.file)
        if answer.status is ReportStatus.UNKNOWN and run is None and self.ask.is_known(report.instance_id):
            return ReportAnswer(status=ReportStatus.STALE)  # the core has dropped the run, the store has not
        return answer

    def _keep_output(self, run: Run, report: StepReport) -> None:
        attempt = run.attempts[run.plan.index[report.step_name]]
        if self._store is None:
            self.ask.outputs.add(run.instance_id, report.step_name, attempt, report.output)
        else:
            self._changes.outputs.append((run, report.step_name, attempt, report.output))

    def _drop_file(self, file: str) -> None:
        """Remove the file of a value that came too late, unless it is that of the one which came in time."""
        if self._store is not None:
            self.commit()
            if not self._store.refers_to(file):
                self._store.remove_files([os.path.basename(file)])

    # -- looking after it ---------------------------------------------------------------------------------------------

    def workers(self, pids: Mapping[str, int]) -> list[WorkerInfo]:
        """Return who works for this broker.

        Args:
            pids: ``{worker: its process}``, of those that are known.
        """
        return [
            WorkerInfo(
                worker_id=worker_id,
                pid=pids.get(worker_id),
                workflows=list(served),
                running=len(self._core.held_by(worker_id)),
                is_missing=worker_id in self.missing,
            )
            for worker_id, served in self._serves.items()
        ]

    def prune(self, keep_for: float | None, keep_runs: int | None) -> int:
        """Remove old runs that have ended, some hundreds at most, and return how many.

        Args:
            keep_for: seconds after its end that a run stays; None for ever.
            keep_runs: how many stay that have ended; None for any number.
        """
        store = self.ask.stored("removes no old runs")
        self.commit()
        removed = store.prune(None if keep_for is None else time.time() - keep_for, keep_runs)
        if not removed:
            if not self.missing:
                store.sweep()
            store.shrink()
        return removed


def report_of(report: AttemptReport, run: Run, step: int) -> StepReport:
    """Return what the end of an attempt means for its step, as an engine would say it."""
    return StepReport(
        workflow_id=run.plan.workflow_id,
        instance_id=run.instance_id,
        step_name=run.plan.names[step],
        state=State.SUCCEEDED if report.outcome is Outcome.RETURNED else State.FAILED,
        result=report.result,
        error=report.error,
        token=report.token,
        decision=report.decision,
        decided_by=report.decided_by,
    )

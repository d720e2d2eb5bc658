"""Runs as records and back: what is kept of a run while no scheduler holds it.

A step that is ready is recorded as one that waits: whether it is ready follows from the states of the others.
"""

from __future__ import annotations

import msgspec

from fuseline.errors import UnknownInputError
from fuseline.records import RunRecord, StepRecord
from fuseline.scheduler.plan import Plan
from fuseline.scheduler.run import Run
from fuseline.states import State

__all__ = ["record_run", "record_step", "restore_run", "revive_record"]


def record_run(run: Run, epoch: float) -> RunRecord:
    """Return how a run stands.

    Args:
        epoch: what to add to the scheduler's seconds to get seconds since the epoch.
    """
    plan = run.plan
    return RunRecord(
        instance_id=run.instance_id,
        number=run.number,
        workflow_id=plan.workflow_id,
        workflow=plan.schema.name,
        outputs=plan.schema.outputs,
        state=run.state,
        cancelled=run.cancelled,
        inputs=run.inputs,
        steps={name: record_step(run, step, epoch) for step, name in enumerate(plan.names)},
        failed=tuple(plan.names[step] for step in run.failed_steps),
        started_by=run.started_by,
        start_token=run.start_token,
        created=epoch + run.created,
        started=_shift(run.started, epoch),
        finished=_shift(run.finished, epoch),
        spent=_spent(run),
        timed_out=plan.timeout if run.timed_out else None,
    )


def _spent(run: Run) -> float | None:
    """Return how much of its time a run has used up, until its last event."""
    if run.plan.timeout is None or run.timed_from is None:
        return None
    return max(run.taken_up, *run.step_started.values(), *run.step_finished.values()) - run.timed_from


def record_step(run: Run, step: int, epoch: float) -> StepRecord:
    """Return how a step of a run stands; ``epoch`` as above."""
    return StepRecord(
        state=run.states[step],
        attempts=run.attempts[step],
        restarts=run.restarts.get(step, 0),
        failures=dict(run.failures.get(step, ())),
        token=run.running.get(step),
        worker_id=run.workers.get(step),
        result=run.results.get(step),
        error=run.errors.get(step),
        cause=run.causes.get(step, ""),
        started=_shift(run.step_started.get(step), epoch),
        finished=_shift(run.step_finished.get(step), epoch),
        due=_shift(run.due.get(step), epoch),
        unwanted=step in run.unwanted,
    )


def restore_run(record: RunRecord, plan: Plan, epoch: float) -> Run:
    """Return the run that was recorded, of a workflow with this plan.

    Its ready steps are queued in it; whoever restores it hands them out, waits for those that are RETRYING, and finds
    out what became of those that are RUNNING.
    """
    run = Run(record.instance_id, record.number, plan, plan.bind(record.inputs), record.inputs, record.created - epoch)
    run.was_restored = True
    run.state = record.state
    run.cancelled = record.cancelled
    run.timed_out = record.timed_out is not None
    run.started_by = record.started_by
    run.start_token = record.start_token
    run.started = _shift(record.started, -epoch)
    run.finished = _shift(record.finished, -epoch)
    for step, name in enumerate(plan.names):
        if (known := record.steps.get(name)) is not None:
            _restore_step(run, step, known, epoch)
    run.failed_steps = [plan.index[name] for name in record.failed]
    for step in reversed(range(len(plan.names))):  # as after a dispatch: the first one on top
        if run.states[step] in (State.PENDING, State.READY) and not run.missing[step]:
            run.states[step] = State.READY
            run.ready.append(step)
    run.results = {step: result for step, result in run.results.items() if run.uses[step]}
    return run


def _restore_step(run: Run, step: int, known: StepRecord, epoch: float) -> None:
    run.states[step] = known.state
    run.attempts[step] = known.attempts
    if known.restarts:
        run.restarts[step] = known.restarts
    if known.failures:
        run.failures[step] = dict(known.failures)
    if known.token is not None:
        run.running[step] = known.token
    if known.worker_id is not None:
        run.workers[step] = known.worker_id
    if known.result is not None:
        run.results[step] = known.result
    if known.error is not None:
        run.errors[step] = known.error
    if known.unwanted:
        run.unwanted.add(step)
    if known.cause:
        run.causes[step] = known.cause
    for times, moment in ((run.step_started, known.started), (run.step_finished, known.finished), (run.due, known.due)):
        if moment is not None:
            times[step] = moment - epoch
    if not known.state.is_settled:
        return
    run.open_steps -= 1
    for source in run.bound.sources[step]:
        run.uses[source] -= 1
    if known.state is State.SUCCEEDED:
        for after in run.plan.successors[step]:
            run.missing[after] -= 1


def revive_record(record: RunRecord, plan: Plan) -> RunRecord:
    """Return the record of a run that has ended, or waits, as one that goes on, in a workflow with this plan.

    If it had ended, its start is told anew.

    What succeeded or was skipped is kept, unless a step that starts anew needs a result that is not there.

    Inputs that nothing takes any more are dropped.

    Raises:
        UnboundParameterError: a step of the plan needs an input that the run does not have.
    """
    inputs = dict(record.inputs)
    try:
        bound = plan.bind(inputs)
    except UnknownInputError as error:  # nothing takes them any more
        inputs = {name: value for name, value in inputs.items() if name not in error.names}
        bound = plan.bind(inputs)
    kept = {State.SUCCEEDED, State.SKIPPED}
    steps = [record.steps.get(name, StepRecord(state=State.PENDING)) for name in plan.names]
    anew = {step for step, known in enumerate(steps) if known.state not in kept}
    anew.update(step for step in plan.outputs if _lacks_result(steps[step]))
    unseen = list(anew)
    while unseen:
        step = unseen.pop()
        needed = {other for other in bound.sources[step] if _lacks_result(steps[other])}
        skipped = {other for other in plan.predecessors[step] if steps[other].state is State.SKIPPED}
        unseen += (needed | skipped) - anew
        anew |= needed | skipped
    for step in anew:
        steps[step] = StepRecord(state=State.PENDING, attempts=steps[step].attempts)
    return msgspec.structs.replace(
        record,
        workflow_id=plan.workflow_id,
        workflow=plan.schema.name,
        outputs=plan.schema.outputs,
        state=State.RUNNING if record.started is not None else State.PENDING,
        cancelled=False,
        inputs=inputs,
        steps={name: steps[step] for name, step in plan.index.items()},
        failed=(),
        finished=None,
        started_by=None if record.state.is_settled else record.started_by,
        start_token=None if record.state.is_settled else record.start_token,
        spent=None,
        timed_out=None,
    )


def _lacks_result(known: StepRecord) -> bool:
    return known.state is State.SUCCEEDED and known.result is None


def _shift(moment: float | None, by: float) -> float | None:
    return None if moment is None else moment + by

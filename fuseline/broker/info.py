"""What a broker answers about a run, in the program that asks: the bytes of a record as objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fuseline.encoding import decode, decode_error
from fuseline.errors import RemoteStepError, RunCancelled, RunFailed, RunNotFinished, RunTimedOut, StepError
from fuseline.messages import RunInfo, StepInfo, Unloadable
from fuseline.records import RunRecord
from fuseline.states import State
from fuseline.values import Value

__all__ = ["results_of", "run_info", "run_result"]


def run_info(record: RunRecord) -> RunInfo:
    """Return how a run stands. Unpickles its inputs and errors."""
    steps = {
        name: StepInfo(
            name=name,
            state=step.state,
            attempts=step.attempts,
            error=_step_error(record, name),
            cause=step.cause,
            started_at=step.started,
            finished_at=step.finished,
        )
        for name, step in record.steps.items()
    }
    return RunInfo(
        instance_id=record.instance_id,
        workflow_id=record.workflow_id,
        workflow=record.workflow,
        state=record.state,
        inputs={name: _input(value) for name, value in record.inputs.items()},
        steps=steps,
        created_at=record.created,
        started_at=record.started,
        finished_at=record.finished,
    )


def _input(value: Value) -> Any:
    try:
        return decode(value)
    except (Exception, SystemExit) as error:  # it must not hide the rest of this run, and of others
        return Unloadable(error)


def run_result(record: RunRecord) -> Any:
    """Return the result of a run that has succeeded: of its output, or a list if there are several.

    Raises:
        RunFailed, RunTimedOut, RunCancelled, RunNotFinished: it has none.
    """
    if record.state is State.SUCCEEDED:
        return results_of([record.steps[name].result for name in record.outputs])
    if record.state is State.CANCELLED:
        raise RunCancelled(record.instance_id, record.workflow)
    if record.state is not State.FAILED:
        raise RunNotFinished(record.instance_id, record.workflow, record.state)
    if record.timed_out is not None:
        first = _step_error(record, record.failed[0]) if record.failed else None
        raise RunTimedOut(record.instance_id, record.workflow, record.timed_out, record.failed) from first
    cause = _step_error(record, record.failed[0])
    info = record.steps[record.failed[0]].error
    if info is None:
        reason = "its worker gave no reason"
    elif isinstance(cause, StepError) and not isinstance(cause, RemoteStepError):
        reason = info.message
    else:  # not str(cause), which is the user's code
        reason = ": ".join(filter(None, [*info.type_names[:1], info.message]))
    raise RunFailed(record.instance_id, record.workflow, record.failed, reason) from cause


def results_of(values: Sequence[Value | None]) -> Any:
    """Return the result of a run that has succeeded, whose outputs have these; None stands for one without."""
    results = [None if value is None else decode(value) for value in values]
    return results[0] if len(results) == 1 else results


def _step_error(record: RunRecord, name: str) -> BaseException | None:
    """Return what the last attempt of a step raised, or None."""
    step = record.steps[name]
    if step.error is None:
        return None
    return decode_error(step.error, step_name=name, instance_id=record.instance_id, attempt=step.attempts)

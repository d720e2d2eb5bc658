"""What a broker answers about a run: the core's numbers and bytes as names and objects."""

from __future__ import annotations

from typing import Any

from fuseline.errors import RemoteStepError, RunCancelled, RunFailed, RunNotFinished, StepError
from fuseline.messages import RunInfo, StepInfo
from fuseline.scheduler.run import Run
from fuseline.states import State
from fuseline.values import decode, decode_error

__all__ = ["run_info", "run_result"]


def run_info(run: Run, epoch: float) -> RunInfo:
    """Return how a run stands. Unpickles its inputs and errors.

    Args:
        epoch: what to add to monotonic seconds to get seconds since the epoch.
    """

    def wall(moment: float | None) -> float | None:
        return None if moment is None else epoch + moment

    steps = {
        name: StepInfo(
            name=name,
            state=run.states[i],
            attempts=run.attempts[i],
            error=step_error(run, i),
            cause=run.causes.get(i, ""),
            started_at=wall(run.step_started.get(i)),
            finished_at=wall(run.step_finished.get(i)),
        )
        for i, name in enumerate(run.plan.names)
    }
    return RunInfo(
        instance_id=run.instance_id,
        workflow_id=run.plan.workflow_id,
        workflow=run.plan.schema.name,
        state=run.state,
        inputs={name: decode(value) for name, value in run.inputs.items()},
        steps=steps,
        created_at=epoch + run.created,
        started_at=wall(run.started),
        finished_at=wall(run.finished),
    )


def run_result(run: Run) -> Any:
    """Return the result of a run that has succeeded: of its output, or a list if there are several.

    Raises:
        RunFailed, RunCancelled, RunNotFinished: it has none.
    """
    name = run.plan.schema.name
    if run.state is State.SUCCEEDED:
        results = [decode(run.results[i]) if i in run.results else None for i in run.plan.outputs]
        return results[0] if len(results) == 1 else results
    if run.state is State.CANCELLED:
        raise RunCancelled(run.instance_id, name)
    if run.state is not State.FAILED:
        raise RunNotFinished(run.instance_id, name, run.state)
    names = [run.plan.names[i] for i in run.failed_steps]
    cause = step_error(run, run.failed_steps[0])
    info = run.errors.get(run.failed_steps[0])
    if info is None:
        reason = "its worker gave no reason"
    elif isinstance(cause, StepError) and not isinstance(cause, RemoteStepError):
        reason = info.message
    else:  # not str(cause), which is the user's code
        reason = ": ".join(filter(None, [info.type_names[0], info.message]))
    raise RunFailed(run.instance_id, name, names, reason) from cause


def step_error(run: Run, step: int) -> BaseException | None:
    """Return what the last attempt of a step raised, or None."""
    info = run.errors.get(step)
    if info is None:
        return None
    return decode_error(info, step_name=run.plan.names[step], instance_id=run.instance_id, attempt=run.attempts[step])

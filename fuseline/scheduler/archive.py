"""Runs as records: what is told of them."""

from __future__ import annotations

from fuseline.records import RunRecord, StepRecord
from fuseline.scheduler.run import Run

__all__ = ["record_run"]


def record_run(run: Run, epoch: float) -> RunRecord:
    """Return how a run stands.

    Args:
        epoch: what to add to the scheduler's seconds to get seconds since the epoch.
    """

    def wall(moment: float | None) -> float | None:
        return None if moment is None else epoch + moment

    plan = run.plan
    steps = {
        name: StepRecord(
            state=run.states[step],
            attempts=run.attempts[step],
            result=run.results.get(step),
            error=run.errors.get(step),
            cause=run.causes.get(step, ""),
            started=wall(run.step_started.get(step)),
            finished=wall(run.step_finished.get(step)),
        )
        for step, name in enumerate(plan.names)
    }
    return RunRecord(
        instance_id=run.instance_id,
        workflow_id=plan.workflow_id,
        workflow=plan.schema.name,
        outputs=plan.schema.outputs,
        state=run.state,
        inputs=run.inputs,
        steps=steps,
        failed=tuple(plan.names[step] for step in run.failed_steps),
        created=epoch + run.created,
        started=wall(run.started),
        finished=wall(run.finished),
    )

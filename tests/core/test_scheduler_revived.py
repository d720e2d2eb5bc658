"""A run that has ended and is resumed: what is kept, and that it can come to its end."""

from __future__ import annotations

import pytest

from fuseline.scheduler import RunForgotten, RunRestored, StepCancelled
from fuseline.scheduler.archive import record_run, revive_record
from fuseline.schema import WorkflowSchema
from fuseline.states import State

from .helpers import Bench, dag

DIAMOND = dag("a>b>d a>c>d")


def resume(bench: Bench, schema: WorkflowSchema, instance_id: str = "r") -> None:
    """Take up a run again, as a housing does."""
    run = bench.run(instance_id)
    revived = revive_record(record_run(run, 0.0), run.plan)
    bench.handle(RunForgotten(instance_id))
    bench.scheduler.handle(RunRestored(schema, revived, 0.0), bench.now)


@pytest.mark.parametrize("end", ["succeed", "skip"])
def test_what_a_step_that_starts_anew_needs_is_not_left_skipped(end: str) -> None:
    """``d`` was cancelled before ``b`` was skipped: without ``b``, it could never become ready."""
    bench = Bench(DIAMOND, watch=False)
    bench.dispatch()
    bench.step_through("a")
    bench.handle(StepCancelled("r", "d"))
    for assignment in bench.take(2):
        (bench.skip if assignment.step_name == "b" else bench.succeed)(assignment)
    assert bench.states() == {
        "a": State.SUCCEEDED, "b": State.SKIPPED, "c": State.SUCCEEDED, "d": State.CANCELLED
    }  # fmt: skip
    resume(bench, DIAMOND)
    bench.step_through("a")  # whose result nothing needed any more
    for assignment in bench.take(2):
        (getattr(bench, end) if assignment.step_name == "b" else bench.succeed)(assignment)
    bench.finish()
    assert bench.run().state is State.SUCCEEDED
    assert bench.states()["d"] is (State.SUCCEEDED if end == "succeed" else State.SKIPPED)


def test_a_run_may_be_resumed_while_the_queue_still_has_the_one_it_was() -> None:
    """They have the same number, which is what the queue sorts by."""
    bench = Bench(dag("a b"), watch=False)
    for name in ("one", "two"):
        bench.dispatch(name)
        bench.take(2)
    assert bench.take() == []  # now neither is in the queue
    bench.leave()  # both are in progress, and ready again
    bench.register("w", bench.run("one").plan.schema)
    bench.cancel("two")
    resume(bench, bench.run("one").plan.schema, "two")
    bench.finish()
    assert [bench.run(name).state for name in ("one", "two")] == [State.SUCCEEDED] * 2

"""A run that has ended and is resumed: what is kept, and that it can come to its end."""

from __future__ import annotations

import pytest

from fuseline.scheduler import Finished, RunForgotten, RunRestored, StepCancelled
from fuseline.scheduler.archive import record_run, revive_record
from fuseline.scheduler.invariants import check_scheduler
from fuseline.scheduler.plan import Plan
from fuseline.schema import ParameterSchema, WorkflowSchema
from fuseline.states import State

from .helpers import Bench, dag, step_schema

DIAMOND = dag("a>b>d a>c>d")


def resume(bench: Bench, schema: WorkflowSchema, instance_id: str = "r") -> None:
    """Take up a run again, as a housing does."""
    revived = revive_record(record_run(bench.run(instance_id), 0.0), Plan(schema))
    bench.handle(RunForgotten(instance_id))
    bench.handle(RunRestored(schema, revived, 0.0))
    check_scheduler(bench.scheduler)


def resumed_with(schema: WorkflowSchema, old: WorkflowSchema, *, succeed: str) -> Bench:
    """Return a bench with a run of ``old`` that failed after some steps had succeeded, and goes on with ``schema``."""
    bench = Bench(old, watch=False)
    bench.dispatch()
    bench.step_through(succeed)
    bench.fail(bench.take_one())
    assert bench.run().state is State.FAILED
    bench.leave()
    resume(bench, schema)
    return bench


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


def waiting(bench: Bench) -> set[str]:
    return {name for name, state in bench.states().items() if not state.is_settled}


def test_a_run_that_nobody_had_begun_is_as_if_it_were_new() -> None:
    bench = Bench(dag("a"), watch=False)
    bench.dispatch()
    bench.cancel()
    resume(bench, dag("a"))
    assert bench.run().state is State.PENDING
    assignment = bench.take_one()
    assert assignment.payload.starts_run
    assert bench.run().started == 0.0


def test_the_start_of_a_run_that_waits_is_not_told_again_when_its_workflow_has_changed() -> None:
    bench = Bench(dag("a>b"), watch=False)
    bench.dispatch()
    first = bench.take_one()
    bench.succeed(first)
    changed = dag("a>b c", outputs="b c")
    other = Bench(changed, watch=False)
    other.handle(RunRestored(changed, revive_record(record_run(bench.run(), 0.0), Plan(changed)), 0.0))
    assert (other.run().started_by, other.run().start_token) == ("w", first.token)
    assert [assignment.payload.starts_run for assignment in other.take(5)] == [False] * 2


def test_a_result_that_is_still_there_is_used_again() -> None:
    schema = dag("a>b", outputs="a b")
    assert waiting(resumed_with(schema, schema, succeed="a")) == {"b"}


def test_a_result_that_is_gone_is_made_again() -> None:
    schema = dag("a>b", outputs="b")
    assert waiting(resumed_with(schema, schema, succeed="a")) == {"a", "b"}


def test_what_is_an_output_only_now_is_made_again_unless_it_was_skipped() -> None:
    old, new = dag("a>b>e c>d", outputs="e d"), dag("a>b>e c>d", outputs="a e d")
    bench = resumed_with(new, old, succeed="a b e c")
    assert waiting(bench) == {"a", "c", "d"}
    bench = Bench(dag("a b"), watch=False)
    bench.dispatch()
    a, b = bench.take(2)
    bench.skip(a)
    bench.fail(b)
    resume(bench, dag("a b"))
    assert waiting(bench) == {"b"}


def test_a_result_that_nothing_needs_in_the_changed_workflow_is_dropped() -> None:
    bench = resumed_with(dag("a b", outputs="b"), dag("a b"), succeed="a")
    assert waiting(bench) == {"b"}
    assert bench.results() == {}


def test_a_run_of_which_nothing_is_left_to_do_in_the_changed_workflow_has_ended() -> None:
    bench = resumed_with(dag("a"), dag("a b"), succeed="a")
    assert bench.told(Finished) == [Finished("wf", "r", State.SUCCEEDED, None)]
    assert bench.results() == {"a": "a"}


def test_inputs_that_nothing_takes_in_the_changed_workflow_are_dropped_and_the_others_kept() -> None:
    def taking(*names: str) -> WorkflowSchema:
        steps = (step_schema("a", parameters=[ParameterSchema(name=name, required=False) for name in names]),)
        return WorkflowSchema(workflow_id="wf", name="wf", steps=steps, outputs=("a",))

    bench = Bench(taking("x", "y"), watch=False)
    bench.dispatch(x=1, y=2)
    bench.fail(bench.take_one())
    bench.leave()
    resume(bench, taking("y", "z"))
    assert bench.run().inputs.keys() == {"y"}

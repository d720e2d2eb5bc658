"""A run that is recorded and restored, at any moment, goes on as if nothing had happened."""

from __future__ import annotations

import msgspec
import pytest

from fuseline.errors import UnknownWorkerError, WorkflowError
from fuseline.messages import FailureDecision, ReportStatus
from fuseline.policies import RetryPolicy
from fuseline.records import RunRecord
from fuseline.scheduler import RunRestored, Scheduler, StepCancelled, StepsReady
from fuseline.scheduler.archive import record_run
from fuseline.scheduler.invariants import check_scheduler
from fuseline.scheduler.run import Run
from fuseline.states import State

from .helpers import Bench, dag, report_of

#: Added to the scheduler's seconds; a power of two, so that nothing is rounded.
EPOCH = float(1 << 30)
SCHEMA = dag("a>b>d a>c>d c>e", policies={"c": [RetryPolicy(2, wait=4.0)]})


def recorded(bench: Bench) -> RunRecord:
    """Return the record of the run, as it is after a journey."""
    packed = msgspec.msgpack.encode(record_run(bench.run(), EPOCH))
    return msgspec.msgpack.decode(packed, type=RunRecord)


def restore(bench: Bench, schema=SCHEMA) -> Bench:
    """Return a bench with another scheduler, which has the run of ``bench`` from its record."""
    other = Bench(schema, worker=None, watch=False)
    other.scheduler = Scheduler(first_token=1000, first_number=100)
    other.now = bench.now
    other.handle(RunRestored(schema, recorded(bench), EPOCH))
    check_scheduler(other.scheduler)
    return other


def go_on(bench: Bench, events: int = 100) -> int:
    """Let one thing after the other happen; ``c`` fails at first. Return how many did."""
    for count in range(events):
        if bench.run().state.is_settled:
            return count
        assignments = bench.take()
        if not assignments:
            due = bench.scheduler.next_due()
            assert due is not None
            bench.now = due
        for assignment in assignments:
            bench.now += 1.0
            if assignment.step_name == "c" and assignment.attempt < 3:
                bench.fail(assignment)
            else:
                bench.succeed(assignment, assignment.step_name)
    return events


def story(bench: Bench) -> RunRecord:
    """Return the record without what may differ."""
    return msgspec.structs.replace(record_run(bench.run(), EPOCH), number=0, start_token=None)


def test_a_run_goes_on_from_any_moment_to_the_same_end():
    whole = Bench(SCHEMA)
    whole.dispatch()
    length = go_on(whole)
    assert whole.states() == dict.fromkeys("abcde", State.SUCCEEDED)
    for cut in range(length + 1):
        first = Bench(SCHEMA)
        first.dispatch()
        go_on(first, cut)
        second = restore(first)
        assert story(second) == story(first)
        second.register("w", SCHEMA)
        go_on(second)
        assert story(second) == story(whole)
        assert second.results() == {"d": "d", "e": "e"}


#: What does not go into the record, or follows from when it is read.
OWN = {"plan", "was_restored", "start_differs", "taken_up", "timed_from", "queued", "ready"}


def assert_same(run: Run, other: Run) -> None:
    """Check that a run that was restored is as it was, and holds nothing more."""
    for name in sorted(set(Run.__slots__) - OWN):
        assert getattr(run, name) == getattr(other, name), name
    assert sorted(run.ready) == sorted(other.ready)


def test_a_run_is_restored_as_it_was_at_any_moment():
    for cut in range(7):
        bench = Bench(SCHEMA)
        bench.now = 3.0
        bench.dispatch()
        bench.now = 5.0
        go_on(bench, cut)
        assert recorded(bench).created == EPOCH + 3.0
        assert_same(bench.run(), restore(bench).run())


def test_a_run_is_restored_as_it_was_with_steps_that_were_cancelled_skipped_failed_and_restarted():
    schema = dag("a>f b>g c d e>h i", on_failure="continue", outputs="a f g c d h i")
    bench = Bench(schema)
    bench.dispatch()
    a, b, c, d, e = bench.take(5)
    bench.end_killed(a)
    bench.handle(StepCancelled("r", "b"))
    bench.skip(c)
    bench.fail(d, ValueError("no"))
    bench.fail(e, decision=FailureDecision(FailureDecision.RETRY, 2.0), decided_by=0)
    bench.take_one()
    bench.handle(StepCancelled("r", "i"))
    other = restore(bench, schema)
    assert_same(bench.run(), other.run())
    other.end_killed(b)  # not restarted, though the scheduler that was told to cancel it is gone
    assert other.states()["b"] is State.CANCELLED


def test_a_cancelled_run_starts_nothing_again_after_it_was_restored():
    bench = Bench(dag("a"))
    bench.dispatch()
    a = bench.take_one()
    bench.cancel()
    other = restore(bench, dag("a"))
    assert other.end_killed(a).run_state is State.CANCELLED


def test_a_restored_result_is_dropped_when_the_last_step_that_needs_it_has_ended():
    schema = dag("a>b a>c>d")
    bench = Bench(schema)
    bench.dispatch()
    bench.step_through("a b")
    other = restore(bench, schema)
    other.register("w", schema)
    assert other.results().keys() == {"a", "b"}
    other.step_through("c")
    assert other.results().keys() == {"b", "c"}


@pytest.mark.parametrize("moved", [-1000.0, 0.0, 1000.0])
def test_no_clock_on_the_wall_makes_a_retry_wait_longer_than_it_was_to(moved: float):
    schema = dag("a", policies={"a": [RetryPolicy(2, wait=4.0)]})
    bench = Bench(schema)
    bench.now = 100.0
    bench.dispatch()
    bench.fail(bench.take_one())
    other = Bench(schema, worker=None, watch=False)
    other.now = 101.0
    other.handle(RunRestored(schema, recorded(bench), EPOCH + moved))
    assert other.scheduler.next_due() == min(104.0 - moved, 105.0)


def test_nobody_is_woken_for_a_run_in_which_nothing_is_ready():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    bench.take_one()
    assert restore(bench, dag("a>b")).commands == []


@pytest.mark.parametrize("order", ["abc", "acb", "bac", "bca", "cab", "cba"])
def test_older_runs_come_first_whatever_the_order_in_which_they_are_restored(order: str):
    schema = dag("s")
    bench = Bench(schema)
    for name in "abc":
        bench.dispatch(name)
    other = Bench(schema)
    for name in order:
        other.handle(RunRestored(schema, record_run(bench.run(name), EPOCH), EPOCH))
    assert [assignment.instance_id for assignment in other.take(3)] == ["a", "b", "c"]


def test_what_became_ready_is_handed_out_and_workers_are_woken():
    bench = Bench(SCHEMA)
    bench.dispatch()
    bench.step_through("a b")
    other = restore(bench)
    assert other.told(StepsReady)
    other.register("v", SCHEMA)
    assert other.take_names(worker="v") == ["c"]


def test_a_worker_that_comes_back_reports_what_it_had():
    bench = Bench(SCHEMA)
    bench.dispatch()
    assignment = bench.take_one()
    other = restore(bench)
    assert other.scheduler.held_by("w") == (assignment.token,)
    other.register("w", SCHEMA)
    assert other.take() == []
    assert other.succeed(assignment, "a").step_state is State.SUCCEEDED
    assert other.succeed(assignment, "a").status is ReportStatus.STALE


def test_a_worker_that_is_gone_counts_as_a_restart():
    bench = Bench(SCHEMA)
    bench.dispatch()
    assignment = bench.take_one()
    other = restore(bench)
    other.leave("w")
    other.register("v", SCHEMA)
    again = other.take_one("v")
    assert (again.step_name, again.attempt) == ("a", 2)
    assert again.token > assignment.token
    assert recorded(other).steps["a"].restarts == 1
    assert other.report(report_of(assignment, State.SUCCEEDED), "v").status is ReportStatus.STALE
    with pytest.raises(UnknownWorkerError):
        other.scheduler.held_by("w")


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_a_run_that_is_stopping_starts_nothing(on_failure: str):
    schema = dag("a>b c>d e", on_failure=on_failure)
    bench = Bench(schema)
    bench.dispatch()
    held = {assignment.step_name: assignment for assignment in bench.take(2)}
    assert held.keys() == {"a", "c"}
    bench.fail(held["a"])
    other = restore(bench, schema)
    other.register("w", schema)
    assert other.take_names() == ([] if on_failure == "stop" else ["e"])
    other.succeed(held["c"])
    assert other.states()["d"] is (State.CANCELLED if on_failure == "stop" else State.READY)
    assert recorded(other).failed == ("a",)


def test_a_run_is_restored_once():
    bench = Bench(SCHEMA)
    bench.dispatch()
    other = restore(bench)
    with pytest.raises(WorkflowError, match="is taken"):
        other.handle(RunRestored(SCHEMA, recorded(bench), EPOCH))


def test_who_tells_of_the_start_of_a_run_is_known_after_it_was_restored():
    schema = dag("a b>c")
    bench = Bench(schema)
    bench.dispatch()
    for _ in range(3):
        first, other = bench.take(2)
        assert (first.payload.starts_run, other.payload.starts_run) == (True, False)
        bench = restore(bench, schema)
        bench.register("w", schema)
        bench.hand_back(other)
        bench.hand_back(first)
        bench = restore(bench, schema)
        assert_same(bench.run(), restore(bench, schema).run())
        bench.register("w", schema)


def test_what_is_known_of_steps_that_have_ended_is_kept():
    schema = dag("a>b c d", on_failure="continue", outputs="b d")
    bench = Bench(schema)
    bench.dispatch()
    a, c, d = bench.take(3)
    bench.fail(a, ValueError("no"))
    bench.skip(c)
    bench.succeed(d, "d")
    first, then = recorded(bench), recorded(restore(bench, schema))
    assert first.steps == then.steps
    assert {name: step.cause for name, step in then.steps.items()} == {
        "a": "", "b": "step 'a' failed", "c": "a policy chose to skip it", "d": ""
    }  # fmt: skip
    assert {name for name, step in then.steps.items() if step.error is not None} == {"a"}
    assert then.steps["d"].result is not None
    assert then.state is State.FAILED
    assert (first.finished, first.failed, first.started_by) == (then.finished, then.failed, then.started_by)

"""The scheduler: cancelling one step of a run, whatever state it is in."""

from __future__ import annotations

import pytest

from fuseline.errors import UnknownStepError
from fuseline.messages import FailureDecision
from fuseline.policies import RetryPolicy
from fuseline.scheduler import Finished, Kill, Moved, StepCancelled
from fuseline.states import State

from .helpers import ACCEPTED, Bench, dag

RETRY = FailureDecision(FailureDecision.RETRY, 5.0)


def cancel_step(bench: Bench, name: str, instance_id: str = "r") -> None:
    bench.handle(StepCancelled(instance_id, name))


def cancelled_while_it_runs(edges: str = "a>b c", **options: object) -> Bench:
    """Return a bench with ``a`` running at ``w``, though its end was asked for."""
    bench = Bench(dag(edges, **options))  # type: ignore[arg-type]
    bench.dispatch()
    bench.take_one()
    cancel_step(bench, "a")
    return bench


# -- what waits -------------------------------------------------------------------------------------------------------


def test_a_step_that_waits_for_others_is_cancelled_with_all_that_depend_on_it_and_the_rest_goes_on():
    bench = Bench(dag("a>b>c>e d"))
    bench.dispatch()
    cancel_step(bench, "b")
    assert bench.causes() == {
        "b": "it was cancelled", "c": "step 'b' was cancelled", "e": "step 'b' was cancelled"
    }  # fmt: skip
    bench.step_through("a d")
    assert bench.run().state is State.CANCELLED


def test_a_step_that_is_ready_is_not_handed_out_any_more():
    bench = Bench(dag("a b c"))
    bench.dispatch()
    cancel_step(bench, "b")
    assert bench.commands == []
    assert bench.states() == {"a": State.READY, "b": State.CANCELLED, "c": State.READY}
    assert bench.take_names() == ["a", "c"]


def test_the_last_ready_step_of_an_old_run_makes_room_for_the_next_run():
    bench = Bench(dag("a"))
    bench.dispatch("old")
    bench.dispatch("young")
    cancel_step(bench, "a", "old")
    assert bench.told(Finished) == [Finished("wf", "old", State.CANCELLED, None)]
    assert bench.take_one().instance_id == "young"


def test_a_step_whose_retry_waits_does_not_come_back():
    bench = Bench(dag("a b"))
    bench.dispatch()
    bench.fail(bench.take_one(), decision=RETRY)
    cancel_step(bench, "a")
    assert bench.states()["a"] is State.CANCELLED
    assert bench.scheduler.next_due() is None
    bench.pass_time(5.0)
    assert bench.take_names() == ["b"]


# -- what runs --------------------------------------------------------------------------------------------------------


def test_a_step_that_runs_is_killed_at_its_worker_and_is_cancelled_when_it_has_ended():
    bench = Bench(dag("a>b c"))
    bench.register("v", bench.schema)
    bench.dispatch()
    a = bench.take_one("v")
    cancel_step(bench, "a")
    assert bench.commands == [Kill("v", a.token)]
    assert bench.states() == {"a": State.RUNNING, "b": State.PENDING, "c": State.READY}
    assert bench.end_killed(a, "v").step_state is State.CANCELLED
    assert bench.causes() == {"a": "it was cancelled", "b": "step 'a' was cancelled"}
    bench.step_through("c")
    assert bench.run().state is State.CANCELLED


@pytest.mark.parametrize("end", ["end_killed", "hand_back", "leave", "retry"])
def test_a_step_that_was_cancelled_while_it_ran_is_not_started_again_however_it_ends(end: str):
    bench = Bench(dag("a>b c", policies={"a": [RetryPolicy(3)]}))
    bench.register("v", bench.schema)
    bench.dispatch()
    a = bench.take_one()
    cancel_step(bench, "a")
    if end == "leave":
        bench.leave()
    elif end == "retry":
        assert bench.fail(a, decision=RETRY).delay == 0.0
    else:
        getattr(bench, end)(a)
    assert bench.states() == {"a": State.CANCELLED, "b": State.CANCELLED, "c": State.READY}
    assert bench.causes() == {"a": "it was cancelled", "b": "step 'a' was cancelled"}
    assert bench.take_names(worker="v") == ["c"]


def test_a_step_that_ends_before_it_is_killed_has_ended_as_it_did():
    bench = Bench(dag("a>b c>d", on_failure="continue"))
    bench.dispatch()
    a, c = bench.take(2)
    cancel_step(bench, "a")
    cancel_step(bench, "c")
    assert bench.succeed(a).step_state is State.SUCCEEDED
    assert bench.fail(c).step_state is State.FAILED
    bench.step_through("b")
    assert bench.states() == {
        "a": State.SUCCEEDED, "b": State.SUCCEEDED, "c": State.FAILED, "d": State.CANCELLED
    }  # fmt: skip
    assert bench.run().state is State.FAILED


def test_a_run_has_succeeded_if_the_step_that_was_to_be_cancelled_has():
    bench = cancelled_while_it_runs("a")
    [token] = bench.scheduler.held_by("w")
    bench.leave()
    assert bench.run().state is State.CANCELLED
    bench = Bench(dag("a"))
    bench.dispatch()
    a = bench.take_one()
    assert a.token == token
    cancel_step(bench, "a")
    assert bench.succeed(a).run_state is State.SUCCEEDED


def test_one_step_that_was_cancelled_in_time_is_enough_for_a_run_to_be_cancelled():
    bench = Bench(dag("a b c"))
    bench.dispatch()
    a, b = bench.take(2)
    for name in "abc":
        cancel_step(bench, name)
    bench.succeed(a)
    assert bench.succeed(b).run_state is State.CANCELLED


def test_who_is_skipped_though_it_was_to_be_cancelled_leaves_its_run_a_success():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    a = bench.take_one()
    cancel_step(bench, "a")
    assert bench.skip(a).run_state is State.SUCCEEDED


# -- and its run ------------------------------------------------------------------------------------------------------


def test_a_step_and_then_its_run_cancelled_is_called_cancelled_with_the_run():
    bench = cancelled_while_it_runs("a b")
    bench.cancel()
    [token] = bench.scheduler.held_by("w")
    assert bench.told(Kill) == [Kill("w", token)]
    bench.leave()
    assert bench.causes() == dict.fromkeys("ab", "the run was cancelled")


def test_a_step_that_is_killed_in_a_failed_run_names_the_first_that_failed():
    bench = Bench(dag("a b c d"))
    bench.dispatch()
    a, b, c = bench.take(3)
    bench.fail(b)
    bench.fail(a)
    assert bench.end_killed(c).run_state is State.FAILED
    assert bench.causes() == dict.fromkeys("cd", "step 'b' failed")


def test_a_step_cancelled_in_a_failed_run_was_cancelled_and_did_not_fail():
    bench = Bench(dag("a b"))
    bench.dispatch()
    a, b = bench.take(2)
    cancel_step(bench, "b")
    bench.fail(a)
    assert bench.fail(b, decision=RETRY).step_state is State.CANCELLED
    assert bench.causes() == {"b": "it was cancelled"}


def test_cancelling_a_step_again_or_after_its_end_changes_and_tells_nothing():
    bench = cancelled_while_it_runs("a b")
    bench.scheduler.watched = True
    cancel_step(bench, "a")
    assert bench.commands == []
    b = bench.take_one()
    assert bench.succeed(b).status is ACCEPTED
    cancel_step(bench, "b")
    assert bench.commands == []
    assert bench.states() == {"a": State.RUNNING, "b": State.SUCCEEDED}


def test_the_cause_is_told_to_those_who_watch():
    bench = Bench(dag("a>b"))
    bench.scheduler.watched = True
    bench.dispatch()
    cancel_step(bench, "a")
    assert bench.told(Moved) == [
        Moved("r", "a", State.CANCELLED, 0, "it was cancelled"),
        Moved("r", "b", State.CANCELLED, 0, "step 'a' was cancelled"),
        Moved("r", None, State.CANCELLED, None, ""),
    ]


def test_a_step_that_the_run_does_not_have_cannot_be_cancelled():
    bench = Bench(dag("a"))
    bench.dispatch()
    with pytest.raises(UnknownStepError, match="'z'"):
        cancel_step(bench, "z")
    assert bench.take_names() == ["a"]

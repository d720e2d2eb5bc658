"""The scheduler: cancelling runs, and forgetting them."""

from __future__ import annotations

import pytest

from fuseline.errors import RunNotFinished, UnknownRunError
from fuseline.messages import FailureDecision
from fuseline.scheduler import Finished, Kill, RunForgotten, StepsReady
from fuseline.states import State

from .helpers import ACCEPTED, STALE, Bench, dag

CAUSE = "the run was cancelled"
RETRY = FailureDecision(FailureDecision.RETRY, 5.0)


# -- where a step stands ----------------------------------------------------------------------------------------------


def test_a_run_that_nobody_has_started_ends_at_once_and_nobody_is_told():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    bench.cancel()
    assert bench.run().state is State.CANCELLED
    assert bench.states() == {"a": State.CANCELLED, "b": State.CANCELLED}
    assert bench.causes() == {"a": CAUSE, "b": CAUSE}
    assert bench.told(Finished) == [Finished("wf", "r", State.CANCELLED, None)]
    assert bench.take(5) == []


def test_pending_ready_and_retrying_steps_are_cancelled_at_once_and_running_ones_are_killed():
    bench = Bench(dag("a>d b c e"))
    bench.dispatch()
    a, b = bench.take(2)
    bench.fail(b, decision=RETRY)
    assert list(bench.states().values()) == [
        State.RUNNING,
        State.PENDING,
        State.RETRYING,
        State.READY,
        State.READY,
    ]
    bench.cancel()
    assert bench.states() == {"a": State.RUNNING, "d": State.CANCELLED} | dict.fromkeys("bce", State.CANCELLED)
    assert bench.commands == [Kill("w", a.token)]
    assert bench.run().state is State.RUNNING
    answer = bench.end_killed(a)
    assert (answer.step_state, answer.run_state) == (State.CANCELLED, State.CANCELLED)
    assert set(bench.causes().values()) == {CAUSE}


def test_each_running_step_is_killed_at_its_own_worker():
    bench = Bench(dag("a b c"))
    bench.register("v", bench.schema)
    bench.dispatch()
    a, b = bench.take(2, "w")
    c = bench.take_one("v")
    bench.cancel()
    assert set(bench.told(Kill)) == {Kill("w", a.token), Kill("w", b.token), Kill("v", c.token)}


def test_a_run_in_which_only_a_retry_waits_ends_at_once_and_its_starter_is_told():
    bench = Bench(dag("a"))
    bench.dispatch()
    bench.fail(bench.take_one(), decision=RETRY)
    bench.cancel()
    assert bench.told(Finished) == [Finished("wf", "r", State.CANCELLED, "w")]
    assert bench.scheduler.next_due() is None


# -- how what runs ends -----------------------------------------------------------------------------------------------


def test_a_step_that_succeeds_before_it_is_killed_has_succeeded():
    bench = Bench(dag("a>b", outputs="a b"))
    bench.dispatch()
    a = bench.take_one()
    bench.cancel()
    answer = bench.succeed(a, "done")
    assert (answer.step_state, answer.run_state) == (State.SUCCEEDED, State.CANCELLED)
    assert bench.results() == {"a": "done"}
    assert bench.take(1) == []


def test_a_run_whose_last_step_succeeds_in_spite_of_the_cancellation_has_succeeded():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    bench.step_through("a")
    b = bench.take_one()
    bench.cancel()
    assert bench.succeed(b, "whole").run_state is State.SUCCEEDED
    assert bench.results() == {"b": "whole"}


def test_a_step_that_fails_in_a_cancelled_run_has_failed_and_the_run_is_cancelled():
    bench = Bench(dag("a b"))
    bench.dispatch()
    a, b = bench.take(2)
    bench.cancel()
    assert bench.fail(a, ValueError("no"), decision=RETRY).step_state is State.FAILED
    assert bench.end_killed(b).run_state is State.CANCELLED
    assert bench.states() == {"a": State.FAILED, "b": State.CANCELLED}
    assert bench.run().errors[0].message == "no"


@pytest.mark.parametrize("end", ["hand_back", "end_killed", "skip"])
def test_a_step_given_back_to_a_cancelled_run_is_not_started_again(end):
    bench = Bench(dag("a>b"))
    bench.dispatch()
    a = bench.take_one()
    bench.cancel()
    assert getattr(bench, end)(a).status is ACCEPTED
    assert bench.run().state.is_settled
    assert bench.take(5) == []
    assert bench.causes()["a"]


def test_a_failed_run_that_is_cancelled_while_a_sibling_runs_is_cancelled():
    bench = Bench(dag("a b"))
    bench.dispatch()
    a, b = bench.take(2)
    bench.fail(a)
    bench.cancel()
    assert bench.told(Kill) == [Kill("w", b.token)]
    assert bench.end_killed(b).run_state is State.CANCELLED


# -- who is told ------------------------------------------------------------------------------------------------------


def test_the_end_by_cancellation_is_told_to_the_worker_that_started_the_run():
    bench = Bench(dag("a>b"))
    bench.register("v", bench.schema)
    bench.dispatch()
    bench.succeed(bench.take_one("w"), worker="w")
    bench.fail(bench.take_one("v"), decision=RETRY, worker="v")
    bench.cancel()
    assert bench.told(Finished) == [Finished("wf", "r", State.CANCELLED, "w")]


def test_nobody_is_told_if_the_worker_that_started_the_run_has_left():
    bench = Bench(dag("a>b"))
    bench.register("v", bench.schema)
    bench.dispatch()
    bench.succeed(bench.take_one("v"), worker="v")
    bench.leave("v")
    bench.cancel()
    assert bench.told(Finished) == [Finished("wf", "r", State.CANCELLED, None)]


def test_a_worker_that_leaves_is_not_told_of_the_end_that_its_leaving_brings():
    bench = Bench(dag("a"))
    bench.dispatch()
    bench.take_one()
    bench.cancel()
    bench.leave()
    assert bench.told(Finished) == [Finished("wf", "r", State.CANCELLED, None)]


def test_the_end_by_a_report_is_told_in_its_answer_alone():
    bench = Bench(dag("a"))
    bench.dispatch()
    a = bench.take_one()
    bench.cancel()
    assert bench.end_killed(a).run_state is State.CANCELLED
    assert bench.told(Finished) == [Finished("wf", "r", State.CANCELLED, None)]


# -- again, and others ------------------------------------------------------------------------------------------------


def test_cancelling_twice_changes_and_tells_nothing():
    bench = Bench(dag("a b"))
    bench.dispatch()
    a = bench.take_one()
    bench.cancel()
    bench.cancel()
    assert bench.commands == []
    bench.end_killed(a)
    bench.cancel()
    assert bench.commands == []
    assert bench.end_killed(a).status is STALE


def test_cancelling_a_run_that_has_ended_changes_and_tells_nothing():
    bench = Bench(dag("a"))
    bench.dispatch()
    bench.succeed(bench.take_one(), 3)
    bench.cancel()
    assert bench.commands == []
    assert bench.run().state is State.SUCCEEDED
    assert bench.results() == {"a": 3}


def test_cancelling_one_run_leaves_others_alone():
    bench = Bench(dag("a>b"))
    for name in ("one", "two", "three"):
        bench.dispatch(name)
    bench.cancel("two")
    assert [assignment.instance_id for assignment in bench.take(5)] == ["one", "three"]


def test_cancelling_the_run_at_the_front_makes_room_for_the_next():
    bench = Bench(dag("a b>c"))
    bench.dispatch("one")
    bench.dispatch("two")
    first = bench.take_one()
    bench.cancel("one")
    assert {assignment.instance_id for assignment in bench.take(5)} == {"two"}
    bench.end_killed(first)
    assert bench.scheduler.unsettled("w") == 1


def test_an_unknown_run_cannot_be_cancelled_or_forgotten():
    bench = Bench(dag("a"))
    with pytest.raises(UnknownRunError, match="'ghost'"):
        bench.cancel("ghost")
    with pytest.raises(UnknownRunError, match="'ghost'"):
        bench.handle(RunForgotten("ghost"))
    with pytest.raises(UnknownRunError, match="'ghost'"):
        bench.run("ghost")


# -- forgetting -------------------------------------------------------------------------------------------------------


def test_a_settled_run_can_be_forgotten_and_its_id_used_again():
    bench = Bench(dag("a"), watch=False)
    bench.dispatch()
    bench.succeed(bench.take_one())
    bench.handle(RunForgotten("r"))
    assert bench.commands == []
    with pytest.raises(UnknownRunError):
        bench.run()
    bench.dispatch()
    assert bench.take_names() == ["a"]


def test_a_run_that_has_not_ended_cannot_be_forgotten():
    bench = Bench(dag("a"))
    bench.dispatch()
    with pytest.raises(RunNotFinished, match="PENDING"):
        bench.handle(RunForgotten("r"))
    assignment = bench.take_one()
    with pytest.raises(RunNotFinished, match="RUNNING"):
        bench.handle(RunForgotten("r"))
    assert bench.succeed(assignment).run_state is State.SUCCEEDED


def test_forgetting_a_cancelled_run_leaves_nothing_of_its_retries():
    bench = Bench(dag("a"))
    bench.dispatch()
    bench.fail(bench.take_one(), decision=RETRY)
    bench.cancel()
    bench.handle(RunForgotten("r"))
    bench.pass_time(10.0)
    assert bench.told(StepsReady) == []
    assert bench.take(1) == []
    assert bench.scheduler.next_due() is None

"""The scheduler: workers that leave, steps that start again, and workflows that change."""

from __future__ import annotations

import pytest

from fuseline.encoding import decode_error
from fuseline.errors import UnknownWorkerError, WorkflowChangedError
from fuseline.policies import RetryPolicy
from fuseline.scheduler import Finished, RunCancelled, StepCancelled, StepsReady
from fuseline.scheduler.core import MAX_RESTARTS
from fuseline.states import State

from .helpers import ACCEPTED, STALE, Bench, dag, report_of


def restart(bench: Bench, times: int) -> None:
    """Let the worker that holds the step die that often."""
    for i in range(times):
        bench.register(f"victim{i}", bench.schema)
        bench.take_one(f"victim{i}")
        bench.leave(f"victim{i}")


# -- leaving ----------------------------------------------------------------------------------------------------------


def test_what_a_worker_held_goes_back_when_it_leaves():
    bench = Bench(dag("a b c"))
    bench.register("v", bench.schema)
    bench.dispatch()
    bench.take(2, "v")
    bench.leave("v")
    assert StepsReady("wf") in bench.commands
    assert sorted(bench.take_names(5, "w")) == ["a", "b", "c"]
    assert bench.run().restarts == {0: 1, 1: 1}


def test_a_worker_that_has_left_is_unknown():
    bench = Bench(dag("a"))
    bench.dispatch()
    bench.leave("w")
    for call in (bench.take, bench.leave):
        with pytest.raises(UnknownWorkerError):
            call()


def test_leaving_with_nothing_in_hand_changes_nothing():
    bench = Bench(dag("a"))
    bench.register("v", bench.schema)
    bench.dispatch()
    bench.leave("v")
    assert bench.commands == []
    assert bench.run().restarts == {}


def test_runs_wait_for_the_next_worker_when_the_last_one_leaves():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    bench.succeed(bench.take_one(), "a")
    bench.leave()
    assert bench.run().state is State.RUNNING
    bench.register("next", bench.schema)
    assert bench.scheduler.unsettled("next") == 1
    bench.step_through("b", worker="next")
    assert bench.run().state is State.SUCCEEDED


def test_a_step_that_was_queued_behind_a_lost_one_counts_nothing():
    bench = Bench(dag("a b"))
    bench.register("v", bench.schema)
    bench.dispatch()
    bench.take(1, "v")
    bench.leave("v")
    bench.take(2)
    assert bench.run().attempts == [2, 1]
    assert bench.run().restarts == {0: 1}


# -- restarts and retries ---------------------------------------------------------------------------------------------


def test_a_restart_is_a_new_attempt_with_a_new_token():
    bench = Bench(dag("a"))
    bench.register("v", bench.schema)
    bench.dispatch()
    first = bench.take_one("v")
    bench.leave("v")
    second = bench.take_one("w")
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.token != second.token
    assert (first.payload.starts_run, second.payload.starts_run) == (True, False)


def test_restarts_use_up_no_retries():
    bench = Bench(dag("a", policies={"a": [RetryPolicy(max_retries=1)]}))
    bench.dispatch()
    restart(bench, 5)
    again = bench.take_one()
    assert again.attempt == 6
    assert again.payload.failures == {}
    assert bench.fail(again).step_state is State.RETRYING
    assert bench.fail(bench.take_one()).run_state is State.FAILED


def test_a_step_may_be_restarted_10_times_and_no_more():
    assert MAX_RESTARTS == 10
    bench = Bench(dag("a>b"))
    bench.dispatch()
    restart(bench, 10)
    assert bench.states() == {"a": State.READY, "b": State.PENDING}
    restart(bench, 1)
    assert bench.states() == {"a": State.FAILED, "b": State.CANCELLED}
    assert bench.run().state is State.FAILED
    assert bench.run().attempts == [11, 0]
    error = decode_error(bench.run().errors[0], step_name="a")
    assert "step 'a' of run r was restarted 10 times, because its engines ended" in str(error)


@pytest.mark.parametrize("what", ["run", "step"])
def test_a_step_that_was_restarted_too_often_is_cancelled_if_that_was_asked_for(what):
    bench = Bench(dag("a b"))
    bench.dispatch()
    for _ in range(MAX_RESTARTS):
        bench.end_killed(bench.take_one())
    assert bench.take_one().step_name == "a"
    bench.handle(RunCancelled("r") if what == "run" else StepCancelled("r", "a"))
    bench.leave()
    assert bench.states()["a"] is State.CANCELLED
    assert bench.run().errors == {}


def test_a_step_that_is_killed_because_it_was_cancelled_was_not_restarted():
    bench = Bench(dag("a"))
    bench.dispatch()
    a = bench.take_one()
    bench.cancel()
    bench.end_killed(a)
    assert bench.run().restarts == {}


def test_restarts_are_counted_per_step():
    bench = Bench(dag("a b"))
    bench.dispatch()
    restart(bench, 5)
    bench.succeed(bench.take_one())
    restart(bench, 10)
    assert bench.states() == {"a": State.SUCCEEDED, "b": State.READY}


def test_no_retry_saves_a_step_that_ends_its_engines():
    bench = Bench(dag("a", policies={"a": [RetryPolicy(max_retries=100)]}))
    bench.dispatch()
    restart(bench, 11)
    assert bench.run().state is State.FAILED


def test_a_step_killed_by_its_worker_for_reasons_of_its_own_is_a_restart():
    bench = Bench(dag("a"))
    bench.dispatch()
    for attempt in range(1, 11):
        assignment = bench.take_one()
        assert assignment.attempt == attempt
        assert bench.end_killed(assignment).step_state is State.READY
    assert bench.end_killed(bench.take_one()).step_state is State.FAILED
    assert bench.run().state is State.FAILED
    [finished] = bench.told(Finished)
    assert finished.state is State.FAILED


# -- handed back ------------------------------------------------------------------------------------------------------


def test_a_step_handed_back_keeps_its_attempt_number_and_counts_nothing():
    bench = Bench(dag("a", policies={"a": [RetryPolicy(max_retries=0)]}))
    bench.dispatch()
    tokens = set()
    for _ in range(20):
        assignment = bench.take_one()
        assert assignment.attempt == 1
        tokens.add(assignment.token)
        answer = bench.hand_back(assignment)
        assert (answer.status, answer.step_state, answer.run_state) == (ACCEPTED, State.READY, None)
    assert len(tokens) == 20
    assert bench.run().restarts == {}
    assert bench.succeed(bench.take_one()).run_state is State.SUCCEEDED
    assert bench.run().attempts == [1]


def test_a_second_attempt_handed_back_is_the_second_attempt_again():
    bench = Bench(dag("a", policies={"a": [RetryPolicy(max_retries=1, wait=1)]}))
    bench.dispatch()
    bench.fail(bench.take_one())
    bench.pass_time(1.0)
    second = bench.take_one()
    bench.hand_back(second)
    again = bench.take_one()
    assert (second.attempt, again.attempt) == (2, 2)
    assert bench.fail(again).run_state is State.FAILED


def test_a_step_handed_back_may_go_to_another_worker():
    bench = Bench(dag("a"))
    bench.register("v", bench.schema)
    bench.dispatch()
    bench.hand_back(bench.take_one("v"), worker="v")
    assert bench.take_names(1, "w") == ["a"]


def test_a_run_whose_first_step_was_handed_back_has_started_once():
    bench = Bench(dag("a"))
    bench.dispatch()
    first = bench.take_one()
    bench.hand_back(first)
    assert bench.run().state is State.RUNNING
    assert (first.payload.starts_run, bench.take_one().payload.starts_run) == (True, True)


def test_a_start_that_was_told_is_not_told_again_though_the_step_is_handed_back():
    bench = Bench(dag("a"))
    bench.dispatch()
    first = bench.take_one()
    assert bench.report(report_of(first, State.READY, told=True)).status is ACCEPTED
    assert (first.payload.starts_run, bench.take_one().payload.starts_run) == (True, False)


def test_only_who_was_to_tell_of_the_start_can_hand_that_back():
    bench = Bench(dag("a b c"))
    bench.register("v", bench.schema)
    bench.dispatch()
    a, b = bench.take_one("v"), bench.take_one("w")
    bench.hand_back(b)
    b = bench.take_one("w")
    assert (a.payload.starts_run, b.payload.starts_run) == (True, False)
    bench.hand_back(a, worker="v")
    a, c = bench.take(2, "w")
    assert (a.payload.starts_run, c.payload.starts_run) == (True, False)
    for each in (a, b, c):
        bench.succeed(each)
    assert bench.told(Finished) == [Finished(bench.schema.workflow_id, "r", State.SUCCEEDED, None)]


def test_of_an_end_that_no_report_brings_they_are_told_who_got_the_start_last():
    bench = Bench(dag("a b"))
    bench.register("v", bench.schema)
    for last in "wv":
        bench.dispatch(last)
        bench.hand_back(bench.take_one("w"))
        a, b = bench.take_one(last), bench.take_one("v")
        assert (a.payload.starts_run, b.payload.starts_run) == (True, False)
        bench.hand_back(a, worker=last)
        bench.succeed(b, worker="v")
        bench.cancel(last)
        assert [(end.state, end.tell) for end in bench.told(Finished)] == [(State.CANCELLED, last)]


def test_a_step_handed_back_is_taken_before_its_siblings():
    bench = Bench(dag("a b c"))
    bench.dispatch()
    bench.hand_back(bench.take_one())
    assert bench.take_names() == ["a", "b", "c"]


# -- leaving a run that stops -----------------------------------------------------------------------------------------


def test_what_a_worker_held_of_a_failed_run_is_cancelled_when_it_leaves():
    bench = Bench(dag("a b"))
    bench.register("v", bench.schema)
    bench.dispatch()
    a = bench.take_one("w")
    b = bench.take_one("v")
    bench.fail(a, worker="w")
    bench.leave("v")
    assert bench.states() == {"a": State.FAILED, "b": State.CANCELLED}
    assert bench.told(Finished) == [Finished("wf", "r", State.FAILED, "w")]
    assert bench.succeed(b, worker="v").status is STALE


def test_what_a_worker_held_of_a_cancelled_run_is_cancelled_when_it_leaves():
    bench = Bench(dag("a b"))
    bench.register("v", bench.schema)
    bench.dispatch()
    bench.take_one("v")
    bench.cancel()
    bench.leave("v")
    assert bench.run().state is State.CANCELLED
    assert bench.take(5) == []


def test_a_worker_that_leaves_with_steps_of_many_runs_gives_all_back():
    bench = Bench(dag("a b"))
    bench.register("v", bench.schema)
    for i in range(5):
        bench.dispatch(f"r{i}")
    bench.take(10, "v")
    bench.cancel("r1")
    bench.leave("v")
    taken = [(assignment.instance_id, assignment.step_name) for assignment in bench.take(20)]
    assert sorted(taken) == sorted((f"r{i}", step) for i in (0, 2, 3, 4) for step in "ab")
    assert bench.run("r1").state is State.CANCELLED


# -- workflows that change --------------------------------------------------------------------------------------------


def test_another_workflow_by_the_same_id_is_refused_while_a_worker_has_the_first():
    bench = Bench(dag("a"))
    with pytest.raises(WorkflowChangedError, match="'wf'"):
        bench.register("v", dag("a b"))
    with pytest.raises(WorkflowChangedError, match="'wf'"):
        bench.dispatch("r", dag("a b"))
    with pytest.raises(UnknownWorkerError):
        bench.take(1, "v")
    assert bench.scheduler.runs == {}


def test_another_workflow_by_the_same_id_is_refused_while_a_run_of_the_first_goes_on():
    bench = Bench(dag("a"), worker=None)
    bench.dispatch()
    with pytest.raises(WorkflowChangedError):
        bench.register("w", dag("a b"))
    bench.register("w", bench.schema)
    bench.succeed(bench.take_one())
    bench.leave()
    bench.register("w", dag("a b"))


def test_another_workflow_by_the_same_id_is_fine_once_nobody_works_with_the_first():
    bench = Bench(dag("a"))
    bench.dispatch("old")
    bench.succeed(bench.take_one(), "of the old one")
    bench.leave()
    bench.register("w", dag("a>b"))
    bench.dispatch("new", dag("a>b"))
    bench.step_through("a b")
    assert bench.states("old") == {"a": State.SUCCEEDED}
    assert bench.results("old") == {"a": "of the old one"}
    with pytest.raises(WorkflowChangedError):
        bench.dispatch("newer", dag("a"))


def test_what_stands_in_the_way_of_a_changed_workflow_is_named():
    bench = Bench(dag("a"))
    bench.register("v", dag("a", name="other"))
    bench.dispatch("of another", dag("a", name="other"))
    check = bench.scheduler.check_unused
    check("nobody knows it")
    with pytest.raises(WorkflowChangedError) as caught:
        check("wf")
    assert (caught.value.workers, caught.value.runs) == (1, ())
    for name in ("ended", "one", "two"):
        bench.dispatch(name)
        if name == "ended":
            bench.succeed(bench.take_one())
    bench.leave()
    with pytest.raises(WorkflowChangedError) as caught:
        check("wf")
    assert (caught.value.workers, caught.value.runs) == (0, ("one", "two"))
    with pytest.raises(WorkflowChangedError) as caught:
        check("wf", [bench.run("one")])
    assert caught.value.runs == ("two",)
    check("wf", [bench.run("one"), bench.run("two")])


def test_another_version_is_another_workflow():
    bench = Bench(dag("a", version="1"))
    bench.register("v", dag("a b", version="2"))
    bench.dispatch("one", dag("a", version="1"))
    bench.dispatch("two", dag("a b", version="2"))
    assert bench.take_names(5, "w") == ["a"]
    assert bench.take_names(5, "v") == ["a", "b"]


def test_the_same_workflow_built_twice_is_the_same():
    bench = Bench(dag("a"))
    bench.register("v", dag("a"))
    bench.dispatch("r", dag("a"))
    assert bench.take_names(1, "v") == ["a"]


def test_a_worker_refused_for_one_workflow_has_none():
    bench = Bench(dag("a"))
    with pytest.raises(WorkflowChangedError):
        bench.register("v", dag("x", name="other"), dag("a b"))
    bench.register("u", dag("y", name="other"))
    bench.dispatch("r", dag("y", name="other"))
    assert bench.take_names(1, "u") == ["y"]


def test_the_load_of_a_workflow_is_its_open_runs_and_its_workers():
    bench = Bench(dag("a"))
    assert bench.scheduler.load("unknown") == (0, 0)
    assert bench.scheduler.load("wf") == (0, 1)
    bench.register("v", bench.schema)
    for name in ("r", "s", "t"):
        bench.dispatch(name)
    bench.step_through("a")
    assert bench.scheduler.load("wf") == (2, 2)
    bench.leave("v")
    assert bench.scheduler.load("wf") == (2, 1)

"""The scheduler: reports, and the tokens that decide whether they count."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from fuseline.encoding import encode
from fuseline.messages import FailureDecision, ReportAnswer
from fuseline.policies import RetryPolicy
from fuseline.scheduler import Answer, Finished
from fuseline.states import State

from .helpers import ACCEPTED, STALE, UNKNOWN, Bench, dag, error_info, report_of

ENDS = [State.SUCCEEDED, State.FAILED, State.SKIPPED, State.CANCELLED, State.READY]


def snapshot(bench: Bench, instance_id: str = "r"):
    run = bench.run(instance_id)
    return (
        run.state,
        list(run.states),
        list(run.attempts),
        dict(run.results),
        dict(run.errors),
        dict(run.running),
        list(run.ready),
        bench.scheduler.held_by("w"),
        bench.scheduler.next_due(),
    )


def assert_changes_nothing(bench: Bench, report, status, worker: str = "w") -> None:
    before = snapshot(bench)
    assert bench.report(report, worker) == ReportAnswer(status=status)
    assert bench.commands == [Answer([ReportAnswer(status=status)])]
    assert snapshot(bench) == before


# -- accepted ---------------------------------------------------------------------------------------------------------


def test_a_report_is_accepted_and_says_what_became_of_step_and_run():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    assert bench.succeed(bench.take_one()) == ReportAnswer(status=ACCEPTED, step_state=State.SUCCEEDED)
    answer = bench.succeed(bench.take_one())
    assert answer == ReportAnswer(status=ACCEPTED, step_state=State.SUCCEEDED, run_state=State.SUCCEEDED)


def test_a_failure_says_that_the_run_has_failed():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    answer = bench.fail(bench.take_one())
    assert (answer.step_state, answer.run_state) == (State.FAILED, State.FAILED)


def test_a_retry_says_when():
    bench = Bench(dag("a"))
    bench.dispatch()
    answer = bench.fail(bench.take_one(), decision=FailureDecision(FailureDecision.RETRY, 2.5))
    assert (answer.step_state, answer.delay, answer.run_state) == (State.RETRYING, 2.5, None)


def test_the_end_of_a_run_by_a_report_is_told_to_its_worker_and_to_nobody_else():
    bench = Bench(dag("a>b"))
    bench.register("v", bench.schema)
    bench.dispatch()
    bench.succeed(bench.take_one("w"), worker="w")
    answer = bench.succeed(bench.take_one("v"), worker="v")
    assert answer.run_state is State.SUCCEEDED
    assert bench.told(Finished) == [Finished("wf", "r", State.SUCCEEDED, None)]


# -- twice, late, and by others ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ENDS)
@pytest.mark.parametrize("first", ENDS)
def test_a_second_report_with_the_same_token_changes_nothing(first, again):
    bench = Bench(dag("a>b"))
    bench.dispatch()
    assignment = bench.take_one()
    bench.report(report_of(assignment, first, result=encode(1)))
    assert_changes_nothing(bench, report_of(assignment, again, result=encode(2)), STALE)


@pytest.mark.parametrize("state", ENDS)
def test_a_late_report_of_an_earlier_attempt_changes_nothing(state):
    bench = Bench(dag("a", policies={"a": [RetryPolicy(3)]}))
    bench.dispatch()
    first = bench.take_one()
    bench.fail(first)
    assert_changes_nothing(bench, report_of(first, state), STALE)
    second = bench.take_one()
    assert_changes_nothing(bench, report_of(first, state), STALE)
    assert bench.succeed(second).status is ACCEPTED


@pytest.mark.parametrize("state", ENDS)
def test_a_late_report_of_a_settled_attempt_changes_nothing(state):
    bench = Bench(dag("a"))
    bench.dispatch()
    assignment = bench.take_one()
    bench.succeed(assignment, "first")
    assert_changes_nothing(bench, report_of(assignment, state, result=encode("late")), STALE)
    assert bench.results() == {"a": "first"}


def test_a_report_of_a_worker_that_was_believed_dead_changes_nothing():
    bench = Bench(dag("a"))
    bench.register("v", bench.schema)
    bench.dispatch()
    lost = bench.take_one("v")
    bench.leave("v")
    again = bench.take_one("w")
    assert_changes_nothing(bench, report_of(lost, State.SUCCEEDED), STALE, worker="v")
    assert_changes_nothing(bench, report_of(lost, State.SUCCEEDED), STALE)
    assert bench.succeed(again).run_state is State.SUCCEEDED


def test_a_report_with_the_token_of_another_worker_changes_nothing():
    bench = Bench(dag("a"))
    bench.register("v", bench.schema)
    bench.dispatch()
    assignment = bench.take_one("w")
    assert_changes_nothing(bench, report_of(assignment, State.SUCCEEDED), STALE, worker="v")
    assert_changes_nothing(bench, report_of(assignment, State.SUCCEEDED), STALE, worker="stranger")
    assert bench.succeed(assignment).status is ACCEPTED


def test_a_report_about_another_run_than_its_token_changes_nothing():
    bench = Bench(dag("a"))
    bench.dispatch("r")
    bench.dispatch("other")
    assignment, _ = bench.take(2)
    report = replace(report_of(assignment, State.SUCCEEDED), instance_id="other")
    assert_changes_nothing(bench, report, STALE)
    assert bench.states("other") == {"a": State.RUNNING}


def test_a_report_about_another_step_than_its_token_changes_nothing():
    bench = Bench(dag("a b"))
    bench.dispatch()
    a, b = bench.take(2)
    assert_changes_nothing(bench, replace(report_of(a, State.SUCCEEDED), step_name="b"), STALE)
    assert bench.succeed(a).status is ACCEPTED
    assert bench.succeed(b).status is ACCEPTED


def test_a_hand_back_that_is_repeated_changes_nothing_and_is_called_stale():
    bench = Bench(dag("a"))
    bench.dispatch()
    assignment = bench.take_one()
    assert bench.hand_back(assignment).status is ACCEPTED
    assert_changes_nothing(bench, report_of(assignment, State.READY), STALE)


# -- unknown ----------------------------------------------------------------------------------------------------------


def test_a_report_about_an_unknown_run_or_step_is_answered_unknown():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    assignment = bench.take_one()
    good = report_of(assignment, State.SUCCEEDED)
    assert_changes_nothing(bench, replace(good, instance_id="ghost"), UNKNOWN)
    assert_changes_nothing(bench, replace(good, step_name="ghost", token=None), UNKNOWN)
    assert_changes_nothing(bench, replace(good, instance_id="ghost", token=None), UNKNOWN)


def test_a_report_about_a_step_that_was_never_assigned_is_answered_unknown():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    assignment = bench.take_one()
    good = report_of(assignment, State.SUCCEEDED)
    assert_changes_nothing(bench, replace(good, step_name="b", token=None), UNKNOWN)
    assert_changes_nothing(bench, replace(good, step_name="b", token=10**9), UNKNOWN)
    assert_changes_nothing(bench, replace(good, step_name="b", token=0), UNKNOWN)
    assert_changes_nothing(bench, replace(good, step_name="b"), STALE)  # by its token, it was handed out


def test_a_token_that_was_never_given_out_changes_nothing():
    bench = Bench(dag("a"))
    bench.dispatch()
    assignment = bench.take_one()
    for token in (0, -1, 10**9):
        before = snapshot(bench)
        assert bench.report(replace(report_of(assignment, State.SUCCEEDED), token=token)).status is not ACCEPTED
        assert snapshot(bench) == before


def test_a_report_about_a_forgotten_run_is_answered_unknown():
    from fuseline.scheduler import RunForgotten

    bench = Bench(dag("a"))
    bench.dispatch()
    assignment = bench.take_one()
    bench.succeed(assignment)
    bench.handle(RunForgotten("r"))
    assert bench.succeed(assignment).status is UNKNOWN


# -- bare reports, of hand-written workers ----------------------------------------------------------------------------


def bare(assignment, state, **fields):
    return report_of(assignment, state, token=None, **fields)


def test_a_report_without_a_token_means_the_assignment_that_the_worker_holds():
    bench = Bench(dag("a"))
    bench.dispatch()
    assert bench.report(bare(bench.take_one(), State.SUCCEEDED, result=encode(3))).run_state is State.SUCCEEDED
    assert bench.results() == {"a": 3}


def test_a_second_report_without_a_token_changes_nothing():
    bench = Bench(dag("a"))
    bench.dispatch()
    assignment = bench.take_one()
    bench.report(bare(assignment, State.SUCCEEDED))
    assert_changes_nothing(bench, bare(assignment, State.FAILED), STALE)


def test_a_report_without_a_token_about_what_another_worker_holds_changes_nothing():
    bench = Bench(dag("a"))
    bench.register("v", bench.schema)
    bench.dispatch()
    assignment = bench.take_one("w")
    assert_changes_nothing(bench, bare(assignment, State.SUCCEEDED), STALE, worker="v")


def test_a_report_without_a_token_while_a_retry_waits_changes_nothing():
    bench = Bench(dag("a", policies={"a": [RetryPolicy(3, wait=5)]}))
    bench.dispatch()
    assignment = bench.take_one()
    assert bench.report(bare(assignment, State.FAILED)).step_state is State.RETRYING
    assert_changes_nothing(bench, bare(assignment, State.SUCCEEDED), STALE)


def test_a_bare_failure_is_decided_by_the_policy_in_the_schema():
    bench = Bench(dag("a", policies={"a": [RetryPolicy(max_retries=1, wait=2)]}))
    bench.dispatch()
    answer = bench.report(bare(bench.take_one(), State.FAILED))
    assert (answer.step_state, answer.delay) == (State.RETRYING, 2.0)
    bench.pass_time(2.0)
    answer = bench.report(bare(bench.take_one(), State.FAILED, error=error_info()))
    assert (answer.step_state, answer.run_state) == (State.FAILED, State.FAILED)


def test_a_bare_failure_without_a_policy_is_final():
    bench = Bench(dag("a"))
    bench.dispatch()
    assert bench.report(bare(bench.take_one(), State.FAILED)).run_state is State.FAILED
    assert bench.run().errors == {}

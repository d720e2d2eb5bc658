"""The scheduler: failures, retries, and the budgets that end them."""

from __future__ import annotations

import math

import pytest

from fuseline.messages import FailureDecision
from fuseline.policies import RetryPolicy, StepPolicy, StepTimeoutPolicy
from fuseline.scheduler import Scheduler, StepCancelled, StepsReady
from fuseline.states import State

from .helpers import ACCEPTED, Bench, dag, report_of

FAIL, SKIP = FailureDecision(FailureDecision.FAIL), FailureDecision(FailureDecision.SKIP)


def retry(delay: float = 0.0) -> FailureDecision:
    return FailureDecision(FailureDecision.RETRY, delay)


def bench_with(*policies: StepPolicy, edges: str = "a") -> Bench:
    bench = Bench(dag(edges, policies={"a": policies}))
    bench.dispatch()
    return bench


def fail_until_final(bench: Bench, *errors: Exception) -> list[State]:
    """Let attempts fail, one after the other, as long as there is a next one; return the states after each."""
    states = []
    for error in errors:
        states.append(bench.fail(bench.take_one(), error).step_state)
        if states[-1] is not State.RETRYING:
            break
        due = bench.scheduler.next_due()
        assert due is not None
        bench.now = max(bench.now, due)
    return states


# -- without a policy -------------------------------------------------------------------------------------------------


def test_without_a_policy_the_first_failure_is_final():
    bench = bench_with()
    assert bench.fail(bench.take_one(), ValueError("no")).run_state is State.FAILED
    assert bench.run().errors[0].message == "no"
    assert bench.run().failed_steps == [0]


# -- decided by the schema --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_step_that_always_fails_ends_after_its_retries(retries):
    bench = bench_with(RetryPolicy(max_retries=retries))
    states = fail_until_final(bench, *[ValueError() for _ in range(9)])
    assert states == [State.RETRYING] * retries + [State.FAILED]
    assert bench.run().attempts == [retries + 1]
    assert bench.run().state is State.FAILED


def test_a_step_that_succeeds_at_last_has_succeeded_and_its_errors_are_gone():
    bench = bench_with(RetryPolicy(max_retries=3))
    bench.fail(bench.take_one())
    assert bench.run().errors
    bench.fail(bench.take_one())
    assert bench.succeed(bench.take_one(), "at last").run_state is State.SUCCEEDED
    run = bench.run()
    assert (run.attempts, run.errors, run.failures, run.failed_steps) == ([3], {}, {}, [])
    assert bench.results() == {"a": "at last"}


def test_a_retry_waits_as_long_as_its_policy_says_and_no_longer():
    bench = bench_with(RetryPolicy(max_retries=3, wait=4, backoff=2))
    for delay in (4.0, 8.0, 16.0):
        answer = bench.fail(bench.take_one())
        assert (answer.step_state, answer.delay) == (State.RETRYING, delay)
        assert bench.scheduler.next_due() == bench.now + delay
        bench.now += delay - 0.25
        assert bench.take(1) == []
        assert bench.states() == {"a": State.RETRYING}
        bench.now += 0.25
    assert bench.fail(bench.take_one()).step_state is State.FAILED
    assert bench.scheduler.next_due() is None


def test_a_waiting_retry_holds_no_worker():
    bench = bench_with(RetryPolicy(wait=60), edges="a b")
    a = bench.take_one()
    bench.fail(a)
    assert bench.scheduler.held_by("w") == ()
    assert bench.take_names() == ["b"]


def test_a_retry_that_is_due_is_told_when_time_passes():
    bench = bench_with(RetryPolicy(wait=1))
    bench.fail(bench.take_one())
    bench.pass_time(0.5)
    assert bench.commands == []
    bench.pass_time(0.5)
    assert bench.told(StepsReady) == [StepsReady("wf")]
    assert bench.states() == {"a": State.READY}


def test_asking_for_steps_is_enough_to_get_a_retry_that_is_due():
    bench = bench_with(RetryPolicy(wait=1))
    bench.fail(bench.take_one())
    bench.now += 1.0
    assert bench.take_names() == ["a"]


def test_retries_become_ready_in_the_order_of_their_moments():
    bench = Bench(dag("a"))
    for i in range(5):
        bench.dispatch(f"r{i}")
    delays = [5.0, 1.0, 3.0, 1.0, 4.0]
    for assignment, delay in zip(bench.take(5), delays, strict=True):
        bench.fail(assignment, decision=retry(delay))
    order = []
    while (due := bench.scheduler.next_due()) is not None:
        bench.now = due
        order += [(bench.now, assignment.instance_id) for assignment in bench.take(5)]
    assert order == [(1.0, "r1"), (1.0, "r3"), (3.0, "r2"), (4.0, "r4"), (5.0, "r0")]


def test_another_worker_may_take_the_retry():
    bench = bench_with(RetryPolicy())
    bench.register("v", bench.schema)
    bench.fail(bench.take_one("w"), worker="w")
    again = bench.take_one("v")
    assert (again.attempt, again.payload.starts_run) == (2, False)
    assert bench.succeed(again, worker="v").run_state is State.SUCCEEDED


def test_each_retry_has_the_timeout_of_the_first():
    bench = bench_with(RetryPolicy(), StepTimeoutPolicy(30))
    first = bench.take_one()
    bench.fail(first)
    assert first.timeout == bench.take_one().timeout == 30.0


def test_the_shortest_of_several_timeouts_counts():
    bench = bench_with(StepTimeoutPolicy(30), StepTimeoutPolicy(5))
    assert bench.take_one().timeout == 5.0


def test_jitter_is_drawn_from_what_the_scheduler_was_given():
    bench = Bench(dag("a", policies={"a": [RetryPolicy(wait=8, jitter=1)]}), watch=False)
    bench.scheduler = Scheduler(draw=lambda: 0.25)
    bench.register("w", bench.schema)
    bench.dispatch()
    assert bench.fail(bench.take_one()).delay == 6.0


# -- budgets per cause ------------------------------------------------------------------------------------------------


def test_two_policies_give_each_cause_a_budget_of_its_own():
    bench = bench_with(RetryPolicy(2, retry_on=OSError), RetryPolicy(1, retry_on=ValueError))
    states = fail_until_final(bench, OSError(), ValueError(), OSError(), OSError())
    assert states == [State.RETRYING, State.RETRYING, State.RETRYING, State.FAILED]
    bench = bench_with(RetryPolicy(2, retry_on=OSError), RetryPolicy(1, retry_on=ValueError))
    assert fail_until_final(bench, OSError(), ValueError(), ValueError())[-1] is State.FAILED


def test_the_first_policy_that_answers_for_a_cause_decides():
    bench = bench_with(RetryPolicy(0, retry_on=LookupError), RetryPolicy(5))
    assert fail_until_final(bench, KeyError()) == [State.FAILED]
    bench = bench_with(RetryPolicy(5), RetryPolicy(0, retry_on=LookupError))
    assert fail_until_final(bench, KeyError()) == [State.RETRYING]


def test_a_cause_that_no_policy_answers_for_is_final():
    bench = bench_with(RetryPolicy(5, retry_on=OSError))
    assert fail_until_final(bench, ValueError()) == [State.FAILED]


def test_each_budget_has_a_wait_of_its_own():
    bench = bench_with(
        RetryPolicy(3, wait=1, backoff=10, retry_on=OSError), RetryPolicy(3, wait=2, backoff=10, retry_on=ValueError)
    )
    delays = []
    for error in (OSError(), OSError(), ValueError(), OSError(), ValueError()):
        delays.append(bench.fail(bench.take_one(), error).delay)
        bench.now += delays[-1]
    assert delays == [1.0, 10.0, 2.0, 100.0, 20.0]


def test_a_failure_of_which_nothing_is_known_uses_the_first_budget():
    bench = bench_with(RetryPolicy(1, retry_on=OSError), RetryPolicy(5))
    for expected in (State.RETRYING, State.FAILED):
        report = report_of(bench.take_one(), State.FAILED)
        assert bench.report(report).step_state is expected


def test_other_policies_between_do_not_disturb_the_places():
    bench = bench_with(StepTimeoutPolicy(9), RetryPolicy(1, retry_on=OSError), StepTimeoutPolicy(8), RetryPolicy(1))
    bench.fail(bench.take_one(), OSError())
    bench.fail(bench.take_one(), ValueError())
    assert bench.take_one().payload.failures == {1: 1, 3: 1}


def test_a_subclass_of_a_retry_policy_decides_in_the_broker_like_its_base():
    class Mine(RetryPolicy):
        pass

    assert fail_until_final(bench_with(Mine(1)), ValueError(), ValueError()) == [State.RETRYING, State.FAILED]


# -- decided by the worker --------------------------------------------------------------------------------------------


def test_the_decision_of_the_worker_is_followed():
    bench = bench_with(RetryPolicy(0))
    assert bench.fail(bench.take_one(), decision=retry(3.0)).delay == 3.0
    bench.pass_time(3.0)
    assert bench.fail(bench.take_one(), decision=FAIL).run_state is State.FAILED


def test_the_decision_of_the_worker_stands_against_a_budget_that_is_not_used_up():
    bench = bench_with(RetryPolicy(9))
    assert bench.fail(bench.take_one(), decision=FAIL).run_state is State.FAILED


def test_a_worker_may_decide_to_skip():
    bench = bench_with()
    assert bench.fail(bench.take_one(), decision=SKIP).step_state is State.SKIPPED


def test_the_payload_tells_how_many_failures_each_policy_has_decided():
    bench = bench_with(RetryPolicy(9), RetryPolicy(9))
    failures = []
    for place in (0, 1, 1, None):
        assignment = bench.take_one()
        failures.append(dict(assignment.payload.failures))
        bench.fail(assignment, decision=retry(), decided_by=place)
    failures.append(dict(bench.take_one().payload.failures))
    assert failures == [{}, {0: 1}, {0: 1, 1: 1}, {0: 1, 1: 2}, {0: 1, 1: 2}]


def test_the_payload_of_an_attempt_does_not_change_after_it_was_handed_out():
    bench = bench_with(RetryPolicy(9))
    first = bench.take_one()
    bench.fail(first, decision=retry(), decided_by=0)
    bench.take_one()
    assert dict(first.payload.failures) == {}


@pytest.mark.parametrize("delay", [math.nan, math.inf, -math.inf, -5.0])
def test_an_impossible_delay_of_one_step_does_not_hold_up_the_retries_of_others(delay):
    """A policy of a user may compute nonsense; refusing it is as good as mending it, blocking others is not."""
    bench = Bench(dag("a"), watch=False)
    bench.dispatch("odd")
    bench.dispatch("fine")
    odd, fine = bench.take(2)
    try:
        bench.fail(odd, decision=retry(delay))
    except ValueError:
        pass
    assert bench.fail(fine, decision=retry(1.0)).status is ACCEPTED
    bench.now += 1.0
    assert "fine" in [assignment.instance_id for assignment in bench.take(5)]


# -- entries that are out of date -------------------------------------------------------------------------------------


def test_next_due_leaves_out_retries_that_nobody_waits_for_any_more():
    bench = Bench(dag("a"))
    for name in ("one", "two"):
        bench.dispatch(name)
    one, two = bench.take(2)
    bench.fail(one, decision=retry(1.0))
    bench.fail(two, decision=retry(2.0))
    assert bench.scheduler.next_due() == 1.0
    bench.cancel("one")
    assert bench.scheduler.next_due() == 2.0
    bench.cancel("two")
    assert bench.scheduler.next_due() is None


def test_a_cancelled_retry_does_not_come_back_when_its_time_comes():
    bench = bench_with(RetryPolicy(wait=1))
    bench.fail(bench.take_one())
    bench.cancel()
    bench.pass_time(10.0)
    assert bench.take(1) == []
    assert bench.states() == {"a": State.CANCELLED}


def test_a_retry_stopped_by_the_failure_of_another_step_does_not_come_back():
    bench = bench_with(RetryPolicy(wait=1), edges="a b")
    a, b = bench.take(2)
    bench.fail(a)
    bench.fail(b)
    assert bench.scheduler.next_due() is None
    bench.pass_time(10.0)
    assert bench.take(1) == []
    assert bench.states() == {"a": State.CANCELLED, "b": State.FAILED}
    assert bench.causes()["a"] == "step 'b' failed"


def test_a_retry_in_a_run_that_is_stopping_is_the_end_of_the_step():
    bench = bench_with(RetryPolicy(9), edges="a b")
    a, b = bench.take(2)
    bench.fail(b)
    answer = bench.fail(a)
    assert (answer.step_state, answer.run_state) == (State.FAILED, State.FAILED)
    assert bench.run().failed_steps == [1, 0]


def test_a_step_that_waits_no_more_is_not_recorded_as_due():
    bench = bench_with(edges="a b")
    a, b = bench.take(2)
    for assignment in (a, b):
        bench.fail(assignment, decision=retry(5.0))
    assert bench.run().due == {0: 5.0, 1: 5.0}
    bench.handle(StepCancelled("r", "b"))
    assert bench.run().due == {0: 5.0}
    bench.pass_time(5.0)
    assert bench.states()["a"] is State.READY
    assert bench.run().due == {}


def test_a_step_that_is_not_retried_has_no_delay():
    for decision in (FAIL, SKIP, None):
        assert bench_with().fail(bench_with().take_one(), decision=decision).delay == 0.0


def test_an_error_that_was_not_encoded_is_not_kept():
    bench = bench_with()
    bench.report(report_of(bench.take_one(), State.FAILED, error=ValueError("a live object")))
    assert bench.run().state is State.FAILED
    assert bench.run().errors == {}

"""The scheduler: what the end of a step means for the rest of its run."""

from __future__ import annotations

import pytest

from fuseline.messages import FailureDecision
from fuseline.scheduler import Finished, Recall
from fuseline.states import State

from .helpers import ACCEPTED, Bench, arguments_of, dag, error_info, report_of

S, F, K, C, P, R = (
    State.SUCCEEDED,
    State.FAILED,
    State.SKIPPED,
    State.CANCELLED,
    State.PENDING,
    State.RUNNING,
)


def states(bench: Bench, instance_id: str = "r") -> list[State]:
    return list(bench.states(instance_id).values())


# -- on_failure="stop" ------------------------------------------------------------------------------------------------


def test_a_failure_stops_its_run_nothing_new_starts():
    bench = Bench(dag("a>b c>d"))
    bench.dispatch()
    answer = bench.fail(bench.take_one())
    assert answer.run_state is F
    assert bench.states() == {"a": F, "b": C, "c": C, "d": C}
    assert bench.causes() == dict.fromkeys("bcd", "step 'a' failed")
    assert bench.take(5) == []


def test_what_runs_when_a_step_fails_may_finish_and_its_result_counts():
    bench = Bench(dag("a b>c", outputs="a b c"))
    bench.dispatch()
    a, b = bench.take(2)
    answer = bench.fail(a)
    assert (answer.step_state, answer.run_state) == (F, None)
    assert bench.states() == {"a": F, "b": R, "c": C}
    assert bench.run().state is R
    assert bench.succeed(b, "late").run_state is F
    assert bench.states() == {"a": F, "b": S, "c": C}
    assert bench.results() == {"b": "late"}


def test_a_second_failure_in_a_stopping_run_is_recorded_after_the_first():
    bench = Bench(dag("a b"))
    bench.dispatch()
    a, b = bench.take(2)
    bench.fail(b, ValueError("first"))
    bench.fail(a, ValueError("second"))
    assert bench.run().failed_steps == [1, 0]
    assert {step: error.message for step, error in bench.run().errors.items()} == {0: "second", 1: "first"}


def test_what_runs_when_a_step_fails_is_recalled_once_in_case_it_has_not_begun():
    bench = Bench(dag("a b c d"))
    bench.register("v", bench.schema)
    bench.dispatch()
    a, b = bench.take(2)
    c = bench.take_one("v")
    bench.fail(b)
    assert bench.told(Recall) == [Recall("w", a.token), Recall("v", c.token)]
    bench.fail(a)
    assert bench.told(Recall) == []


@pytest.mark.parametrize("why", ["continue", "cancelled"])
def test_nothing_is_recalled_because_of_a_failure_that_does_not_stop_the_run(why):
    bench = Bench(dag("a b", on_failure="continue" if why == "continue" else "stop"))
    bench.dispatch()
    a, _ = bench.take(2)
    if why == "cancelled":
        bench.cancel()
    bench.fail(a)
    assert bench.told(Recall) == []


class Walked(list):
    """A list that counts how often somebody goes through it."""

    walks = 0

    def __iter__(self):
        self.walks += 1
        return super().__iter__()


def test_the_steps_of_a_run_are_walked_once_however_many_of_them_fail():
    bench = Bench(dag(" ".join(f"s{i}" for i in range(50))), watch=False)
    run = bench.dispatch()
    assignments = bench.take(10)
    run.states = walked = Walked(run.states)
    for assignment in assignments:
        bench.fail(assignment)
    assert run.state is F
    assert walked.walks == 1


def test_a_skipped_step_keeps_the_error_that_its_worker_reports():
    bench = Bench(dag("a"))
    bench.dispatch()
    bench.report(report_of(bench.take_one(), K, error=error_info(ValueError("no"))))
    assert bench.run().errors[0].message == "no"


@pytest.mark.parametrize("end", ["hand_back", "end_killed", "skip"])
def test_what_is_given_back_to_a_run_that_stops_is_not_started_again(end):
    bench = Bench(dag("a b"))
    bench.dispatch()
    a, b = bench.take(2)
    bench.fail(a)
    answer = getattr(bench, end)(b)
    assert answer.status is ACCEPTED
    assert answer.step_state is (K if end == "skip" else C)
    assert answer.run_state is F
    assert bench.take(5) == []
    assert bench.causes()["b"]


def test_the_failure_of_one_run_leaves_other_runs_alone():
    bench = Bench(dag("a>b"))
    bench.dispatch("one")
    bench.dispatch("two")
    one, two = bench.take(2)
    bench.fail(one)
    bench.succeed(two)
    assert bench.take_names() == ["b"]
    assert states(bench, "two") == [S, R]


# -- on_failure="continue" --------------------------------------------------------------------------------------------


def test_continue_still_runs_the_branches_that_do_not_depend_on_the_failed_step():
    bench = Bench(dag("a>b>e c>d>e", on_failure="continue", outputs="d e"))
    bench.dispatch()
    a, c = bench.take(2)
    assert bench.fail(a).run_state is None
    assert bench.states() == {"a": F, "b": C, "e": C, "c": R, "d": P}
    assert bench.causes() == {"b": "step 'a' failed", "e": "step 'a' failed"}
    bench.succeed(c, "c")
    d = bench.take_one()
    assert arguments_of(d) == {"parts": ("c",)}
    assert bench.succeed(d, "d").run_state is F
    assert bench.results() == {"d": "d"}


def test_continue_keeps_waiting_retries():
    bench = Bench(dag("a b", on_failure="continue"))
    bench.dispatch()
    a, b = bench.take(2)
    bench.fail(a, decision=FailureDecision(FailureDecision.RETRY, 5.0))
    bench.fail(b)
    assert bench.states() == {"a": State.RETRYING, "b": F}
    bench.pass_time(5.0)
    assert bench.succeed(bench.take_one()).run_state is F


def test_continue_records_every_failure_in_order():
    bench = Bench(dag("a b c", on_failure="continue"))
    bench.dispatch()
    a, b, c = bench.take(3)
    bench.fail(c)
    bench.succeed(a)
    assert bench.fail(b).run_state is F
    assert bench.run().failed_steps == [2, 1]


def test_a_step_that_depends_on_two_failed_ones_names_the_first():
    bench = Bench(dag("a>c b>c", on_failure="continue"))
    bench.dispatch()
    a, b = bench.take(2)
    bench.fail(b)
    bench.fail(a)
    assert bench.causes() == {"c": "step 'b' failed"}


def test_a_failure_at_the_head_of_a_long_chain_cancels_all_of_it():
    names = [f"s{i}" for i in range(5_000)]
    bench = Bench(dag(">".join(names), on_failure="continue"), watch=False)
    bench.dispatch()
    assert bench.fail(bench.take_one()).run_state is F
    assert states(bench) == [F] + [C] * 4_999


# -- skip -------------------------------------------------------------------------------------------------------------


def test_a_skipped_step_and_all_that_depend_on_it_are_skipped_and_the_run_can_still_succeed():
    bench = Bench(dag("a>b>d c>d c>e", outputs="d e"))
    bench.dispatch()
    a, c = bench.take(2)
    answer = bench.skip(a)
    assert (answer.step_state, answer.run_state) == (K, None)
    assert bench.states() == {"a": K, "b": K, "d": K, "c": R, "e": P}
    assert bench.causes() == {
        "a": "a policy chose to skip it",
        "b": "step 'a' was skipped",
        "d": "step 'a' was skipped",
    }
    bench.succeed(c)
    assert bench.succeed(bench.take_one(), "e").run_state is S
    assert bench.results() == {"e": "e"}


def test_a_run_of_which_everything_was_skipped_has_succeeded():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    assert bench.skip(bench.take_one()).run_state is S
    assert bench.results() == {}


def test_a_failure_that_a_policy_answers_with_skip_keeps_its_error_and_fails_nothing():
    bench = Bench(dag("a>b c"))
    bench.dispatch()
    a, c = bench.take(2)
    answer = bench.fail(a, ValueError("no"), decision=FailureDecision(FailureDecision.SKIP))
    assert (answer.step_state, answer.run_state) == (K, None)
    assert bench.run().errors[0].message == "no"
    assert bench.run().failed_steps == []
    assert bench.succeed(c).run_state is S


def test_a_failure_beside_a_skipped_step_is_still_a_failure():
    bench = Bench(dag("a b", on_failure="continue"))
    bench.dispatch()
    a, b = bench.take(2)
    bench.skip(a)
    assert bench.fail(b).run_state is F


def test_a_step_after_a_skipped_and_a_failed_one_is_told_the_first_reason():
    for first, state in (("skip", K), ("fail", C)):
        bench = Bench(dag("a>c b>c", on_failure="continue"))
        bench.dispatch()
        a, b = bench.take(2)
        getattr(bench, first)(a)
        getattr(bench, "fail" if first == "skip" else "skip")(b)
        assert bench.states()["c"] is state
        assert "'a'" in bench.causes()["c"]


# -- the end of a run -------------------------------------------------------------------------------------------------


def test_a_run_ends_with_its_last_step_and_not_with_its_outputs():
    bench = Bench(dag("a b", outputs="a"))
    bench.dispatch()
    a, b = bench.take(2)
    assert bench.succeed(a).run_state is None
    assert bench.run().state is R
    assert bench.succeed(b).run_state is S


def test_a_run_is_not_over_while_a_sibling_of_a_failed_step_runs():
    bench = Bench(dag("a b c"))
    bench.dispatch()
    a, b, c = bench.take(3)
    bench.fail(a)
    bench.succeed(b)
    assert (bench.run().state, bench.run().finished) == (R, None)
    assert bench.told(Finished) == []
    bench.succeed(c)
    assert bench.told(Finished) == [Finished("wf", "r", F, None)]


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
@pytest.mark.parametrize("last", ["succeed", "fail", "skip"])
def test_one_step_ends_its_run_as_it_ends(on_failure, last):
    bench = Bench(dag("a", on_failure=on_failure))
    bench.dispatch()
    answer = getattr(bench, last)(bench.take_one())
    assert answer.run_state is {"succeed": S, "fail": F, "skip": S}[last]
    assert bench.scheduler.unsettled("w") == 0

"""The scheduler: steps that are handed out together with the one that they follow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fuseline.encoding import encode
from fuseline.messages import FailureDecision, ReportStatus, StepAssignment
from fuseline.policies import WorkflowTimeoutPolicy
from fuseline.policies.base import policy_config
from fuseline.scheduler import Kill, Moved, Recall, StepCancelled
from fuseline.scheduler.core import MAX_CHAIN
from fuseline.states import State
from fuseline.values import COMING

from .helpers import ACCEPTED, STALE, Bench, arguments_of, chain_schema, dag, report_of, step_schema


def chain_of(bench: Bench, limit: int = 10, worker: str = "w") -> list[StepAssignment]:
    return bench.take(limit, worker, chains=True)


def names(assignments: list[StepAssignment]) -> list[str]:
    return [assignment.step_name for assignment in assignments]


def test_a_chain_is_handed_out_at_once_each_after_the_one_before():
    bench = Bench(dag("a>b>c"))
    bench.dispatch()
    a, b, c = chain_of(bench)
    assert (a.follows, b.follows, c.follows) == (None, a.token, b.token)
    assert (a.attempt, b.attempt, c.attempt) == (1, 1, 1)
    assert [each.payload.starts_run for each in (a, b, c)] == [True, False, False]
    assert b.payload.arguments == {"parts": (COMING,)}
    assert bench.states() == {"a": State.RUNNING, "b": State.PENDING, "c": State.PENDING}
    assert chain_of(bench) == []


def test_without_being_asked_for_nothing_follows():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    assert names(bench.take(10)) == ["a"]


def test_what_follows_starts_when_the_success_before_it_is_told():
    bench = Bench(dag("a>b>c"))
    bench.scheduler.watched = True
    bench.dispatch()
    a, b, c = chain_of(bench)
    bench.now = 1.0
    bench.succeed(a, "a")
    assert [(moved.step_name, moved.state) for moved in bench.told(Moved)] == [
        ("a", State.SUCCEEDED),
        ("b", State.READY),
        ("b", State.RUNNING),
    ]
    assert bench.run().step_started[1] == 1.0
    bench.succeed(b, "b")
    bench.succeed(c, "c")
    assert bench.results() == {"c": "c"}
    assert bench.run().state is State.SUCCEEDED


def test_all_of_it_may_be_told_at_once():
    bench = Bench(dag("a>b>c"))
    bench.dispatch()
    chain = chain_of(bench)
    answers = bench.report_all([report_of(each, State.SUCCEEDED, result=encode(each.step_name)) for each in chain])
    assert [answer.step_state for answer in answers] == [State.SUCCEEDED] * 3
    assert answers[-1].run_state is State.SUCCEEDED


def test_what_waits_for_others_too_does_not_follow():
    bench = Bench(dag("a>c b>c"))
    bench.dispatch()
    assert names(chain_of(bench)) == ["a", "b"]


def test_what_waits_for_the_last_of_several_follows_that_one():
    bench = Bench(dag("a>c b>c"))
    bench.dispatch()
    a = bench.take_one()
    b, c = None, None
    bench.succeed(a, "a")
    b, c = chain_of(bench)
    assert arguments_of(b) == {}
    assert c.payload.arguments["parts"] == (encode("a"), COMING)
    assert c.follows == b.token


def test_of_several_that_wait_for_one_the_first_follows_it():
    bench = Bench(dag("a>b a>c b>d"))
    bench.dispatch()
    a, b, d = chain_of(bench)
    assert names([a, b, d]) == ["a", "b", "d"]
    bench.succeed(a)
    assert bench.take_names() == ["c"]


def test_a_chain_takes_room_and_is_not_endless():
    bench = Bench(chain_schema(2 * MAX_CHAIN), watch=False)
    bench.dispatch()
    assert len(chain_of(bench, 3)) == 3
    bench.dispatch("other")
    assert len(chain_of(bench, 1000)) == 1 + MAX_CHAIN


@pytest.mark.parametrize("end", [State.FAILED, State.SKIPPED, State.READY, State.CANCELLED])
def test_what_would_follow_an_attempt_that_does_not_succeed_is_as_if_it_had_not_been_handed_out(end):
    bench = Bench(dag("a>b>c", on_failure="continue"))
    bench.dispatch()
    a, b, c = chain_of(bench)
    retry = FailureDecision(FailureDecision.RETRY)
    bench.report(report_of(a, end, decision=retry if end is State.FAILED else None))
    assert not bench.told(Kill) + bench.told(Recall)
    late = [report_of(b, State.READY), report_of(c, State.READY)]
    assert [answer.status for answer in bench.report_all(late)] == [STALE, STALE]
    if end is State.SKIPPED:
        assert bench.run().state is State.SUCCEEDED
        return
    again = chain_of(bench)
    assert names(again) == ["a", "b", "c"]
    assert [each.attempt for each in again] == [1 if end is State.READY else 2, 1, 1]
    assert bench.report(report_of(b, State.SUCCEEDED)).status is STALE


def test_one_that_is_handed_back_before_its_time_waits_again_with_those_behind_it():
    bench = Bench(dag("a>b>c>d"))
    bench.register("v", bench.schema)
    bench.dispatch()
    a, b, c, d = chain_of(bench)
    assert bench.report(report_of(c, State.READY), worker="v").status is STALE
    answer = bench.report(report_of(c, State.READY))
    assert (answer.status, answer.step_state) == (ACCEPTED, State.PENDING)
    assert bench.report(report_of(d, State.READY)).status is STALE
    bench.succeed(a)
    bench.succeed(b)
    again, _ = chain_of(bench)
    assert (again.step_name, again.attempt) == ("c", 1)


def test_one_that_is_handed_back_in_its_time_is_ready():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    a, b = chain_of(bench)
    bench.succeed(a)
    assert bench.hand_back(b).step_state is State.READY
    assert bench.take_one().attempt == 1


def test_a_worker_that_leaves_leaves_nothing_promised():
    bench = Bench(dag("a>b"))
    bench.register("v", bench.schema)
    bench.dispatch()
    chain_of(bench)
    bench.leave()
    assert names(chain_of(bench, worker="v")) == ["a", "b"]


def killed(bench: Bench) -> set[int]:
    return {command.token for command in bench.told(Kill)}


def test_when_a_run_is_cancelled_what_follows_is_killed_too():
    """It may have begun, and the report of the one before it be on its way."""
    bench = Bench(dag("a>b>c"))
    bench.dispatch()
    a, b, c = chain_of(bench)
    bench.cancel()
    assert killed(bench) == {a.token, b.token, c.token}
    assert bench.states() == {"a": State.RUNNING, "b": State.CANCELLED, "c": State.CANCELLED}
    assert bench.report(report_of(a, State.SUCCEEDED, result=encode(None))).run_state is State.CANCELLED
    assert bench.report(report_of(b, State.CANCELLED)).status is STALE


def test_when_a_step_is_cancelled_it_is_killed_with_those_that_follow_it():
    bench = Bench(dag("a>b>c"))
    bench.dispatch()
    a, b, c = chain_of(bench)
    bench.handle(StepCancelled("r", "b"))
    assert killed(bench) == {b.token, c.token}
    assert bench.succeed(a).run_state is State.CANCELLED


def test_when_a_run_has_had_its_time_what_follows_is_killed_too():
    limited = replace(dag("a>b"), policies=(policy_config(WorkflowTimeoutPolicy(5.0)),))
    bench = Bench(limited)
    bench.dispatch()
    a, b = chain_of(bench)
    bench.pass_time(6.0)
    assert killed(bench) == {a.token, b.token}
    assert bench.report(report_of(b, State.SUCCEEDED)).status is STALE


def test_when_a_run_fails_what_follows_other_steps_is_recalled():
    bench = Bench(dag("a>b c>d"))
    bench.dispatch()
    a, b, c, d = chain_of(bench)
    bench.fail(a)
    assert {command.token for command in bench.told(Recall)} == {c.token, d.token}
    assert bench.report(report_of(b, State.READY)).status is STALE
    assert bench.report(report_of(d, State.READY)).status is STALE
    assert bench.succeed(c).run_state is State.FAILED


def test_a_step_that_was_begun_before_does_not_follow():
    bench = Bench(dag("a>b"), watch=False)
    run = bench.dispatch()
    run.attempts[1] = 1
    assert names(chain_of(bench)) == ["a"]


def test_nobody_else_can_speak_for_what_follows():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    a, b = chain_of(bench)
    early = bench.report_all([report_of(b, State.SUCCEEDED, result=encode(1)), report_of(b, State.READY, token=None)])
    assert [answer.status for answer in early] == [ReportStatus.STALE, ReportStatus.UNKNOWN]
    assert bench.states() == {"a": State.RUNNING, "b": State.PENDING}
    bench.succeed(a)
    assert bench.succeed(b).run_state is State.SUCCEEDED


def test_a_step_without_parameters_follows_too():
    steps = step_schema("a"), step_schema("b", "a", parameters=())
    bench = Bench(replace(dag("a>b"), steps=steps))
    bench.dispatch()
    _, b = chain_of(bench)
    assert b.payload.arguments == {}


def test_what_is_handed_back_of_a_run_that_nobody_knows_is_unknown():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    _, b = chain_of(bench)
    for strange in ({"instance_id": "no run"}, {"step_name": "no step"}):
        assert bench.report(report_of(b, State.READY, **strange)).status is ReportStatus.UNKNOWN

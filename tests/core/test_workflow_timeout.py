"""WorkflowTimeoutPolicy: what it refuses, and how the scheduler and a MemoryBroker end a run that has had its time."""

from __future__ import annotations

import dataclasses
import math
import pickle
import random
from typing import Any

import msgspec
import pytest

from fuseline import MemoryBroker, Workflow
from fuseline.errors import PolicyError, RunFailed, RunTimedOut
from fuseline.messages import FailureDecision, FinishNotice, KillNotice
from fuseline.policies import RetryPolicy, WorkflowPolicy, WorkflowTimeoutPolicy
from fuseline.policies.base import policy_config
from fuseline.records import RunRecord
from fuseline.scheduler import Finished, Kill, Moved, RunForgotten, RunRestored, Scheduler
from fuseline.scheduler.archive import record_run, revive_record
from fuseline.scheduler.deadlines import Deadlines
from fuseline.scheduler.plan import Plan
from fuseline.schema import WorkflowSchema
from fuseline.states import State

from .brokers import Add
from .helpers import ACCEPTED, HANG, STALE, Bench, FakeClock, dag, report_of

CAUSE = "the run took longer than its WorkflowTimeoutPolicy(10) allows"
EPOCH = float(1 << 30)


class Observer(WorkflowPolicy):
    """One of a user's own, which the scheduler knows nothing of."""


def timed(edges: str, *seconds: float, **options: Any) -> WorkflowSchema:
    """Return the schema of a graph whose runs may take so long; default is 10 seconds."""
    limits = tuple(policy_config(WorkflowTimeoutPolicy(each)) for each in seconds or (10,))
    return dataclasses.replace(dag(edges, **options), policies=limits)


# -- the policy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seconds", [0, -1, math.nan, math.inf, "1", None, True, 1j, 10**400], ids=lambda value: repr(value)[:10]
)
def test_a_timeout_is_a_finite_number_above_0(seconds):
    with pytest.raises(PolicyError, match=r"WorkflowTimeoutPolicy\(.*more than 0"):
        WorkflowTimeoutPolicy(seconds)


def test_a_policy_goes_to_its_config_and_back():
    policy = WorkflowTimeoutPolicy(5)
    again = WorkflowTimeoutPolicy.from_config(policy.to_config())
    assert again == policy == pickle.loads(pickle.dumps(policy))
    assert hash(again) == hash(policy)
    assert policy != WorkflowTimeoutPolicy(6)


def test_a_timeout_is_part_of_the_schema_and_its_fingerprint():
    schemas = [Workflow(Add(), policies=[WorkflowTimeoutPolicy(seconds)]).to_schema() for seconds in (5, 6, 6)]
    assert [Plan(schema).timeout for schema in schemas] == [5.0, 6.0, 6.0]
    assert len({schema.fingerprint for schema in schemas}) == 2


def test_the_shortest_of_several_counts():
    assert Plan(timed("a", 30, 5, 20)).timeout == 5.0
    assert Plan(dag("a")).timeout is None


def test_other_policies_of_a_workflow_are_no_timeouts():
    policies = tuple(map(policy_config, (Observer(), WorkflowTimeoutPolicy(7), Observer())))
    assert Plan(dataclasses.replace(dag("a"), policies=policies)).timeout == 7.0
    assert Plan(dataclasses.replace(dag("a"), policies=policies[:1])).timeout is None


# -- the scheduler ----------------------------------------------------------------------------------------------------


def test_the_time_counts_from_the_first_start_and_not_from_the_dispatch():
    bench = Bench(timed("a>b"))
    bench.dispatch()
    assert bench.scheduler.next_due() is None
    bench.pass_time(100.0)
    assert bench.run().state is State.PENDING
    bench.take_one()
    assert bench.scheduler.next_due() == 110.0
    bench.pass_time(9.5)
    assert bench.run().state is State.RUNNING
    bench.pass_time(0.5)
    assert bench.run().state is State.FAILED


def test_everything_that_has_not_ended_is_cancelled_at_once_and_what_runs_is_killed():
    bench = Bench(timed("a>e b c d"))
    bench.dispatch()
    a, b, c = bench.take(3)
    bench.succeed(a, "done")
    bench.fail(b, decision=FailureDecision(FailureDecision.RETRY, 3600.0))
    bench.scheduler.watched = True
    bench.pass_time(10.0)
    assert bench.states() == {"a": State.SUCCEEDED} | dict.fromkeys("bcde", State.CANCELLED)
    assert bench.causes() == dict.fromkeys("bcde", CAUSE)
    assert bench.told(Kill) == [Kill("w", c.token)]
    assert bench.told(Finished) == [Finished("wf", "r", State.FAILED, "w")]
    assert bench.told(Moved)[-1] == Moved("r", None, State.FAILED, None, CAUSE)
    assert bench.scheduler.next_due() is None
    assert bench.take(5) == []


def test_a_late_report_is_stale_and_changes_nothing():
    bench = Bench(timed("a>b"))
    bench.dispatch()
    a = bench.take_one()
    bench.pass_time(10.0)
    assert bench.succeed(a, "late").status is STALE
    assert bench.states() == {"a": State.CANCELLED, "b": State.CANCELLED}
    assert bench.scheduler.held_by("w") == ()


def test_a_request_for_steps_notices_that_time_has_passed():
    bench = Bench(timed("a b"))
    bench.dispatch()
    bench.take_one()
    bench.now = 10.0
    assert bench.take() == []
    assert bench.run().state is State.FAILED


def test_a_run_that_ends_in_time_is_not_touched_and_not_held():
    bench = Bench(timed("a>b"))
    bench.dispatch()
    bench.step_through("a b")
    assert bench.scheduler.next_due() is None
    bench.pass_time(100.0)
    assert bench.run().state is State.SUCCEEDED


def test_a_run_that_was_cancelled_stays_cancelled():
    bench = Bench(timed("a"))
    bench.dispatch()
    a = bench.take_one()
    bench.cancel()
    bench.pass_time(100.0)
    assert bench.run().state is State.RUNNING  # until its step has ended
    assert bench.end_killed(a).run_state is State.CANCELLED


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_a_run_that_is_failing_ends_when_its_time_is_up(on_failure):
    bench = Bench(timed("a b", on_failure=on_failure))
    bench.dispatch()
    a, _ = bench.take(2)
    bench.fail(a)
    bench.pass_time(10.0)
    assert bench.states() == {"a": State.FAILED, "b": State.CANCELLED}
    assert bench.run().state is State.FAILED


def test_each_run_has_its_own_time():
    bench = Bench(timed("a"))
    for name in ("r1", "r2", "r3"):
        bench.dispatch(name)
        bench.take_one()
        bench.pass_time(4.0)
    bench.pass_time(2.0)  # 14 seconds since the first has begun
    assert [bench.run(name).state for name in ("r1", "r2", "r3")] == [State.FAILED, State.FAILED, State.RUNNING]
    assert bench.scheduler.next_due() == 18.0


def test_what_was_killed_lingers_until_its_worker_has_reported_or_left():
    bench = Bench(timed("a b"))
    bench.register("v", bench.schema)
    bench.dispatch()
    a = bench.take_one()
    bench.take_one("v")
    bench.pass_time(10.0)
    bench.handle(RunForgotten("r"))
    assert bench.scheduler.lingers("r")
    bench.end_killed(a)
    assert bench.scheduler.lingers("r")
    bench.leave("v")
    assert not bench.scheduler.lingers("r")


def test_what_lingers_beside_what_has_ended_still_lingers():
    bench = Bench(timed("a b"))
    bench.dispatch()
    a, b = bench.take(2)
    bench.pass_time(10.0)
    bench.report(report_of(a, State.CANCELLED, token=None))
    assert bench.scheduler.lingers("r")
    bench.end_killed(b)
    assert not bench.scheduler.lingers("r")


def test_a_late_report_of_an_earlier_attempt_says_nothing_about_the_one_that_lingers():
    bench = Bench(timed("a"))
    bench.dispatch()
    first = bench.take_one()
    bench.hand_back(first)
    second = bench.take_one()
    bench.pass_time(10.0)
    bench.hand_back(first)
    assert bench.scheduler.lingers("r")
    bench.end_killed(second)
    assert not bench.scheduler.lingers("r")


def test_what_is_due_next_is_a_retry_or_the_end_of_a_run_whichever_comes_first():
    bench = Bench(timed("a b", 10, policies={"a": [RetryPolicy(9, wait=4.0)]}))
    bench.dispatch()
    a, _ = bench.take(2)
    bench.fail(a)
    assert (bench.scheduler.next_due(), bench.scheduler.next_deadline()) == (4.0, 10.0)
    bench.pass_time(7.0)
    bench.fail(bench.take_one())
    assert (bench.scheduler.next_due(), bench.scheduler.next_deadline()) == (10.0, 10.0)


def test_what_never_reached_its_worker_does_not_linger():
    bench = Bench(timed("a b"))
    bench.dispatch()
    a, b = bench.take(2)
    bench.pass_time(10.0)
    bench.scheduler.let_linger("w", {a.token})
    assert bench.scheduler.lingers("r")
    bench.scheduler.let_linger("another", ())
    assert bench.scheduler.lingers("r")
    bench.report(report_of(a, State.CANCELLED, token=None))  # as a hand-written worker does
    assert not bench.scheduler.lingers("r")
    assert bench.end_killed(b).status is not ACCEPTED


def test_runs_that_have_ended_are_not_held_until_their_deadlines():
    bench = Bench(timed("a", 1e6), watch=False)
    bench.dispatch("in progress")  # whose deadline is before theirs
    bench.take_one()
    for number in range(500):
        bench.dispatch(f"r{number}")
        bench.step_through("a")
    assert len(bench.scheduler._deadlines._heap) < 100


def test_deadlines_come_in_their_order_whatever_was_discarded():
    deadlines, bench = Deadlines(), Bench(dag("a"))
    runs = [bench.dispatch(f"r{number}") for number in range(100)]
    for number, run in enumerate(runs):
        deadlines.add(run, float(number * 37 % 100))
    for run in runs[::2]:
        deadlines.discard(run)
    found = []
    while (first := deadlines.first()) is not None:
        found.append(first[0])
        deadlines.discard(first[1])
    assert found == sorted(float(number * 37 % 100) for number in range(1, 100, 2))


@pytest.mark.parametrize("seed", range(5))
def test_what_is_left_after_many_were_discarded_comes_in_its_order(seed):
    rng, deadlines = random.Random(seed), Deadlines()
    moments = dict(zip((Ended() for _ in range(60)), rng.sample(range(1000), 60), strict=True))
    for run, moment in moments.items():
        deadlines.add(run, float(moment))
    for run in rng.sample(list(moments), 35):
        deadlines.discard(run)
        del moments[run]
    found = []
    while (first := deadlines.first()) is not None:
        found.append(first[0])
        deadlines.discard(first[1])
    assert found == sorted(moments.values())


def test_of_runs_that_have_ended_no_more_are_held_than_are_in_progress_and_that_costs_little():
    deadlines = Deadlines()
    in_progress = [Ended() for _ in range(200)]
    for place, run in enumerate(in_progress):
        deadlines.add(run, float(place))
    Ended.looked_up = 0
    for place in range(2000):
        run = Ended()
        deadlines.add(run, 1000.0 + place)
        deadlines.discard(run)
        assert len(deadlines._heap) <= 2 * len(in_progress)
    assert Ended.looked_up < 2000 * 6


class Ended:
    """Stands for a run that has ended, and counts how often it is looked up."""

    looked_up = 0

    def __hash__(self) -> int:
        Ended.looked_up += 1
        return id(self)


# -- after a restart --------------------------------------------------------------------------------------------------


def restored(record: RunRecord, schema: WorkflowSchema, now: float) -> Bench:
    """Return a bench that has the run from its record, as it is after a journey."""
    bench = Bench(schema, worker=None, watch=False)
    bench.scheduler = Scheduler(first_token=1000, first_number=100)
    bench.now = now
    packed = msgspec.msgpack.encode(record)
    bench.handle(RunRestored(schema, msgspec.msgpack.decode(packed, type=RunRecord), EPOCH))
    bench.register("v", schema)
    return bench


def test_what_was_used_up_until_the_last_event_stays_used_up():
    first = Bench(timed("a>b"))
    first.dispatch()
    a = first.take_one()
    first.pass_time(4.0)
    first.succeed(a)
    first.pass_time(3.0)  # nothing happens in that time
    record = record_run(first.run(), EPOCH)
    assert record.spent == 4.0
    bench = restored(record, first.schema, 5000.0)
    assert bench.scheduler.next_due() == 5006.0
    bench.pass_time(6.0)
    assert bench.run().state is State.FAILED
    assert record_run(bench.run(), EPOCH).timed_out == 10.0


def test_what_was_used_up_counts_from_the_first_start():
    bench = Bench(timed("a b"))
    bench.pass_time(5.0)
    bench.dispatch()
    bench.take_one()
    assert record_run(bench.run(), EPOCH).spent == 0.0
    bench.pass_time(3.0)
    bench.take_one()
    assert record_run(bench.run(), EPOCH).spent == 3.0


def test_what_was_used_up_stays_used_up_through_two_restarts():
    first = Bench(timed("a>b"))
    first.dispatch()
    a = first.take_one()
    first.pass_time(4.0)
    first.succeed(a)
    second = restored(record_run(first.run(), EPOCH), first.schema, 5000.0)
    second.pass_time(1.0)  # and nothing happens
    record = record_run(second.run(), EPOCH)
    assert record.spent == 4.0
    assert restored(record, first.schema, 6000.0).scheduler.next_due() == 6006.0


def test_a_cancelled_run_has_no_more_time_that_could_end():
    first = Bench(timed("a"))
    first.dispatch()
    a = first.take_one()
    first.cancel()
    bench = Bench(first.schema, worker=None, watch=False)
    bench.handle(RunRestored(first.schema, record_run(first.run(), EPOCH), EPOCH))
    assert bench.scheduler.next_due() is None
    bench.pass_time(100.0)
    assert bench.run().state is State.RUNNING
    assert bench.end_killed(a).run_state is State.CANCELLED


def test_a_run_that_has_had_its_time_is_still_known_to_have_had_it():
    first = Bench(timed("a"))
    first.dispatch()
    first.take_one()
    first.pass_time(10.0)
    bench = restored(record_run(first.run(), EPOCH), first.schema, 100.0)
    assert record_run(bench.run(), EPOCH).timed_out == 10.0


def test_time_used_up_in_a_workflow_that_has_no_limit_any_more_ends_nothing():
    first = Bench(timed("a"))
    first.dispatch()
    first.take_one()
    bench = restored(record_run(first.run(), EPOCH), dag("a"), 100.0)
    assert bench.scheduler.next_due() is None


@pytest.mark.parametrize(("spent", "due"), [(-5.0, 110.0), (1e9, 100.0)])
def test_no_clock_on_the_wall_makes_the_time_longer_or_negative(spent, due):
    first = Bench(timed("a"))
    first.dispatch()
    first.take_one()
    record = msgspec.structs.replace(record_run(first.run(), EPOCH), spent=spent)
    assert restored(record, first.schema, 100.0).scheduler.next_due() == due


def test_a_run_that_has_not_begun_has_all_its_time():
    first = Bench(timed("a"))
    first.dispatch()
    bench = restored(record_run(first.run(), EPOCH), first.schema, 50.0)
    assert bench.scheduler.next_due() is None
    bench.take_one("v")
    assert bench.scheduler.next_due() == 60.0


def test_a_run_that_is_resumed_has_its_time_afresh_from_its_next_start():
    first = Bench(timed("a>b"))
    first.dispatch()
    first.step_through("a")
    first.pass_time(10.0)
    record = revive_record(record_run(first.run(), EPOCH), Plan(first.schema))
    assert (record.spent, record.timed_out, record.state) == (None, None, State.RUNNING)
    bench = restored(record, first.schema, 200.0)
    assert bench.scheduler.next_due() is None
    bench.pass_time(50.0)
    assignment = bench.take_one("v")
    assert bench.scheduler.next_due() == 260.0
    bench.succeed(assignment, worker="v")
    bench.finish("v")
    assert bench.run().state is State.SUCCEEDED


# -- MemoryBroker -----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def broker(clock):
    return MemoryBroker(clock=clock)


def begin(broker: MemoryBroker, schema: WorkflowSchema):
    worker = broker.register_worker([schema])
    run = broker.dispatch_workflow(schema)
    return worker, run, broker.get_step(worker)


def assert_timed_out(broker: MemoryBroker, run: str) -> None:
    with pytest.raises(RunTimedOut) as caught:
        broker.result(run)
    assert isinstance(caught.value, RunFailed)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.timeout, caught.value.instance_id) == (10.0, run)
    info = broker.get_run(run)
    assert info.state is State.FAILED
    assert {step.cause for step in info.steps.values() if step.state is State.CANCELLED} == {CAUSE}


def test_the_broker_says_when_it_wants_to_be_asked_and_tells_the_worker(broker, clock):
    worker, run, assignment = begin(broker, timed("a>b"))
    assert broker.next_deadline() == 10.0
    clock.advance(4.0)
    assert broker.next_deadline() == 6.0
    assert broker.keep_alive(worker) == ()
    clock.advance(7.0)
    assert broker.next_deadline() == 0.0
    notices = broker.keep_alive(worker)
    assert notices == [
        KillNotice(assignment.token),
        FinishNotice(workflow_id="wf", instance_id=run, state=State.FAILED),
    ]
    assert broker.next_deadline() is None
    assert_timed_out(broker, run)


def test_a_report_that_comes_too_late_is_stale_even_if_nobody_has_looked_since(broker, clock):
    worker, run, assignment = begin(broker, timed("a"))
    clock.advance(10.0)
    assert broker.report_step(worker, report_of(assignment, State.SUCCEEDED)).status is STALE
    assert_timed_out(broker, run)


@pytest.mark.parametrize("look", ["result", "get_run", "list_runs", "get_step"])
def test_whoever_looks_sees_that_the_time_is_up(broker, clock, look):
    worker, run, _ = begin(broker, timed("a b"))
    clock.advance(10.0)
    if look == "get_step":
        assert broker.get_step(worker) is None
    elif look == "get_run":
        assert broker.get_run(run).state is State.FAILED
    elif look == "list_runs":
        assert broker.list_runs()[0].state is State.FAILED
    assert_timed_out(broker, run)


def test_who_waits_for_a_result_is_woken_when_the_time_is_up(broker, clock, monkeypatch):
    _, run, _ = begin(broker, timed("a"))
    waits = []
    monkeypatch.setattr(broker._changed, "wait", lambda seconds: (waits.append(seconds), clock.advance(seconds)))
    with pytest.raises(RunTimedOut):
        broker.result(run, timeout=None)
    assert waits == [10.0]


def test_who_follows_events_hears_the_reason(broker, clock, monkeypatch):
    _, run, _ = begin(broker, timed("a"))
    monkeypatch.setattr(broker._changed, "wait", clock.advance)
    with broker.events(run) as events:
        told = [(event.step_name, event.state, event.cause) for event in events]
    assert told == [("a", State.CANCELLED, CAUSE), (None, State.FAILED, CAUSE)]


def test_the_error_of_a_step_that_failed_before_is_the_cause(broker, clock):
    schema = timed("a b", on_failure="continue")
    worker, run, assignment = begin(broker, schema)
    broker.report_step(worker, report_of(assignment, State.FAILED, error=ValueError("no")))
    broker.get_step(worker)
    clock.advance(10.0)
    with pytest.raises(RunTimedOut) as caught:
        broker.result(run, timeout=HANG)
    assert caught.value.step_names == ("a",)
    assert isinstance(caught.value.__cause__, ValueError)


def test_retries_wait_within_the_time_of_the_run(broker, clock):
    schema = timed("a", policies={"a": [RetryPolicy(9, wait=4.0)]})
    worker, run, assignment = begin(broker, schema)
    broker.report_step(worker, report_of(assignment, State.FAILED))
    clock.advance(4.0)
    again = broker.get_step(worker)
    assert again is not None
    broker.report_step(worker, report_of(again, State.FAILED))
    clock.advance(6.0)
    assert broker.get_step(worker) is None
    assert_timed_out(broker, run)

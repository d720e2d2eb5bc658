"""A scheduler that is told to check itself finds what is wrong in it, after the event that made it so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fuseline import MemoryBroker
from fuseline.broker.housing import Housing
from fuseline.errors import InvariantBroken
from fuseline.scheduler import Scheduler, StepCancelled, StepsRequested, TimePassed
from fuseline.scheduler.invariants import check_scheduler
from fuseline.scheduler.run import Run
from fuseline.states import State

from .helpers import Bench, dag

Spoil = Callable[[Scheduler, Run], object]
A, B, C, LAST = 0, 1, 2, 3  #: a has succeeded, b runs, c is ready, last waits for all


def retry_without_waiting(run: Run) -> None:
    run.ready.clear()
    run.states[C], run.attempts[C] = State.RETRYING, 1


def succeed_too_early(run: Run) -> None:
    run.states[LAST], run.attempts[LAST] = State.SUCCEEDED, 1
    run.results.clear()  # which nobody needs any more


def start_too_early_in_a_restored_run(run: Run) -> None:
    run.was_restored = True  # so that what came from the step may have succeeded, but not be ready
    run.states[LAST] = State.READY


def skip_what_was_promised(run: Run) -> None:
    run.states[C], run.causes[C], run.step_finished[C] = State.SKIPPED, "it was skipped", 0.0


#: (what is wrong, what is said of it)
WRONG: list[tuple[Spoil, str]] = [
    (lambda core, run: core._workers["w"].held.clear(), "by its live tokens"),
    (lambda core, run: core.runs.pop("r"), "as long as one of its tokens is"),
    (lambda core, run: setattr(core._flows[run.plan.workflow_id], "unsettled", 0), "counts its open runs"),
    (lambda core, run: retry_without_waiting(run), "has no retry that nothing waits for"),
    (lambda core, run: run.journal.append((A, State.READY, "")), "all its moves followed"),
    (lambda core, run: run.running.clear(), "a token exactly for each step that runs"),
    (lambda core, run: core._live.update({run.running[B]: ("w", run, A)}), "what its tokens stand for"),
    (lambda core, run: run.ready.append(C), "queues what is ready, once"),
    (lambda core, run: setattr(run, "queued", False), "in the queue if it has something ready"),
    (lambda core, run: core._flows["wf"].ready._heap.clear(), "in the queue if it has something ready"),
    (lambda core, run: setattr(run, "open_steps", 1), "counts its open steps"),
    (lambda core, run: setattr(run, "state", State.SUCCEEDED), "settled exactly when all its steps are"),
    (lambda core, run: run.failed_steps.append(B), "lists its failed steps, once"),
    (lambda core, run: setattr(run, "cancelled", True), "has nothing that waits when it stops"),
    (lambda core, run: run.missing.__setitem__(LAST, 0), "step 'last' of run r counts what it waits for"),
    (lambda core, run: run.states.__setitem__(C, State.PENDING), "step 'c' of run r does not wait on nothing"),
    (lambda core, run: run.states.__setitem__(C, State.SKIPPED), "is not SKIPPED without a cause"),
    (lambda core, run: run.states.__setitem__(LAST, State.READY), "is not READY before its dependencies are satisfied"),
    (lambda core, run: succeed_too_early(run), "is not SUCCEEDED before its dependencies are satisfied"),
    (lambda core, run: start_too_early_in_a_restored_run(run), "is not READY before its dependencies are satisfied"),
    (lambda core, run: run.attempts.__setitem__(B, 0), "is not RUNNING without having started"),
    (lambda core, run: run.step_finished.pop(A), "has an end exactly when it is settled"),
    (lambda core, run: run.results.clear(), "keeps its result exactly while somebody needs it"),
]


def in_the_middle() -> Bench:
    bench = Bench(dag("a b c a>last b>last c>last"), watch=False)
    bench.dispatch()
    first, *_ = bench.take(2)
    bench.succeed(first)
    run = bench.scheduler.run("r")
    assert [run.plan.names[step] for step in (A, B, C, LAST)] == ["a", "b", "c", "last"]
    assert run.states == [State.SUCCEEDED, State.RUNNING, State.READY, State.PENDING]
    check_scheduler(bench.scheduler)
    return bench


@pytest.mark.parametrize(("spoil", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_is_wrong_is_named(spoil: Spoil, said: str) -> None:
    scheduler = in_the_middle().scheduler
    spoil(scheduler, scheduler.run("r"))
    with pytest.raises(InvariantBroken, match="report this as a bug") as caught:
        check_scheduler(scheduler)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("fails", "state", "said"),
    [
        (True, State.SUCCEEDED, "has not succeeded with a failed step"),
        (False, State.FAILED, "has not failed without a reason"),
        (False, State.CANCELLED, "was not cancelled without being asked"),
    ],
)
def test_a_run_that_has_ended_as_it_may_not_is_named(fails: bool, state: State, said: str) -> None:
    bench = Bench(dag("a b", on_failure="continue"), watch=False)
    run = bench.dispatch()
    a, b = bench.take(2)
    bench.handle(StepCancelled("r", "a"))
    bench.succeed(a)
    (bench.fail if fails else bench.succeed)(b)
    check_scheduler(bench.scheduler)
    run.state = state
    with pytest.raises(InvariantBroken) as caught:
        check_scheduler(bench.scheduler)
    assert said in str(caught.value)


ONLY_TO = "promises a step only to who runs, or will run, the one it waits for"

#: What is wrong with a promise to b, which follows a, and c, which follows that.
WRONG_PROMISES: list[tuple[Spoil, str]] = [
    (lambda core, run: skip_what_was_promised(run), ONLY_TO),
    (lambda core, run: run.promised.update({B: (run.running[A], "w")}), ONLY_TO),
    (lambda core, run: run.promised.update({B: (run.promised[B][0], "v")}), ONLY_TO),
    (lambda core, run: run.promised.update({C: (run.promised[C][0], "v")}), ONLY_TO),
    (lambda core, run: setattr(run, "cancelled", True), "promises nothing when it stops"),
    (lambda core, run: setattr(run, "state", State.SUCCEEDED), "promises nothing when it stops"),
]


@pytest.mark.parametrize(("spoil", "said"), WRONG_PROMISES)
def test_a_promise_that_cannot_be_kept_is_named(spoil: Spoil, said: str) -> None:
    bench = Bench(dag("a>b>c"), watch=False)
    run = bench.dispatch()
    bench.take(3, chains=True)
    assert list(run.promised) == [B, C]
    check_scheduler(bench.scheduler)
    spoil(bench.scheduler, run)
    with pytest.raises(InvariantBroken) as caught:
        check_scheduler(bench.scheduler)
    assert said in str(caught.value)


@pytest.mark.parametrize("checked", [True, False])
def test_it_is_looked_for_after_each_event_if_that_is_wanted(checked: bool) -> None:
    scheduler = Scheduler(checked=checked)
    bench = Bench(watch=False)
    bench.scheduler = scheduler
    bench.schema = dag("a")
    bench.register("w", bench.schema)
    bench.dispatch()
    scheduler.run("r").open_steps = 7
    if checked:
        with pytest.raises(InvariantBroken, match="counts its open steps"):
            scheduler.handle(TimePassed(), 0.0)
    else:
        assert scheduler.handle(StepsRequested("w", 1), 0.0)


@pytest.mark.parametrize("value", ["1", None])
def test_the_environment_can_ask_both_brokers_for_it(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv("FUSELINE_CHECKED", raising=False)
    else:
        monkeypatch.setenv("FUSELINE_CHECKED", value)
    assert MemoryBroker()._scheduler._checked is (value == "1")
    assert Housing(None, tmp_path)._core._checked is (value == "1")

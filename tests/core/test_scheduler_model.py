"""The scheduler under random histories, and planted bugs that these histories must find."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from fuseline.errors import IllegalMove
from fuseline.scheduler import Scheduler
from fuseline.scheduler.ready import ReadyRuns
from fuseline.scheduler.run import Run
from fuseline.schema import WorkflowSchema
from fuseline.states import State

from .helpers import Bench
from .scheduler_model import SchedulerModel, graphs

SETTINGS = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
#: What must have happened in the histories; what rarely happens checks nothing.
ACTIONS = {
    "dispatch",
    "request",
    "report SUCCEEDED",
    "report FAILED",
    "report SKIPPED",
    "report READY",
    "report CANCELLED",
    "report again",
    "report by another",
    "step lost",
    "cancel",
    "retry due",
    "forget",
}
OFTEN = 10


def test_the_invariants_hold_in_random_histories_and_everything_settles_in_the_end():
    fired = SchedulerModel.fired
    fired.clear()
    for _ in range(10):  # one round is enough, as a rule
        run_state_machine_as_test(SchedulerModel, settings=SETTINGS)
        if all(fired[action] >= OFTEN for action in ACTIONS):
            break
    assert {action: fired[action] for action in ACTIONS if fired[action] < OFTEN} == {}


# -- any interleaving gives the same outcomes -------------------------------------------------------------------------


def outcomes(schema: WorkflowSchema, failures: list[int], choices: list[int]) -> dict[str, tuple[bool, State | None]]:
    """Run a workflow whose steps fail a given number of times each, taking at each turn what ``choices`` say.

    Returns:
        By step: whether it was started, and how it ended if it was.
    """
    bench = Bench(schema)
    bench.register("v", schema)
    run = bench.dispatch()
    failed = [0] * len(failures)
    held = []
    turns = iter(choices)
    while not run.state.is_settled:
        choice = next(turns, 0)
        worker = "wv"[choice % 2]
        held += [(worker, assignment) for assignment in bench.take(1 + choice % 3, worker)]
        if not held:
            due = bench.scheduler.next_due()
            assert due is not None
            bench.now = max(bench.now, due)
            continue
        worker, assignment = held.pop(choice % len(held))
        step = run.plan.index[assignment.step_name]
        if choice % 7 == 6:
            bench.hand_back(assignment, worker)
        elif failed[step] < failures[step]:
            failed[step] += 1
            bench.fail(assignment, worker=worker)
        else:
            bench.succeed(assignment, worker=worker)
    return {
        name: (bool(run.attempts[i]), state if run.attempts[i] else None)
        for i, (name, state) in enumerate(bench.states().items())
    }


@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    schema=graphs(on_failure="continue"),
    failures=st.lists(st.integers(min_value=0, max_value=3), min_size=6, max_size=6),
    choices=st.lists(st.integers(min_value=0, max_value=41), max_size=60),
)
def test_any_interleaving_gives_the_same_outcomes(schema, failures, choices):
    assert outcomes(schema, failures, choices) == outcomes(schema, failures, [])


# -- planted bugs -----------------------------------------------------------------------------------------------------


def no_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report counts for whatever attempt of its step runs now."""

    def token_of(self: Scheduler, report: Any) -> int | None:
        run = self.runs.get(report.instance_id)
        return None if run is None else run.running.get(run.plan.index[report.step_name])

    monkeypatch.setattr(Scheduler, "_token_of", token_of)


def no_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report counts whoever sends it."""
    reported = Scheduler._reported

    def as_if_by_the_holder(self: Scheduler, event: Any, now: float) -> None:
        live = self._live.get(self._token_of(event.report))
        reported(self, type(event)(live[0] if live else event.worker_id, event.report), now)

    monkeypatch.setattr(Scheduler, "_reported", as_if_by_the_holder)


def leases_that_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker held is lost with it."""

    def worker_left(self: Scheduler, event: Any, now: float) -> None:
        for flow in self._workers.pop(event.worker_id).flows:
            flow.workers -= 1

    monkeypatch.setattr(Scheduler, "_worker_left", worker_left)


def finished_while_a_sibling_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends with its first failure."""
    finish = Run.finish_if_done

    def finish_early(self: Run, now: float) -> bool:
        if self.failed_steps and not self.state.is_settled:
            self.open_steps = 0
        return finish(self, now)

    monkeypatch.setattr(Run, "finish_if_done", finish_early)


def claim_that_leaves_the_step_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that was handed out stays in the queue."""
    start = Run.start

    def start_and_keep(self: Run, step: int, token: int, worker_id: str, now: float) -> None:
        start(self, step, token, worker_id, now)
        self.ready.append(step)

    monkeypatch.setattr(Run, "start", start_and_keep)


def dependents_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What depends on a failed or skipped step waits for ever."""
    monkeypatch.setattr(Run, "_give_up_dependents", lambda *args: None)


def retries_that_never_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry that is due is forgotten."""
    monkeypatch.setattr(Scheduler, "_is_waiting", staticmethod(lambda entry: False))


def not_queued_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was queued once is never queued again."""
    add = ReadyRuns.add

    def add_fresh_ones(self: ReadyRuns, run: Run) -> None:
        if run.state is State.PENDING:
            add(self, run)

    monkeypatch.setattr(ReadyRuns, "add", add_fresh_ones)


def a_result_dropped_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result goes when the first of its users has settled."""
    settle = Run._settle

    def settle_and_drop(self: Run, step: int, state: State, now: float) -> None:
        settle(self, step, state, now)
        for source in self.bound.sources[step]:
            self.results.pop(source, None)

    monkeypatch.setattr(Run, "_settle", settle_and_drop)


def a_hand_back_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that was never begun has used up an attempt number."""
    give_back = Run.give_back

    def count_and_give_back(self: Run, step: int, now: float) -> None:
        self.attempts[step] += step in self.step_started and not self.restarts.get(step)
        give_back(self, step, now)

    monkeypatch.setattr(Run, "give_back", count_and_give_back)


def a_retry_in_a_run_that_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed run starts steps again."""
    monkeypatch.setattr(Run, "is_stopping", property(lambda self: False))


def tokens_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step has one token for all its attempts."""
    assign = Scheduler._assign

    def assign_with_old_token(self: Scheduler, worker_id: str, worker: Any, run: Run, step: int, now: float) -> None:
        self._last_token += run.number * 100 + step - self._last_token
        assign(self, worker_id, worker, run, step, now)

    monkeypatch.setattr(Scheduler, "_assign", assign_with_old_token)


PLANTED = [
    no_fence,
    no_holder,
    leases_that_survive,
    finished_while_a_sibling_runs,
    claim_that_leaves_the_step_ready,
    dependents_left_behind,
    retries_that_never_come,
    not_queued_again,
    a_result_dropped_too_early,
    a_hand_back_that_counts,
    a_retry_in_a_run_that_stops,
    tokens_used_twice,
]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_random_histories_find_a_planted_bug(plant, monkeypatch):
    plant(monkeypatch)
    search = settings(SETTINGS, max_examples=1000, derandomize=True, phases=[Phase.generate], print_blob=False)
    with pytest.raises((AssertionError, IllegalMove, LookupError)):
        run_state_machine_as_test(SchedulerModel, settings=search)

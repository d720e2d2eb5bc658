"""The scheduler under random histories, and planted bugs that these histories must find."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from fuseline.errors import IllegalMove, InvariantBroken
from fuseline.schema import WorkflowSchema
from fuseline.states import State

from .helpers import Bench
from .planted_bugs import PLANTED
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
    "report nonsense",
    "step lost",
    "given up",
    "cancel",
    "cancel a step that is PENDING",
    "cancel a step that is READY",
    "cancel a step that is RUNNING",
    "cancel a step that is RETRYING",
    "retry due",
    "forget",
    "resume",
    "worker came back",
    "worker never came back",
    "promise",
    "promise kept",
    "promise broken",
    "promise given back",
    "report of a chain",
}
OFTEN = 3


def test_the_invariants_hold_in_random_histories_and_everything_settles_in_the_end():
    fired = SchedulerModel.fired
    fired.clear()
    for number in range(10):  # one round is enough, as a rule
        model = type("Round", (SchedulerModel,), {})
        if settings().derandomize:  # as in a CI: without a seed of its own, each round would have the same histories
            model = seed(number)(model)
        run_state_machine_as_test(model, settings=SETTINGS)
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


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_random_histories_find_a_planted_bug(plant, monkeypatch):
    plant(monkeypatch)
    search = settings(SETTINGS, max_examples=300, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises((AssertionError, IllegalMove, InvariantBroken, LookupError)):
        run_state_machine_as_test(SchedulerModel, settings=search)

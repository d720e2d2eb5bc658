"""The tables of moves, and the one writer that obeys them."""

from __future__ import annotations

import pytest

from fuseline.errors import IllegalMove
from fuseline.scheduler.plan import Plan
from fuseline.scheduler.run import Run
from fuseline.states import NEXT_RUN_STATES, NEXT_STEP_STATES, State

from .helpers import dag

ENDS = {State.SUCCEEDED, State.FAILED, State.SKIPPED, State.CANCELLED}
STEP_MOVES = [(origin, target) for origin in State for target in State]
RUN_MOVES = [(origin, target) for origin in NEXT_RUN_STATES for target in State]


def make_run() -> Run:
    plan = Plan(dag("a>b"))
    return Run("r", 1, plan, plan.bind(()), {}, now=0.0)


def test_every_state_of_a_step_is_in_its_table():
    assert set(NEXT_STEP_STATES) == set(State)


def test_a_run_is_never_ready_or_retrying_or_skipped():
    assert set(NEXT_RUN_STATES) == set(State) - {State.READY, State.RETRYING, State.SKIPPED}


@pytest.mark.parametrize("table", [NEXT_STEP_STATES, NEXT_RUN_STATES], ids=["steps", "runs"])
def test_settled_states_have_no_way_out(table):
    assert {state for state, targets in table.items() if not targets} == ENDS & set(table)


def test_is_settled_says_which_states_are_ends():
    assert {state for state in State if state.is_settled} == ENDS


@pytest.mark.parametrize("table", [NEXT_STEP_STATES, NEXT_RUN_STATES], ids=["steps", "runs"])
def test_every_state_can_be_reached_from_pending_and_leads_to_an_end(table):
    reached = {State.PENDING}
    while new := {target for state in reached for target in table[state]} - reached:
        reached |= new
    assert reached == set(table)
    ending = ENDS & set(table)
    while new := {state for state, targets in table.items() if targets & ending} - ending:
        ending |= new
    assert ending == set(table)


def test_the_moves_of_a_step_are_these_and_no_others():
    assert {f"{origin} {target}" for origin, target in STEP_MOVES if target in NEXT_STEP_STATES[origin]} == {
        "PENDING READY",
        "PENDING SKIPPED",
        "PENDING CANCELLED",
        "READY RUNNING",
        "READY CANCELLED",
        "RUNNING SUCCEEDED",
        "RUNNING FAILED",
        "RUNNING SKIPPED",
        "RUNNING CANCELLED",
        "RUNNING RETRYING",
        "RUNNING READY",
        "RETRYING READY",
        "RETRYING CANCELLED",
    }


def test_the_moves_of_a_run_are_these_and_no_others():
    assert {f"{origin} {target}" for origin, target in RUN_MOVES if target in NEXT_RUN_STATES[origin]} == {
        "PENDING RUNNING",
        "PENDING CANCELLED",
        "RUNNING SUCCEEDED",
        "RUNNING FAILED",
        "RUNNING CANCELLED",
    }


@pytest.mark.parametrize(("origin", "target"), STEP_MOVES)
def test_a_step_makes_the_moves_of_the_table_and_refuses_all_others(origin, target):
    run = make_run()
    run.states[1] = origin
    run.attempts[1] = 4
    if target in NEXT_STEP_STATES[origin]:
        run.move_step(1, target)
        assert run.states[1] is target
        assert run.open_steps == 2 - target.is_settled
        return
    with pytest.raises(IllegalMove, match=f"step 'b' of run r cannot go from {origin} to {target}") as caught:
        run.move_step(1, target)
    assert "attempts 4" in caught.value.history
    assert caught.value.history in str(caught.value)
    assert run.states[1] is origin
    assert run.open_steps == 2


@pytest.mark.parametrize(("origin", "target"), RUN_MOVES)
def test_a_run_makes_the_moves_of_the_table_and_refuses_all_others(origin, target):
    run = make_run()
    run.state = origin
    if target in NEXT_RUN_STATES[origin]:
        run.move(target)
        assert run.state is target
        return
    with pytest.raises(IllegalMove, match=f"run r cannot go from {origin} to {target}") as caught:
        run.move(target)
    assert "2 steps are open" in caught.value.history
    assert run.state is origin


def test_an_illegal_move_asks_to_be_reported_as_a_bug():
    run = make_run()
    run.running[0] = 17  # a token without a start
    with pytest.raises(IllegalMove, match=r"token 17.*report this as a bug"):
        run.move_step(0, State.SUCCEEDED)

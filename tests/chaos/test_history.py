"""A clean history is clean, and each thing that must not be is found in one where it was planted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import count

import pytest
from msgspec.structs import replace

from fuseline.records import Move
from fuseline.states import State

from .check import check
from .history import End, Fault, Found, Heard, History
from .journal import Line
from .plan import Act, Signal, StepPlan, Target, WorkflowPlan, digest

SEED = 7
A = StepPlan("a", 0, (), retries=2, wait=0.0, timeout=None, size=10)
B = StepPlan("b", 1, ("a",), retries=2, wait=0.0, timeout=2.0, size=0)
PLAN = WorkflowPlan("ab", (A, B), goes_on=False)


def has_acts(number: int, step: StepPlan, *acts: Act) -> bool:
    return acts == tuple(step.act(SEED, number, attempt) for attempt in range(1, len(acts) + 1))


#: A run in which the first attempt of "a" raises, and none of "b" does anything but return.
RUN = next(n for n in count() if has_acts(n, A, Act.RAISE, Act.RETURN) and has_acts(n, B, *[Act.RETURN] * 3))
ENGINE, OTHER_ENGINE = 100, 200


def move(at: float, step: str | None, state: State, attempt: int | None = None, cause: str = "") -> Move:
    worker = ("e1.1" if at < 3.5 else "e2.1") if state is State.RUNNING and step else None
    return Move(step_name=step, state=state, attempt=attempt, cause=cause, worker_id=worker, at=at)


MOVES = [
    move(1.0, None, State.RUNNING),
    move(1.0, "a", State.RUNNING, 1),
    move(1.3, "a", State.RETRYING, 1, "PlannedError: attempt 1"),
    move(1.4, "a", State.READY, 1, "its wait is over"),
    move(2.0, "a", State.RUNNING, 2),
    move(2.3, "a", State.SUCCEEDED, 2),
    move(2.3, "b", State.READY, 0),
    move(3.0, "b", State.RUNNING, 1),
    move(3.3, "b", State.READY, 1, "its worker ended"),
    move(4.0, "b", State.RUNNING, 2),
    move(4.3, "b", State.RETRYING, 2, "StepCrashed: died by SIGKILL"),
    move(4.4, "b", State.READY, 2, "its wait is over"),
    move(5.0, "b", State.RUNNING, 3),
    move(5.3, "b", State.SUCCEEDED, 3),
    move(5.3, None, State.SUCCEEDED),
]
LINES = [
    Line(0.1, "acked", 1, "r", attempt=RUN),
    Line(0.2, "engine", ENGINE, text="e1"),
    Line(1.1, "start", 11, "r", "a", 1),
    Line(1.2, "end", 11, "r", "a", 1, Act.RAISE),
    Line(2.1, "start", 11, "r", "a", 2),
    Line(2.2, "end", 11, "r", "a", 2, Act.RETURN),
    Line(3.1, "start", 12, "r", "b", 1),
    Line(3.6, "engine", OTHER_ENGINE, text="e2"),
    Line(4.1, "start", 21, "r", "b", 2),
    Line(5.1, "start", 22, "r", "b", 3),
    Line(5.2, "end", 22, "r", "b", 3, Act.RETURN),
    Line(5.5, "settled", 1, "r", text="SUCCEEDED"),
]
FAULTS = [
    Fault(3.15, Signal.KILL, Target.ENGINE, ENGINE, 3.15),
    Fault(4.15, Signal.KILL, Target.CHILD, 21, 4.15),
]
HEARD = [
    Heard(2.4, "r", "a", State.SUCCEEDED, 2),
    Heard(5.4, "r", "b", State.SUCCEEDED, 3),
    Heard(5.4, "r", None, State.SUCCEEDED, None),
]


def clean() -> History:
    """Return a history with a failure on purpose, a dead engine and a dead child, in which all is as it must be."""
    states = {"a": State.SUCCEEDED, "b": State.SUCCEEDED}
    found = Found(RUN, State.SUCCEEDED, states, list(MOVES), digest(PLAN.result(SEED, RUN)))
    ends = [End(3.2, "engine-0", ENGINE, -9)]
    return History(SEED, list(LINES), {"r": found}, list(HEARD), list(FAULTS), ends, [PLAN])


def kinds(history: History) -> set[str]:
    return {violation.kind for violation in check(history)}


def with_run(**changes: object) -> History:
    history = clean()
    history.found["r"] = history.found["r"]._replace(**changes)
    return history


def with_move(old: Move, *new: Move) -> History:
    """Return a history in which other moves are in the place of one."""
    at = MOVES.index(old)
    return with_run(moves=[*MOVES[:at], *new, *MOVES[at + 1 :]])


def with_lines(*more: Line, without: Callable[[Line], bool] = lambda line: False) -> History:
    return dataclasses.replace(clean(), lines=sorted([*(line for line in LINES if not without(line)), *more]))


def test_a_clean_history_is_clean() -> None:
    assert check(clean()) == []


# -- lost -------------------------------------------------------------------------------------------------------------


def test_a_run_that_was_dispatched_and_is_gone_is_lost() -> None:
    assert kinds(dataclasses.replace(clean(), found={}, heard=[])) == {"lost"}


def test_a_run_that_was_told_to_have_ended_and_is_gone_is_lost() -> None:
    history = dataclasses.replace(with_lines(without=lambda line: line.kind == "acked"), found={})
    assert kinds(history) == {"lost"}


def test_a_run_that_never_settles_is_lost() -> None:
    states = {"a": State.SUCCEEDED, "b": State.RUNNING}
    history = with_run(state=State.RUNNING, steps=states, moves=MOVES[:-2], result=None)
    history.heard = HEARD[:1]
    assert kinds(dataclasses.replace(history, lines=LINES[:-1])) == {"lost"}


def test_an_outcome_that_somebody_was_told_and_is_another_now_is_lost() -> None:
    history = clean()
    history.heard.append(Heard(5.6, "r", "b", State.FAILED, 3))
    assert kinds(history) == {"lost"}


def test_the_end_of_a_run_that_its_driver_was_told_and_is_another_now_is_lost() -> None:
    assert kinds(with_lines(Line(6.0, "settled", 1, "r", text="FAILED"))) == {"lost"}


def test_a_start_that_the_broker_knows_nothing_of_is_lost() -> None:
    assert "lost" in kinds(with_lines(Line(5.25, "start", 31, "r", "b", 4)))


# -- unexpected -------------------------------------------------------------------------------------------------------


def test_a_wrong_result_is_unexpected() -> None:
    assert kinds(with_run(result=digest(b"something else"))) == {"unexpected"}


def test_a_wrong_argument_is_unexpected() -> None:
    assert kinds(with_lines(Line(5.15, "wrong", 22, "r", "b", 3))) == {"unexpected"}


def test_a_run_that_fails_without_a_failed_step_is_unexpected() -> None:
    history = with_run(state=State.FAILED, result=None)
    assert kinds(dataclasses.replace(history, lines=LINES[:-1], heard=[])) == {"unexpected"}


def test_a_step_that_is_cancelled_though_none_failed_is_unexpected() -> None:
    history = with_run(steps={"a": State.SUCCEEDED, "b": State.CANCELLED})
    history.heard = []
    assert kinds(history) == {"unexpected"}


def test_success_without_a_return_is_unexpected() -> None:
    assert kinds(with_lines(without=lambda line: line.kind == "end" and line.attempt == 3)) == {"unexpected"}


def test_a_crash_is_unexpected_if_nobody_has_killed_the_process() -> None:
    assert kinds(dataclasses.replace(clean(), faults=FAULTS[:1])) == {"unexpected"}


def test_a_crash_is_unexpected_if_somebody_else_was_killed() -> None:
    faults = [FAULTS[0], FAULTS[1]._replace(pid=99)]
    assert kinds(dataclasses.replace(clean(), faults=faults)) == {"unexpected"}


def test_a_crash_before_the_first_line_of_a_step_has_a_reason_in_any_child_that_was_killed() -> None:
    faults = [FAULTS[0], FAULTS[1]._replace(pid=99)]
    history = with_lines(without=lambda line: line.kind == "start" and line.pid == 21)
    assert check(dataclasses.replace(history, faults=faults)) == []


def test_a_restart_is_unexpected_if_its_engine_lives() -> None:
    assert kinds(dataclasses.replace(clean(), faults=FAULTS[1:], ends=[])) == {"unexpected"}


def test_a_restart_is_expected_if_its_engine_has_left_though_nobody_has_seen_its_end() -> None:
    history = dataclasses.replace(with_lines(Line(3.2, "left", ENGINE)), faults=FAULTS[1:], ends=[])
    assert check(history) == []


def test_an_engine_that_ends_by_itself_is_unexpected() -> None:
    history = clean()
    history.ends.append(End(5.0, "engine-0", OTHER_ENGINE, 1))
    assert kinds(history) == {"unexpected"}


def test_a_driver_that_fails_is_unexpected() -> None:
    history = clean()
    history.ends.append(End(6.0, "driver", 1, 1))
    assert kinds(history) == {"unexpected"}


def test_a_failure_that_was_not_planned_is_unexpected() -> None:
    assert kinds(with_move(MOVES[2], move(1.3, "a", State.RETRYING, 1, "ValueError: no"))) == {"unexpected"}


@pytest.mark.parametrize("cause", ["StepTimedOut: 2 s", "StoreError: no room", "StepLost: restarted 10 times"])
def test_a_failure_that_nothing_explains_is_unexpected(cause: str) -> None:
    assert kinds(with_move(MOVES[10], move(4.3, "b", State.RETRYING, 2, cause))) == {"unexpected"}


def test_a_failure_on_purpose_of_another_attempt_is_unexpected() -> None:
    assert kinds(with_move(MOVES[2], move(1.3, "a", State.RETRYING, 1, "PlannedError: attempt 2"))) == {"unexpected"}


def test_a_timeout_of_what_had_ended_long_before_is_unexpected_unless_its_process_was_stopped() -> None:
    timed_out = move(6.2, "b", State.RETRYING, 2, "StepTimedOut: 2 s")
    history = with_move(MOVES[10], timed_out)
    history.lines = with_lines(Line(4.2, "end", 21, "r", "b", 2, Act.RETURN)).lines
    assert [violation.what.rpartition(": ")[2] for violation in check(history)] == ["it had ended after 0.10 s"]
    history.faults.append(Fault(4.15, Signal.STOP, Target.CHILD, 21, 6.3))
    assert check(history) == []


def test_a_timeout_before_its_time_is_unexpected() -> None:
    history = with_move(MOVES[10], move(4.5, "b", State.RETRYING, 2, "StepTimedOut: 2 s"))
    assert [violation.what.rpartition(": ")[2] for violation in check(history)] == ["it began only 0.40 s before"]


def test_an_end_of_a_step_that_nobody_had_is_unexpected() -> None:
    told = [violation.what for violation in check(with_move(MOVES[12]))]
    assert "it went to SUCCEEDED while nobody had it" in told


def test_a_step_that_is_skipped_without_a_policy_for_that_is_unexpected() -> None:
    told = [violation.what for violation in check(with_move(MOVES[8], move(3.3, "b", State.SKIPPED, 1)))]
    assert "it went to SKIPPED" in told


def test_a_value_without_room_may_fail_while_its_process_has_none() -> None:
    history = with_move(MOVES[10], move(4.3, "b", State.RETRYING, 2, "StoreError: no room"))
    history.faults = [FAULTS[0], Fault(4.0, Signal.FULL, Target.CHILD, 21, 4.5)]
    assert check(history) == []


def test_a_step_that_is_given_up_too_early_is_unexpected() -> None:
    moves = [*MOVES[:10], move(4.3, "b", State.FAILED, 2, MOVES[10].cause), move(4.3, None, State.FAILED)]
    states = {"a": State.SUCCEEDED, "b": State.FAILED}
    history = with_run(state=State.FAILED, steps=states, moves=moves, result=None)
    history = dataclasses.replace(history, lines=[line for line in LINES[:-1] if line.at < 5.0], heard=HEARD[:1])
    assert [violation.what for violation in check(history)] == ["it is given up after 0 of 2 retries"]


def test_a_step_that_is_tried_too_often_is_unexpected() -> None:
    again = [replace(MOVES[9], at=4.31), replace(MOVES[10], at=4.32)] * 2
    told = [violation.what for violation in check(with_move(MOVES[10], MOVES[10], *again))]
    assert "it is tried again after 2 of 2 retries" in told


def test_a_step_that_is_given_back_as_not_begun_though_it_has_begun_is_unexpected() -> None:
    assert kinds(with_move(MOVES[8], move(3.3, "b", State.READY, 0, "it was not begun"))) == {"unexpected"}


def test_a_step_that_is_given_to_two_at_a_time_is_unexpected() -> None:
    assert kinds(with_move(MOVES[8])) == {"unexpected"}


def test_a_start_after_the_failure_that_stops_the_run_is_unexpected() -> None:
    moves = [*MOVES[:2], move(1.3, "b", State.FAILED, 1), *MOVES[4:6], move(5.3, None, State.FAILED)]
    history = with_run(state=State.FAILED, steps={"a": State.SUCCEEDED, "b": State.FAILED}, moves=moves, result=None)
    told = [violation.what for violation in check(history)]
    assert "it was begun after b had failed" in told


def test_a_step_may_be_given_up_for_want_of_children_only_if_enough_of_them_were_killed() -> None:
    lost = move(4.3, "b", State.RETRYING, 2, "StepLost: no child process starts here")
    history = with_move(MOVES[10], lost)
    history.faults += [Fault(4.0, Signal.KILL, Target.CHILD, pid, 4.0) for pid in (31, 32)]
    assert kinds(history) == {"unexpected"}
    history.faults.append(Fault(4.0, Signal.KILL, Target.CHILD, 33, 4.0))
    assert check(history) == []


# -- duplicated -------------------------------------------------------------------------------------------------------


def test_a_start_after_the_attempt_that_settled_the_step_is_duplicated() -> None:
    assert "duplicated" in kinds(with_lines(Line(5.25, "start", 31, "r", "b", 4)))


def test_a_start_after_somebody_was_told_of_the_end_is_duplicated() -> None:
    history = clean()
    history.heard[0] = HEARD[0]._replace(at=2.05)
    assert kinds(history) == {"duplicated"}


def test_an_attempt_that_starts_twice_is_duplicated() -> None:
    assert kinds(with_lines(Line(4.5, "start", 23, "r", "b", 2))) == {"duplicated"}


def test_a_step_that_is_settled_twice_is_duplicated() -> None:
    history = with_move(MOVES[13], MOVES[13], replace(MOVES[12], at=5.31), MOVES[13])
    assert "duplicated" in kinds(history)


def test_a_failure_on_purpose_that_is_counted_twice_is_duplicated() -> None:
    again = replace(MOVES[4], at=1.5), replace(MOVES[2], at=1.6), MOVES[4]
    history = with_move(MOVES[4], *again)
    assert "duplicated" in kinds(history)


def test_a_step_that_starts_again_after_its_own_last_line_is_not_duplicated_if_nobody_was_told() -> None:
    assert check(with_lines(Line(3.12, "end", 12, "r", "b", 1, Act.RETURN))) == []


# -- overlap ----------------------------------------------------------------------------------------------------------


def test_an_attempt_that_meets_another_overlaps() -> None:
    assert kinds(with_lines(Line(4.11, "met", 21, "r", "b", 2))) == {"overlap"}


def test_an_attempt_that_ends_after_the_next_has_begun_overlaps() -> None:
    assert kinds(with_lines(Line(4.12, "end", 12, "r", "b", 1, Act.RETURN))) == {"overlap"}


def test_an_attempt_that_ends_after_the_next_has_ended_overlaps() -> None:
    assert kinds(with_lines(Line(5.25, "end", 12, "r", "b", 1, Act.RETURN))) == {"overlap"}

"""The contract of executors catches those that break it, and says which promise is broken."""

from __future__ import annotations

import pytest

from fuseline.executors.base import Executor
from fuseline.testing import ExecutorContract

from . import broken_executors as broken
from .trial import broken_promise

SAYS_WHEN = "fileno() or deadline() says when poll() has something to do"
EXACTLY_ONE = "each accepted assignment gives exactly one report"
NOT_PICKLED = "a result that cannot be pickled gives a failed report that names step and object"
LEAVES_NOTHING = "close() leaves no process, thread, descriptor or semaphore"

#: (executor, the test that catches it, the promise it names, what it saw)
PLANTS = [
    (broken.GivesNoReport, "each_assignment_gives_one_report", EXACTLY_ONE, "0 of 1 reports after 0.2 s"),
    (broken.ReportsTwice, "each_assignment_gives_one_report", EXACTLY_ONE, "a second report on assignment 1"),
    (broken.ReportsAgainLater, "each_assignment_gives_one_report", EXACTLY_ONE, "after all 50"),
    (broken.MixesUpTokens, "none_is_a_value", "None is a result like any other", "a report on assignment 2, but 1"),
    (broken.TriesAgain, "a_failure_is_reported_and_not_tried_again", "never tries again", "2, not 1"),
    (broken.DropsDecisions, "the_policies_of_the_step_decide_where_it_ran", "the report says what", "without a deci"),
    (broken.DropsTracebacks, "an_exception_comes_back_with_its_traceback", "the traceback of where", "is ''"),
    (broken.HangsOnWhatCannotBePickled, "a_result_that_cannot_be_pickled_fails_its_step_by_name", EXACTLY_ONE, "0 of"),
    (broken.RaisesOnWhatCannotBePickled, "a_result_that_cannot_be_pickled_fails_its_step_by_name", NOT_PICKLED, "Type"),
    (broken.PicklesLate, "a_step_that_cannot_be_pickled_is_refused_at_start", "is refused by start()", "took a step"),
    (broken.BeginsWhatFollowsAtOnce, "what_follows_goes_on_in_the_same_place", "with its result", "RAISED"),
    (broken.GoesOnAfterAFailure, "what_follows_a_failure_is_handed_back", "is handed back: LOST", "RETURNED"),
    (broken.BlocksInSubmit, "submit_and_poll_return_while_a_step_runs", "submit() returns at once", ".submit() ("),
    (broken.RunsInSubmit, "only_poll_runs_steps_in_the_caller", "runs none; poll() does", "before poll()"),
    (broken.BlocksInPoll, "submit_and_poll_return_while_a_step_runs", "submit() returns at once", ".poll() ("),
    (broken.TakesTheFirstOnly, "takes_several_at_once", EXACTLY_ONE, "1 of 2 reports"),
    (broken.HasAlwaysRoom, "an_assignment_takes_room_from_submit_to_report", "one of free_slots()", "2, not 1"),
    (broken.NeverHasRoom, "an_assignment_takes_room_from_submit_to_report", "one of free_slots()", "is 0 when nothing"),
    (broken.RunsOneAtATime, "slots_work_side_by_side", "run side by side", "no step has entered"),
    (broken.BeginsTwice, "begun_names_what_runs_once", "names each assignment once", "[1, 2], not []"),
    (broken.RecallsWhatRuns, "recall_gives_back_what_was_not_begun", "the rest goes on", "not {}"),
    (broken.NeverReadable, "returns_the_result", SAYS_WHEN, "poll() had 1 more"),
    (broken.AlwaysReadable, "fileno_stays_and_becomes_quiet", "not readable once", "nothing came of it"),
    (broken.ChangesItsDescriptor, "fileno_stays_and_becomes_quiet", "the same descriptor", "fileno(): "),
    (broken.ReportsTheKilledThatWasNot, "a_kill_does_nothing_where_the_executor_cannot", "cannot kill", "KILLED"),
    (broken.LeaksAThread, "none_is_a_value", LEAVES_NOTHING, "left over: thread forgotten"),
    (broken.LeaksADescriptor, "none_is_a_value", LEAVES_NOTHING, "/dev/null"),
    (broken.LeaksAProcess, "none_is_a_value", LEAVES_NOTHING, "left over: process"),
    (broken.LeaksASemaphore, "none_is_a_value", LEAVES_NOTHING, "left over: semaphore"),
    (broken.HangsInClose, "none_is_a_value", "None is a result", "in 0.4 s, in HangsInClose.close() (broken_"),
    (
        broken.CannotBeClosedTwice,
        "can_be_closed_twice_and_without_start",
        "close() may be called twice",
        "AssertionError: , in close()",
    ),
    (broken.ForgetsWhatCloseFound, "what_close_found_is_reported", "by the last poll()", "[], not [1, 2]"),
    (broken.RepeatsItselfAfterClose, "each_assignment_gives_one_report", "gives exactly one report", "after close()"),
    (broken.CannotStartAgain, "can_be_started_again", "can be started again", "TypeError"),
    (broken.RemembersTheLastEngine, "what_was_left_is_forgotten_when_it_is_started_again", "is forgotten", "not []"),
    (broken.TakesASecondEngine, "serves_one_engine_at_a_time", "raises RuntimeError", "was started again"),
    (broken.NeverTearsDown, "setup_runs_once_where_the_step_runs_and_teardown_at_the_end", "teardown", "nothing was"),
    (broken.KeepsLargeResults, "large_results_go_to_the_workplace", "a large result goes into a file", "the folder"),
    (broken.Nameless, "states_its_name_and_abilities", "an executor has a name", "it has no name"),
]

#: The same with children, which take their time to start.
KILLERS = [
    (broken.ReportsBeforeTheProcessIsDead, "a_killed_assignment_is_reported_when_its_processes_are_gone", "is gone be"),
    (
        broken.ReportsATimeoutBeforeTheProcessIsDead,
        "what_had_its_time_is_reported_when_its_processes_are_gone",
        "is gone, with all that it started, before the report",
    ),
    (broken.EndsTooEarly, "a_timeout_ends_a_loop", "an attempt that runs longer than its timeout is ended"),
    (broken.SaysThatItCrashed, "a_step_that_takes_too_much_memory_is_ended", "ends a step whose process uses more"),
    (broken.ReportsEachKill, "a_kill_at_once_and_twice_gives_one_report", EXACTLY_ONE),
    (broken.KillsAll, "siblings_of_a_killed_assignment_carry_on_or_are_lost", "leaves its siblings to carry on"),
    (broken.HidesItsProcesses, "processes_show_themselves_in_the_workplace", "shows itself in the workplace"),
]


@pytest.fixture(autouse=True)
def undo_leaks():
    yield
    while broken.Leaks.left:
        broken.Leaks.left.pop()()


@pytest.mark.parametrize(("executor", "test", "says", "saw"), PLANTS, ids=[plant[0].__name__ for plant in PLANTS])
def test_a_broken_executor_is_caught(executor: type[Executor], test: str, says: str, saw: str) -> None:
    error = broken_promise(ExecutorContract, f"test_{test}", make_executor=executor)
    assert says in error.promise
    assert saw in error.seen
    assert str(error) == f"broken promise: {error.promise}\n    seen: {error.seen}"


@pytest.mark.parametrize(("executor", "test", "says"), KILLERS, ids=[plant[0].__name__ for plant in KILLERS])
def test_an_executor_that_kills_badly_is_caught(executor: type[Executor], test: str, says: str) -> None:
    error = broken_promise(ExecutorContract, f"test_{test}", make_executor=executor, patience=20.0)
    assert says in error.promise

"""The scheduler: what its commands say to workers and to those who watch."""

from __future__ import annotations

import json

import pytest

from fuseline.messages import FailureDecision
from fuseline.policies import MemoryLimitPolicy
from fuseline.scheduler import Assign, Finished, Moved, Scheduler, StepsReady
from fuseline.schema import ParameterSchema, WorkflowSchema
from fuseline.states import State
from fuseline.values import ErrorInfo

from .helpers import Bench, arguments_of, dag, report_of, step_schema

# -- what an assignment says ------------------------------------------------------------------------------------------


def test_an_assignment_names_workflow_run_and_step():
    bench = Bench(dag("a", name="etl", version="2"))
    bench.dispatch("r7")
    assignment = bench.take_one()
    assert (assignment.workflow_id, assignment.instance_id, assignment.step_name) == ("etl@2", "r7", "a")
    assert (assignment.attempt, assignment.payload.attempt, assignment.payload.instance_id) == (1, 1, "r7")
    assert assignment.payload.failures == {}
    assert assignment.timeout is None


def test_an_assignment_carries_the_results_of_the_steps_before_in_the_order_of_their_edges():
    bench = Bench(dag("a>c b>c"))
    bench.dispatch()
    a, b = bench.take(2)
    bench.succeed(b, {"from": "b"})
    bench.succeed(a, None)
    assert arguments_of(bench.take_one()) == {"parts": (None, {"from": "b"})}


def test_an_assignment_carries_inputs_and_results_by_parameter():
    parameters = [
        ParameterSchema(name="docs"),
        ParameterSchema(name="query"),
        ParameterSchema(name="k", required=False),
    ]
    schema = WorkflowSchema(
        workflow_id="rag",
        name="rag",
        steps=(
            step_schema("retrieve", parameters=parameters[1:]),
            step_schema("answer", "retrieve", parameters=parameters),
        ),
        outputs=("answer",),
    )
    bench = Bench(schema)
    bench.dispatch(query="why?")
    retrieve = bench.take_one()
    assert arguments_of(retrieve) == {"query": "why?"}
    bench.succeed(retrieve, ["because"])
    assert arguments_of(bench.take_one()) == {"docs": ["because"], "query": "why?"}


def test_a_step_that_takes_all_results_takes_an_input_beside_them():
    parameters = [ParameterSchema(name="parts", required=False, variadic=True), ParameterSchema(name="k")]
    steps = (step_schema("a"), step_schema("b", "a", parameters=parameters))
    bench = Bench(WorkflowSchema(workflow_id="wf", name="wf", steps=steps, outputs=("b",)))
    bench.dispatch(k=3)
    bench.succeed(bench.take_one(), "one")
    assert arguments_of(bench.take_one()) == {"parts": ("one",), "k": 3}


def test_exactly_one_assignment_starts_a_run():
    bench = Bench(dag("a b>c"))
    bench.dispatch("one")
    bench.dispatch("two")
    starts = [(a.instance_id, a.payload.starts_run) for a in bench.take(10)]
    assert starts == [("one", True), ("one", False), ("two", True), ("two", False)]


def test_a_start_that_comes_back_untold_is_to_be_recorded_anew_and_so_is_the_next():
    bench = Bench(dag("a"))
    run = bench.dispatch()
    assert not run.start_differs
    first = bench.take_one()
    assert not run.start_differs  # the record of its first assignment says it
    bench.hand_back(first)
    assert (run.start_token, run.start_differs) == (0, True)
    run.start_differs = False  # as whoever records it does
    second = bench.take_one()
    assert second.payload.starts_run
    assert (run.start_token, run.start_differs) == (second.token, True)


def test_tokens_are_never_used_again():
    bench = Bench(dag("a b c>d"))
    tokens = []
    for name in ("one", "two"):
        bench.dispatch(name)
        for _ in range(4):
            assignment = bench.take_one()
            tokens.append(assignment.token)
            bench.succeed(assignment)
    assert len(set(tokens)) == 8


# -- what is told -----------------------------------------------------------------------------------------------------


def test_readiness_is_told_once_per_event_and_names_the_workflow():
    bench = Bench(dag("a>d b>d c>d d>e d>f"))
    bench.dispatch()
    assert bench.told(StepsReady) == [StepsReady("wf")]
    a, b, c = bench.take(3)
    bench.succeed(a)
    bench.succeed(b)
    assert bench.told(StepsReady) == []
    bench.succeed(c)
    assert bench.told(StepsReady) == [StepsReady("wf")]


def test_the_end_of_a_run_is_told_once():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    bench.succeed(bench.take_one())
    assert bench.told(Finished) == []
    bench.succeed(bench.take_one())
    assert bench.told(Finished) == [Finished("wf", "r", State.SUCCEEDED, None)]


def test_moves_are_told_in_order_while_somebody_watches():
    bench = Bench(dag("a>b"))
    bench.dispatch("unwatched")
    assert bench.told(Moved) == []
    bench.cancel("unwatched")
    bench.scheduler.watched = True
    bench.dispatch()
    moves = bench.told(Moved)
    while not bench.run().state.is_settled:
        assignments = bench.take(1)
        moves += bench.told(Moved)
        for assignment in assignments:
            bench.succeed(assignment)
            moves += bench.told(Moved)
    assert [f"{move.step_name} {move.state}" for move in moves if move.step_name is not None] == [
        "a READY",
        "a RUNNING",
        "a SUCCEEDED",
        "b READY",
        "b RUNNING",
        "b SUCCEEDED",
    ]
    assert [move.state for move in moves if move.step_name is None] == [State.RUNNING, State.SUCCEEDED]
    assert moves[-1].step_name is None
    assert {move.attempt for move in moves if move.step_name is None} == {None}
    assert [move.attempt for move in moves if move.state is State.RUNNING and move.step_name] == [1, 1]


def test_commands_of_one_event_are_not_changed_by_the_next():
    bench = Bench(dag("a b"))
    bench.dispatch()
    bench.take(1)
    first = bench.commands
    bench.take(1)
    [assign] = first
    assert isinstance(assign, Assign)
    assert [assignment.step_name for assignment in assign.assignments] == ["a"]


# -- times ------------------------------------------------------------------------------------------------------------


def test_runs_and_steps_remember_when_they_started_and_ended():
    bench = Bench(dag("a"))
    bench.now = 5.0
    run = bench.dispatch()
    bench.now = 6.0
    assignment = bench.take_one()
    bench.now = 8.5
    bench.succeed(assignment)
    assert (run.created, run.started, run.finished) == (5.0, 6.0, 8.5)
    assert (run.step_started, run.step_finished) == ({0: 6.0}, {0: 8.5})


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RuntimeError("boom\nand more of it"), "RuntimeError: boom"),
        (ValueError(), "ValueError"),
        (json.JSONDecodeError("bad", "", 0), "JSONDecodeError: bad: line 1 column 1 (char 0)"),
        (KeyError("k" * 1000), "KeyError: '" + "k" * 289),
    ],
    ids=lambda value: type(value).__name__,
)
def test_who_watches_hears_the_first_line_of_an_error(error: Exception, cause: str):
    bench = Bench(dag("a b"))
    bench.scheduler.watched = True
    bench.dispatch()
    a, b = bench.take(2)
    bench.fail(a, error, decision=FailureDecision(FailureDecision.RETRY, 1.0))
    assert bench.told(Moved) == [Moved("r", "a", State.RETRYING, 1, cause)]
    bench.fail(b, error)
    assert bench.told(Moved)[0] == Moved("r", "b", State.FAILED, 1, cause)


def test_an_error_without_the_name_of_a_class_is_told_by_its_message_and_none_by_nothing():
    bench = Bench(dag("a b", on_failure="continue"))
    bench.scheduler.watched = True
    bench.dispatch()
    a, b = bench.take(2)
    bench.report(report_of(a, State.FAILED, error=ErrorInfo(type_names=(), message="it broke")))
    assert bench.told(Moved)[0].cause == "it broke"
    bench.report(report_of(b, State.FAILED))
    assert bench.told(Moved)[0].cause == ""


def test_the_cause_of_one_step_is_not_taken_for_that_of_another():
    bench = Bench(dag("a b"))
    bench.scheduler.watched = True
    bench.dispatch()
    a, b = bench.take(2)
    bench.skip(a)
    assert bench.told(Moved) == [Moved("r", "a", State.SKIPPED, 1, "a policy chose to skip it")]
    bench.hand_back(b)
    assert bench.told(Moved) == [Moved("r", "b", State.READY, 0, "it was not begun")]


def test_who_watches_hears_why_a_step_is_ready_again():
    bench = Bench(dag("a"))
    bench.scheduler.watched = True
    bench.dispatch()
    bench.fail(bench.take_one(), decision=FailureDecision(FailureDecision.RETRY, 1.0))
    bench.pass_time(1.0)
    assert bench.told(Moved) == [Moved("r", "a", State.READY, 1, "its wait is over")]
    bench.hand_back(bench.take_one())
    assert bench.told(Moved) == [Moved("r", "a", State.READY, 1, "it was not begun")]
    bench.end_killed(bench.take_one())
    assert bench.told(Moved) == [Moved("r", "a", State.READY, 2, "its worker ended")]


def test_tokens_begin_with_the_one_that_the_scheduler_was_given():
    bench = Bench(watch=False)
    bench.scheduler = Scheduler(first_token=1000)
    bench.register("w", dag("a b"))
    bench.dispatch("r", dag("a b"))
    assert [each.token for each in bench.take(2)] == [1000, 1001]


def test_a_live_token_stands_for_its_run_and_step():
    bench = Bench(dag("a b"))
    run = bench.dispatch()
    for step, assignment in enumerate(bench.take(2)):
        assert bench.scheduler.assigned(assignment.token) == (run, step)


def test_the_smallest_of_several_memory_limits_counts():
    limits = [MemoryLimitPolicy(2 * 10**9), MemoryLimitPolicy(10**9), MemoryLimitPolicy(3 * 10**9)]
    bench = Bench(dag("a b", policies={"a": limits}))
    bench.dispatch()
    assert [each.memory_limit for each in bench.take(2)] == [10**9, None]

"""The scheduler: which step is ready, and who gets which one when."""

from __future__ import annotations

import pytest

from fuseline.errors import UnboundParameterError, UnknownInputError, UnknownWorkerError, WorkflowError
from fuseline.schema import ParameterSchema, WorkflowSchema
from fuseline.states import State

from .helpers import Bench, chain_schema, dag, step_schema

DIAMOND = dag("a>b>d a>c>d")


def state_names(bench: Bench, instance_id: str = "r") -> str:
    """Return the first letters of the states, in the order of the steps; R is ready, r running, t retrying."""
    letters = {State.READY: "R", State.RUNNING: "r", State.RETRYING: "t"}
    return "".join(letters.get(state, state.value[0]) for state in bench.states(instance_id).values())


# -- readiness --------------------------------------------------------------------------------------------------------


def test_three_lines_drive_the_scheduler():
    bench = Bench(dag("a"))
    bench.dispatch()
    assert [assignment.step_name for assignment in bench.take()] == ["a"]


def test_only_steps_without_predecessors_are_ready_at_first():
    bench = Bench(dag("a>c b>c d"))
    bench.dispatch()
    assert bench.states() == {"a": State.READY, "c": State.PENDING, "b": State.READY, "d": State.READY}
    assert bench.run().state is State.PENDING


def test_nothing_is_handed_out_twice():
    bench = Bench(dag("a b"))
    bench.dispatch()
    assert len(bench.take(10)) == 2
    assert bench.take(10) == []


def test_a_join_is_ready_after_the_last_of_its_predecessors():
    bench = Bench(dag("a>c b>c"))
    bench.dispatch()
    a, b = bench.take(2)
    bench.succeed(a)
    assert bench.states()["c"] is State.PENDING
    assert bench.take(1) == []
    bench.succeed(b)
    assert bench.take_names() == ["c"]


def test_a_diamond_runs_each_step_once_and_joins():
    bench = Bench(DIAMOND)
    run = bench.dispatch()
    seen = []
    while not run.state.is_settled:
        for assignment in bench.take(10):
            seen.append(assignment.step_name)
            bench.succeed(assignment)
    assert seen == ["a", "b", "c", "d"]
    assert run.state is State.SUCCEEDED
    assert run.attempts == [1, 1, 1, 1]


def test_the_states_of_a_diamond_on_its_way():
    bench = Bench(DIAMOND)
    bench.dispatch()
    trace = [state_names(bench)]
    for _ in range(4):
        assignment = bench.take_one()
        trace.append(state_names(bench))
        bench.succeed(assignment)
        trace.append(state_names(bench))
    assert trace == ["RPPP", "rPPP", "SRPR", "SrPR", "SSPR", "SSPr", "SSRS", "SSrS", "SSSS"]


def test_an_edge_named_twice_by_a_schema_counts_once():
    schema = WorkflowSchema(
        workflow_id="wf", name="wf", steps=(step_schema("a"), step_schema("b", "a", "a")), outputs=("b",)
    )
    bench = Bench(schema)
    bench.dispatch()
    bench.step_through("a b")
    assert bench.run().state is State.SUCCEEDED


def test_a_chain_of_10_000_runs_to_its_end():
    bench = Bench(chain_schema(10_000), watch=False)
    bench.dispatch()
    bench.finish()
    assert bench.run().state is State.SUCCEEDED
    assert bench.run().results.keys() == {9_999}


def test_a_step_of_10_000_predecessors_waits_for_all():
    bench = Bench(dag(" ".join(f"s{i}>end" for i in range(10_000))), watch=False)
    bench.dispatch()
    assignments = bench.take(20_000)
    assert len(assignments) == 10_000
    for assignment in assignments[:-1]:
        bench.succeed(assignment)
    assert bench.take(1) == []
    bench.succeed(assignments[-1])
    [end] = bench.take(1)
    assert len(end.payload.arguments["parts"]) == 10_000


# -- order ------------------------------------------------------------------------------------------------------------


def test_first_steps_are_taken_in_the_order_of_the_workflow():
    bench = Bench(dag("a b c"))
    bench.dispatch()
    assert bench.take_names() == ["a", "b", "c"]


def test_successors_are_taken_in_the_order_of_the_workflow():
    bench = Bench(dag("a>b a>c a>d"))
    bench.dispatch()
    bench.step_through("a b c d")


def test_within_a_run_depth_comes_first():
    bench = Bench(dag("a>a1>a2 b>b1>b2"))
    bench.dispatch()
    bench.step_through("a a1 a2 b b1 b2")


def test_older_runs_come_first():
    bench = Bench(dag("a>b"))
    for name in ("one", "two", "three"):
        bench.dispatch(name)
    order = []
    for _ in range(6):
        assignment = bench.take_one()
        order.append(f"{assignment.instance_id} {assignment.step_name}")
        bench.succeed(assignment)
    assert order == ["one a", "one b", "two a", "two b", "three a", "three b"]


def test_a_younger_run_gets_what_the_older_ones_leave_free():
    bench = Bench(dag("a>b"))
    bench.dispatch("old")
    bench.dispatch("young")
    old, young = bench.take(2)
    assert [old.instance_id, young.instance_id] == ["old", "young"]
    bench.succeed(young)
    assert [a.instance_id for a in bench.take(1)] == ["young"]
    bench.succeed(old)
    assert [a.instance_id for a in bench.take(1)] == ["old"]


def test_an_older_run_that_has_work_again_goes_before_younger_ones_that_nobody_has_started():
    bench = Bench(dag("a>b"))
    bench.dispatch("old")
    first = bench.take_one()
    bench.dispatch("young")
    bench.succeed(first)
    assert [a.instance_id for a in bench.take(2)] == ["old", "young"]


def test_the_older_run_goes_first_across_the_workflows_of_a_worker():
    one, two = dag("a>b", name="one"), dag("a>b", name="two")
    bench = Bench()
    bench.register("w", two, one)
    for i in range(3):
        bench.dispatch(f"one{i}", one)
        bench.dispatch(f"two{i}", two)
    order = []
    for _ in range(12):
        assignment = bench.take_one()
        order.append(assignment.instance_id)
        bench.succeed(assignment)
    assert order == [f"{name}{i}" for i in range(3) for name in ("one", "two") for _ in range(2)]


def test_runs_in_progress_stay_few():
    bench = Bench(dag("a>b>c"))
    for i in range(20):
        bench.dispatch(f"r{i}")
    started = set()
    while bench.scheduler.unsettled("w"):
        for assignment in bench.take(2):
            started.add(assignment.instance_id)
            bench.succeed(assignment)
        in_progress = [i for i in started if not bench.run(i).state.is_settled]
        assert len(in_progress) <= 2


# -- workers ----------------------------------------------------------------------------------------------------------


def test_a_worker_gets_no_more_than_it_has_room_for():
    bench = Bench(dag("a b c d e"))
    bench.dispatch()
    assert len(bench.take(2)) == 2
    assert len(bench.take(0)) == 0
    assert len(bench.take(10)) == 3


def test_two_workers_share_the_steps_of_a_run():
    bench = Bench(dag("a b c"))
    bench.register("v", bench.schema)
    bench.dispatch()
    assert bench.take_names(2, "w") == ["a", "b"]
    assert bench.take_names(2, "v") == ["c"]
    assert len(bench.scheduler.held_by("w")) == 2
    assert len(bench.scheduler.held_by("v")) == 1


def test_a_worker_gets_only_steps_of_workflows_it_has():
    one, two = dag("a", name="one"), dag("a", name="two")
    bench = Bench()
    bench.register("w1", one)
    bench.register("w2", two)
    bench.dispatch("r1", one)
    bench.dispatch("r2", two)
    assert [a.instance_id for a in bench.take(10, "w2")] == ["r2"]
    assert [a.instance_id for a in bench.take(10, "w1")] == ["r1"]


def test_a_worker_may_come_after_the_run():
    bench = Bench(dag("a"), worker=None)
    bench.dispatch()
    bench.register("late", bench.schema)
    assert bench.take_names(1, "late") == ["a"]


def test_a_worker_without_workflows_gets_nothing():
    bench = Bench(dag("a"))
    bench.register("idle")
    bench.dispatch()
    assert bench.take(1, "idle") == []
    assert bench.scheduler.unsettled("idle") == 0


def test_an_unknown_worker_gets_an_error():
    bench = Bench(dag("a"))
    for call in (
        lambda: bench.take(1, "stranger"),
        lambda: bench.leave("stranger"),
        lambda: bench.scheduler.unsettled("stranger"),
        lambda: bench.scheduler.held_by("stranger"),
    ):
        with pytest.raises(UnknownWorkerError, match="'stranger'"):
            call()


def test_unsettled_counts_the_runs_that_have_not_ended():
    bench = Bench(dag("a"))
    assert bench.scheduler.unsettled("w") == 0
    bench.dispatch("one")
    bench.dispatch("two")
    assert bench.scheduler.unsettled("w") == 2
    bench.succeed(bench.take_one())
    assert bench.scheduler.unsettled("w") == 1
    bench.succeed(bench.take_one())
    assert bench.scheduler.unsettled("w") == 0


# -- runs that are refused --------------------------------------------------------------------------------------------


def test_a_run_id_is_given_once():
    bench = Bench(dag("a"))
    bench.dispatch("r")
    with pytest.raises(WorkflowError, match="run id 'r' is taken"):
        bench.dispatch("r")
    assert bench.take_names() == ["a"]


def test_a_worker_id_is_given_once():
    bench = Bench(dag("a"))
    with pytest.raises(WorkflowError, match="worker id 'w' is taken"):
        bench.register("w", bench.schema)
    bench.leave("w")
    bench.register("w", bench.schema)


def test_a_run_with_inputs_that_do_not_fit_is_refused_and_leaves_nothing():
    schema = WorkflowSchema(
        workflow_id="wf", name="wf", steps=(step_schema("a", parameters=[ParameterSchema(name="x")]),), outputs=("a",)
    )
    bench = Bench(schema)
    with pytest.raises(UnboundParameterError):
        bench.dispatch("r")
    with pytest.raises(UnknownInputError):
        bench.dispatch("r", x=1, y=2)
    assert bench.scheduler.runs == {}
    assert bench.scheduler.unsettled("w") == 0
    bench.dispatch("r", x=1)
    assert bench.take_names() == ["a"]

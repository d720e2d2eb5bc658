"""The scheduler: results are kept as long as somebody needs them, and not longer."""

from __future__ import annotations

from fuseline.messages import FailureDecision, StepAssignment
from fuseline.scheduler import Dropped, RunForgotten
from fuseline.scheduler.plan import Plan
from fuseline.schema import ParameterSchema, WorkflowSchema
from fuseline.states import State
from fuseline.values import Value

from .helpers import Bench, dag, report_of, step_schema


def kept(bench: Bench, instance_id: str = "r") -> set[str]:
    return set(bench.results(instance_id))


def test_a_result_is_dropped_after_the_last_step_that_needs_it():
    bench = Bench(dag("a>b>c a>d"))
    bench.dispatch()
    trace = []
    for name in ("a", "b", "c", "d"):
        bench.step_through(name)
        trace.append(kept(bench))
    assert trace == [{"a"}, {"a", "b"}, {"a", "c"}, {"c", "d"}]


def test_a_result_is_kept_until_its_user_has_settled_and_not_only_started():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    bench.step_through("a")
    b = bench.take_one()
    assert kept(bench) == {"a"}
    bench.succeed(b)
    assert kept(bench) == {"b"}


def test_a_result_is_there_for_every_attempt_of_its_user():
    bench = Bench(dag("a>b"))
    bench.register("v", bench.schema)
    bench.dispatch()
    bench.step_through("a")
    first = bench.take_one()
    bench.fail(first, decision=FailureDecision(FailureDecision.RETRY))
    assert kept(bench) == {"a"}
    second = bench.take_one("v")
    bench.leave("v")
    third = bench.take_one()
    assert first.payload.arguments == second.payload.arguments == third.payload.arguments
    assert first.payload.arguments["parts"]


def test_the_result_of_an_output_is_kept_with_and_without_users():
    bench = Bench(dag("a>b", outputs="a b"))
    bench.dispatch()
    bench.step_through("a b")
    assert bench.results() == {"a": "a", "b": "b"}


def test_a_result_that_nobody_needs_is_not_kept_at_all():
    bench = Bench(dag("a b", outputs="b"))
    bench.dispatch()
    bench.step_through("a")
    assert kept(bench) == set()


def test_a_predecessor_whose_result_no_parameter_takes_is_not_kept():
    schema = WorkflowSchema(
        workflow_id="wf",
        name="wf",
        steps=(step_schema("a"), step_schema("b", "a", parameters=[ParameterSchema(name="x", required=False)])),
        outputs=("b",),
    )
    bench = Bench(schema)
    bench.dispatch()
    bench.step_through("a")
    assert kept(bench) == set()
    assert bench.take_one().payload.arguments == {}


def test_an_input_in_place_of_a_predecessor_means_that_its_result_is_not_kept():
    schema = WorkflowSchema(
        workflow_id="wf",
        name="wf",
        steps=(step_schema("a"), step_schema("b", "a", parameters=[ParameterSchema(name="a")])),
        outputs=("b",),
    )
    bench = Bench(schema)
    bench.dispatch("by result")
    bench.dispatch("by input", a=3)
    bench.succeed(bench.take_one())
    assert kept(bench, "by result") == {"a"}
    bench.succeed(bench.take_one())
    bench.succeed(bench.take_one())
    assert kept(bench, "by input") == set()


def test_a_step_that_takes_one_result_in_two_parameters_needs_it_once():
    parameters = [ParameterSchema(name=name, required=False, depends_on="a") for name in ("x", "y")]
    schema = WorkflowSchema(
        workflow_id="wf",
        name="wf",
        steps=(step_schema("a"), step_schema("b", "a", parameters=parameters)),
        outputs=("b",),
    )
    bench = Bench(schema)
    bench.dispatch()
    bench.step_through("a b")
    assert kept(bench) == {"b"}


def test_a_skipped_or_cancelled_step_needs_no_results():
    bench = Bench(dag("a>c b>c", on_failure="continue"))
    for name, end in (("skipped", "skip"), ("failed", "fail")):
        bench.dispatch(name)
        a, b = bench.take(2)
        bench.succeed(a)
        assert kept(bench, name) == {"a"}
        getattr(bench, end)(b)
        assert kept(bench, name) == set()


def test_cancelling_drops_what_no_running_step_needs():
    bench = Bench(dag("a>b>d a>c", outputs="d c"))
    bench.dispatch()
    bench.step_through("a b")
    c = bench.take(2)[-1]
    assert kept(bench) == {"a", "b"}
    bench.cancel()
    assert kept(bench) == {"a", "b"}
    bench.end_killed(c)
    assert kept(bench) <= {"b"}


def test_a_settled_run_keeps_the_results_of_its_outputs_only():
    bench = Bench(dag("a>b>d a>c>d"))
    bench.dispatch()
    bench.finish()
    assert kept(bench) == {"d"}


def test_a_failed_run_keeps_the_outputs_it_has():
    bench = Bench(dag("a b", outputs="a b"))
    bench.dispatch()
    a, b = bench.take(2)
    bench.succeed(a, "there")
    bench.fail(b)
    assert bench.results() == {"a": "there"}


def test_errors_and_budgets_of_a_step_that_succeeded_are_dropped():
    bench = Bench(dag("a"))
    bench.dispatch()
    bench.fail(bench.take_one(), decision=FailureDecision(FailureDecision.RETRY), decided_by=0)
    run = bench.run()
    assert (set(run.errors), run.failures) == ({0}, {0: {0: 1}})
    bench.succeed(bench.take_one())
    assert (run.errors, run.failures) == ({}, {})


def test_a_run_in_progress_holds_few_results_however_long_it_is():
    bench = Bench(dag(">".join(f"s{i}" for i in range(500))), watch=False)
    bench.dispatch()
    most = 0
    while not bench.run().state.is_settled:
        bench.succeed(bench.take_one())
        most = max(most, len(bench.run().results))
    assert most == 1


def test_nothing_grows_with_the_number_of_runs_that_were_forgotten():
    bench = Bench(dag("a>b"), watch=False)
    scheduler = bench.scheduler
    for i in range(200):
        bench.dispatch(f"r{i}")
        bench.fail(bench.take_one(), decision=FailureDecision(FailureDecision.RETRY, 1.0))
        if i % 2:
            bench.cancel(f"r{i}")
        else:
            bench.now += 1.0
            bench.finish()
        bench.handle(RunForgotten(f"r{i}"))
    bench.pass_time(10.0)
    assert bench.take(1) == []
    assert scheduler.next_due() is None
    assert scheduler.runs == {}
    assert scheduler._live == {}
    assert scheduler._retries == []
    queue = scheduler._flows["wf"].ready
    assert len(queue._heap) == 0


def test_a_run_is_queued_at_most_once():
    bench = Bench(dag("a b c d"))
    bench.dispatch()
    for _ in range(50):
        for assignment in bench.take(4):
            bench.hand_back(assignment)
    queue = bench.scheduler._flows["wf"].ready
    assert len(queue._heap) == 1


def test_states_survive_what_was_dropped():
    bench = Bench(dag("a>b>c"))
    bench.dispatch()
    bench.finish()
    assert bench.states() == dict.fromkeys("abc", State.SUCCEEDED)


def test_what_a_result_is_needed_for_is_counted_once_for_each_set_of_inputs():
    plan = Plan(dag("a>b a>c", outputs="a b c"))
    assert plan.bind([]).uses == (3, 1, 1)  # a is an output, too
    assert plan.bind([]) is plan.bind(())


def in_a_file(bench: Bench, assignment: StepAssignment) -> list[str]:
    """Let a step succeed with a result that is in a file of its name; return the files that are dropped by that."""
    bench.report(report_of(assignment, State.SUCCEEDED, result=Value(file=assignment.step_name)))
    return [file for command in bench.told(Dropped) for file in command.files]


def test_a_file_is_dropped_once_with_the_result_that_is_in_it():
    bench = Bench(dag("a>b>c a>d", outputs="c"))
    bench.dispatch()
    dropped = []
    for name in "abcd":
        assignment = bench.take_one()
        assert assignment.step_name == name
        dropped.append(in_a_file(bench, assignment))
    assert dropped == [[], [], ["b"], ["a", "d"]]
    assert kept_files(bench) == {"c"}


def test_what_is_in_no_file_is_not_dropped():
    bench = Bench(dag("a>b"))
    bench.dispatch()
    bench.step_through("a")
    assert in_a_file(bench, bench.take_one()) == []


def kept_files(bench: Bench) -> set[str]:
    return {value.file for value in bench.run("r").results.values()}

"""Steps and workflows as the user writes them: names, edges, outputs, and what is refused where it is written."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest

from fuseline import Depends, RunFailed, Step, Workflow
from fuseline.errors import (
    DuplicateStepError,
    UnboundParameterError,
    UnknownExecutorError,
    WorkflowError,
)
from fuseline.policies import RetryPolicy, StepPolicy, StepTimeoutPolicy
from fuseline.states import State


class Load(Step):
    def run_step(self, *parts):
        return self.name


class Join(Step):
    def run_step(self, *parts):
        return parts


class Limit(StepPolicy):
    def __init__(self, limit):
        self.limit = limit

    def to_config(self):
        return {"limit": self.limit}


class SmallDict(dict):
    """Holds one thing at a time."""

    def __setitem__(self, key, value):
        self.clear()
        super().__setitem__(key, value)


def named(names: str) -> list[Load]:
    return [Load(name=name) for name in names.split()]


BAD_NAMES = {
    "nul": "a\0b",
    "newline": "a\nb",
    "tab": "a\tb",
    "terminal escape": "\x1b[31mred\x1b[0m",
    "right-to-left override": "a\u202eb",
    "lone surrogate": "a\ud800b",
    "10 kB": "x" * 10_240,
    "one too long": "x" * 201,
    "empty": "",
    "bytes": b"load",
    "number": 7,
}
GOOD_NAMES = ["load", "load/../x", "..", "Läden öffnen", "ロード", "<b>load</b>", "a b", "x" * 200, "%s {0}"]

bad_names = pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())


# -- names ------------------------------------------------------------------------------------------------------------


def test_default_names_are_the_class_and_then_numbered():
    steps = [Load(), Load(), Join(), Load()]
    assert list(Workflow(steps).steps) == ["Load", "Load-2", "Join", "Load-3"]
    assert [step.name for step in steps] == ["Load", "Load-2", "Join", "Load-3"]


def test_default_names_follow_the_order_of_the_graph():
    first, second, last = Load(), Load(), Load()
    first >> second >> last
    workflow = Workflow(last)
    assert list(workflow.steps.values()) == [first, second, last]
    assert [first.name, second.name, last.name] == ["Load", "Load-2", "Load-3"]


def test_a_given_name_stays_and_default_names_avoid_it():
    given = Load(name="Load-2")
    assert list(Workflow([Load(), given, Load()]).steps) == ["Load", "Load-2", "Load-3"]
    assert list(Workflow([Load(name="Load"), Load()]).steps) == ["Load", "Load-2"]


def test_two_given_names_that_are_equal_are_refused():
    with pytest.raises(DuplicateStepError, match="'etl' has two steps named 'x'") as caught:
        Workflow([Load(name="x"), Join(name="x")], name="etl")
    assert (caught.value.workflow, caught.value.step_name) == ("etl", "x")


def test_one_name_in_two_workflows_is_fine():
    assert list(Workflow(Load(name="x")).steps) == list(Workflow(Join(name="x")).steps) == ["x"]


def test_a_step_shared_by_two_workflows_keeps_its_name_in_each():
    first, second = Load(), Load()
    both = Workflow([first, second])
    alone = Workflow(second)
    assert both.steps == {"Load": first, "Load-2": second}
    assert alone.steps == {"Load": second}
    assert [step.name for step in both.to_schema().steps] == ["Load", "Load-2"]
    assert [step.name for step in alone.to_schema().steps] == ["Load"]


def test_an_error_names_a_shared_step_as_the_workflow_at_hand_does():
    class Exits(Step):
        def run_step(self):
            raise SystemExit

    first, second = Exits(), Exits()
    both = Workflow([first, second])
    Workflow(second)
    both._execute_step(second, {})
    assert "step 'Exits-2'" in str(second.error)


@bad_names
def test_a_bad_name_of_a_step_is_refused_where_it_is_written(name):
    with pytest.raises(WorkflowError, match="cannot name a step") as caught:
        Load(name=name)
    assert_harmless(str(caught.value))


@bad_names
def test_a_bad_name_of_a_workflow_is_refused_where_it_is_written(name):
    with pytest.raises(WorkflowError, match="cannot name a workflow") as caught:
        Workflow(Load(), name=name)
    assert_harmless(str(caught.value))


@pytest.mark.parametrize("version", ["1\n2", "x" * 201, 2, "\x1b[0m"])
def test_a_bad_version_is_refused_where_it_is_written(version):
    with pytest.raises(WorkflowError, match="cannot name a version"):
        Workflow(Load(), version=version)


@pytest.mark.parametrize("name", ["A\x1b[31m", "A\nB", "x" * 10_240])
def test_a_class_made_with_a_bad_name_is_refused_or_named_otherwise(name):
    step = type(name, (Load,), {})()
    try:
        workflow = Workflow(step, name="etl")
    except WorkflowError as error:
        assert_harmless(str(error))
    else:
        assert all(name.isprintable() and len(name) <= 200 for name in workflow.steps)


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_any_printable_name_is_fine_and_reaches_the_schema(name):
    workflow = Workflow(Load(name=name), name=name, version=name)
    assert workflow.to_schema().steps[0].name == name
    assert workflow.run(executor="inline") == name


def assert_harmless(message: str) -> None:
    assert message.isprintable()
    assert len(message) < 400


def test_the_default_name_of_a_workflow_is_that_of_its_outputs():
    assert Workflow([Load(), Join()]).name == "Load+Join"
    assert Workflow([Load(name="x" * 150), Join()]).name == "x" * 100


# -- what a workflow takes --------------------------------------------------------------------------------------------


def test_a_single_output_needs_no_list():
    [a] = named("a")
    assert Workflow(outputs=a).outputs == (a,)


@pytest.mark.parametrize("outputs", [[], (), iter([])])
def test_no_outputs_are_refused(outputs):
    with pytest.raises(WorkflowError, match="without outputs"):
        Workflow(outputs)


@pytest.mark.parametrize("output", [None, "load", 7])
def test_an_output_that_is_no_step_is_refused(output):
    with pytest.raises(WorkflowError, match="outputs of a workflow are steps"):
        Workflow([Load(), output])


def test_a_class_as_output_is_refused_with_a_hint():
    with pytest.raises(WorkflowError, match="Call the class"):
        Workflow([Load])


def test_one_output_named_twice_is_refused():
    [a] = named("a")
    with pytest.raises(WorkflowError, match="same step twice"):
        Workflow([a, a])


def test_an_output_may_have_successors():
    a, b = named("a b")
    a >> b
    assert Workflow([b, a], name="etl").run(executor="inline") == ["b", "a"]


@pytest.mark.parametrize("value", ["Stop", "", "retry", None, True])
def test_an_unknown_on_failure_is_refused_and_the_known_ones_are_named(value):
    with pytest.raises(WorkflowError, match="use one of 'stop', 'continue'"):
        Workflow(Load(), on_failure=value)


def test_on_failure_reaches_the_schema():
    assert Workflow(Load()).to_schema().on_failure == "stop"
    assert Workflow(Load(), on_failure="continue").to_schema().on_failure == "continue"


def test_a_schema_is_made_once_while_nothing_changes():
    step = Load(policies=[RetryPolicy(1)])
    workflow = Workflow(step, name="once")
    first = workflow.to_schema()
    assert workflow.to_schema() is first
    step.add_policy(StepTimeoutPolicy(1))
    second = workflow.to_schema()
    assert len(second.steps[0].policies) == 2
    assert second.fingerprint != first.fingerprint
    workflow.version = "2"
    assert workflow.to_schema().workflow_id == "once@2"


def test_a_policy_that_has_changed_makes_another_schema_though_it_compares_equal():
    policy = Limit(1)
    workflow = Workflow(Load(policies=[policy]), name="limited")
    before = workflow.to_schema()
    policy.limit = True
    anew = Workflow(Load(policies=[Limit(True)]), name="limited").to_schema()
    assert workflow.to_schema().fingerprint == anew.fingerprint != before.fingerprint


def test_steps_of_very_many_classes_keep_their_own_parameters(monkeypatch):
    monkeypatch.setattr("fuseline.step._signatures", SmallDict())
    steps = [type(f"Takes{i}", (Step,), {"run_step": eval(f"lambda self, p{i}=0: {i}")})() for i in range(50)]
    schema = Workflow(steps).to_schema()
    assert [[each.name for each in step.parameters] for step in schema.steps] == [[f"p{i}"] for i in range(50)]


def test_an_unknown_executor_is_refused_when_the_workflow_is_built():
    with pytest.raises(UnknownExecutorError, match=r"unknown executor 'lokky'; known are .*'?loky") as caught:
        Workflow(Load(), executor="lokky")
    assert {"inline", "loky", "threads"} <= set(caught.value.known)


@pytest.mark.parametrize("executor", [7, Load, object()])
def test_an_executor_that_is_none_is_refused_when_the_workflow_is_built(executor):
    with pytest.raises(WorkflowError, match="an executor is a name or an instance"):
        Workflow(Load(), executor=executor)


# -- what a step may be -----------------------------------------------------------------------------------------------


def test_a_step_without_run_step_is_refused_and_named():
    class Empty(Step):
        pass

    with pytest.raises(WorkflowError, match=r"step 'Empty' has no run_step\. Define it in class Empty"):
        Workflow(Empty())


def test_a_run_step_with_keywords_of_any_name_is_refused():
    class Greedy(Step):
        def run_step(self, x, **options): ...

    with pytest.raises(UnboundParameterError, match=r"step 'Greedy'.*'\*\*options'") as caught:
        Workflow(Greedy())
    assert caught.value.parameter == "**options"


def test_a_step_whose_init_does_not_call_super_is_a_whole_step():
    class Careless(Step):
        def __init__(self, value):
            self.value = value

        def run_step(self):
            return self.value

    step = Careless(7)
    assert (step.name, step.state, step.error, step.policies) == ("Careless", State.PENDING, None, ())
    assert Workflow(step).run(executor="inline") == 7


def test_a_dataclass_can_be_a_step():
    @dataclass
    class Scale(Step):
        factor: int = 2

        def run_step(self, *parts):
            return self.factor

    a, b = Scale(3), Scale(3)
    assert a != b  # a step is itself
    a >> b
    workflow = Workflow([a, b])
    assert workflow.steps == {"Scale": a, "Scale-2": b}
    assert workflow.run(executor="inline") == [3, 3]


def test_steps_that_are_equal_are_different_steps():
    @dataclass(unsafe_hash=True)
    class Scale(Step):
        factor: int = 2

        def run_step(self, *parts):
            return self.factor

    a, b = Scale(3), Scale(3)
    assert len(Workflow([a, b]).steps) == 2


def test_a_step_pickles_without_its_edges_and_its_state():
    a, b = named("a b")
    a >> b
    b.extra = [1]
    copy = pickle.loads(pickle.dumps(b))
    assert (copy.name, copy.extra, copy.state, copy.error) == ("b", [1], State.PENDING, None)
    assert list(Workflow(copy).steps) == ["b"]


class Slotted(Step):
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def run_step(self):
        return self.value


def test_a_step_with_slots_pickles_with_their_values():
    assert pickle.loads(pickle.dumps(Slotted(7))).value == 7


def test_the_repr_and_str_of_a_step_show_its_name():
    [a] = named("a")
    assert (repr(a), str(a), repr(Depends(a))) == ("<Load 'a'>", "a", "Depends(<Load 'a'>)")
    assert repr(Workflow(a, name="etl")) == "<Workflow 'etl' of 1 steps>"


# -- one call ---------------------------------------------------------------------------------------------------------


def test_one_output_gives_its_value_and_several_a_list_in_the_order_of_outputs():
    a, b = named("a b")
    a >> b
    assert Workflow(a).run(executor="inline") == "a"
    assert Workflow([a]).run(executor="inline") == "a"
    assert Workflow([b, a]).run(executor="inline") == ["b", "a"]


def test_a_failed_run_raises_run_failed_with_the_exception_of_the_step_as_its_cause():
    class Broken(Step):
        def run_step(self):
            return {}["missing"]

    with pytest.raises(RunFailed, match="failed in step 'Broken': KeyError: 'missing'") as caught:
        Workflow(Broken()).run(executor="inline")
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.step_names == ("Broken",)


class OddText(str):
    """As NumPy's text is: a string that does not travel as one."""


def test_names_become_plain_strings():
    step = Load(name=OddText("load"))
    workflow = Workflow(outputs=[step], name=OddText("odd"), version=OddText("1"))
    assert [type(name) for name in (step.name, workflow.name, workflow.version, *workflow.steps)] == [str] * 4


# -- odd classes of steps ---------------------------------------------------------------------------------------------


class Redirecting(Step):
    """Keeps what is set on it somewhere else."""

    def __init__(self):
        super().__init__()
        vars(self)["params"] = {}

    def __setattr__(self, name, value):
        if name in ("name", "state", "error"):
            super().__setattr__(name, value)
        else:
            self.params[name] = value

    def run_step(self, *values): ...


class Strict(Redirecting):
    def __setattr__(self, name, value):
        if name not in ("name", "state", "error"):
            raise AttributeError(name)
        super().__setattr__(name, value)


@pytest.mark.parametrize("kind", [Redirecting, Strict])
def test_an_edge_is_drawn_to_one_step_only_however_it_takes_attributes(kind):
    before, after, other = Redirecting(), kind(), Strict()
    before >> after
    assert dict(after._predecessors) == {before: None}
    assert dict(other._predecessors) == dict(before._predecessors) == {}
    with pytest.raises(TypeError):
        Step._predecessors[before] = None  # type: ignore[index]


def test_fields_of_a_dataclass_may_have_the_names_of_what_a_step_has():
    @dataclass
    class Tax(Step):
        state: str
        year: int

        def run_step(self): ...

    assert Tax("CA", 2026).state == "CA"
    with pytest.raises(TypeError, match="year"):
        Tax("CA")


@pytest.mark.parametrize("what", [3, ["a"], {}])
def test_a_run_step_that_is_no_function_is_refused(what):
    class Bad(Step):
        run_step = what

    with pytest.raises(WorkflowError, match="has no run_step"):
        Workflow(Bad())

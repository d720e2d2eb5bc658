"""Schemas from anywhere: JSON that somebody has changed, and graphs that no workflow would make."""

from __future__ import annotations

import json
import math

import pytest

from fuseline import MemoryBroker, Step, Workflow, WorkflowSchema
from fuseline.errors import CycleError, DuplicateStepError, PolicyError, UnboundParameterError, WorkflowError
from fuseline.policies import RetryPolicy, StepTimeoutPolicy, WorkflowPolicy
from fuseline.schema import ParameterSchema, StepSchema

from .helpers import step_schema


class Load(Step):
    def run_step(self, path, limit=10): ...


class Join(Step):
    def run_step(self, *tables): ...


def build() -> Workflow:
    one, two, join = Load(name="one", policies=[RetryPolicy(2)]), Load(name="two"), Join()
    [one, two] >> join
    return Workflow([join, two], name="etl", policies=[WorkflowPolicy()])


def tampered(change) -> str:
    data = json.loads(build().to_schema().to_json())
    change(data)
    return json.dumps(data)


TAMPERINGS = {
    "step dropped": lambda data: data["steps"].pop(),
    "step renamed": lambda data: data["steps"][0].update(name="other"),
    "edge dropped": lambda data: data["steps"][2]["predecessors"].pop(),
    "policy changed": lambda data: data["steps"][0]["policies"][0]["config"].update(max_retries=99),
    "output dropped": lambda data: data["outputs"].pop(),
    "on_failure": lambda data: data.update(on_failure="continue"),
    "fingerprint": lambda data: data.update(fingerprint="0" * 64),
}


@pytest.mark.parametrize("change", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_json_that_was_changed_by_hand_is_refused(change):
    with pytest.raises(WorkflowError, match="'etl' does not fit its fingerprint"):
        WorkflowSchema.from_json(tampered(change))


MUTILATIONS = {
    "no steps": lambda data: data.pop("steps"),
    "no fingerprint": lambda data: data.pop("fingerprint"),
    "no name": lambda data: data.pop("name"),
    "steps are a number": lambda data: data.update(steps=3),
    "steps are numbers": lambda data: data.update(steps=[3]),
    "steps are None": lambda data: data.update(steps=None),
    "a step without name": lambda data: data["steps"][0].pop("name"),
    "a parameter with more": lambda data: data["steps"][0]["parameters"][0].update(x=1),
    "a parameter named by a list": lambda data: data["steps"][0]["parameters"][0].update(name=[]),
    "policies are numbers": lambda data: data.update(policies=[3]),
    "policies of a step are numbers": lambda data: data["steps"][0].update(policies=[3]),
}


@pytest.mark.parametrize("change", MUTILATIONS.values(), ids=MUTILATIONS.keys())
def test_json_of_another_shape_is_refused(change):
    with pytest.raises(WorkflowError, match="not the schema of a workflow"):
        WorkflowSchema.from_json(tampered(change))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"schema"', "{}", "[" * 100_000])
def test_other_text_is_refused(text):
    with pytest.raises(WorkflowError, match="not the schema of a workflow"):
        WorkflowSchema.from_json(text)


# -- schemas from anywhere, as a broker gets them ---------------------------------------------------------------------


def dispatch(*steps: StepSchema, outputs: tuple[str, ...] = ("b",), **changes) -> None:
    MemoryBroker().dispatch_workflow(
        WorkflowSchema(**{"workflow_id": "etl", "name": "etl", "steps": steps, "outputs": outputs, **changes})
    )


def test_a_broker_refuses_a_schema_that_is_none():
    for schema in (None, "etl", build(), build().to_schema().to_dict()):
        with pytest.raises(WorkflowError, match="a broker takes a WorkflowSchema"):
            MemoryBroker().dispatch_workflow(schema)


def test_a_schema_without_steps_is_refused():
    with pytest.raises(WorkflowError, match="has no steps"):
        dispatch()


def test_a_schema_without_outputs_is_refused():
    with pytest.raises(WorkflowError, match="no outputs"):
        dispatch(step_schema("b"), outputs=())


def test_a_schema_with_two_steps_of_one_name_is_refused():
    with pytest.raises(DuplicateStepError, match="'b'"):
        dispatch(step_schema("b"), step_schema("b"))
    with pytest.raises(DuplicateStepError, match="'b'"):
        dispatch(step_schema("a"), step_schema("b"), step_schema("b"), step_schema("c"))


def test_a_schema_with_an_unknown_predecessor_or_output_is_refused():
    with pytest.raises(WorkflowError, match="'ghost'"):
        dispatch(step_schema("b", "ghost"))
    with pytest.raises(WorkflowError, match="'ghost'"):
        dispatch(step_schema("b"), outputs=("ghost",))
    with pytest.raises(WorkflowError, match="'ghost'"):  # the first by its name, always the same one
        dispatch(step_schema("b", "phantom", "ghost", "spectre"))


def test_a_schema_with_a_cycle_is_refused():
    with pytest.raises(CycleError, match="'etl' has a cycle"):
        dispatch(step_schema("a", "b"), step_schema("b", "a"))
    with pytest.raises(CycleError):
        dispatch(step_schema("b", "b"))


def test_a_schema_need_not_be_in_order():
    dispatch(step_schema("b", "a"), step_schema("a"))


@pytest.mark.parametrize("other", ["a", "ghost"])
def test_a_schema_with_a_parameter_that_depends_on_no_predecessor_is_refused(other):
    parameter = ParameterSchema(name="x", required=False, depends_on=other)
    with pytest.raises(WorkflowError):
        dispatch(step_schema("a"), step_schema("b", parameters=[parameter]))


def test_a_schema_with_an_unknown_on_failure_is_refused():
    with pytest.raises(WorkflowError, match="on_failure"):
        dispatch(step_schema("b"), on_failure="retry")


def test_a_schema_with_an_unbound_parameter_is_refused():
    with pytest.raises(UnboundParameterError):
        dispatch(step_schema("b", parameters=[ParameterSchema(name="x")]))


IMPOSSIBLE = [
    {"type": "RetryPolicy", "config": {"from_the_future": 1}},
    {"type": "RetryPolicy", "config": {"wait": -1}},
    {"type": "RetryPolicy", "config": {"retry_on": [3]}},
    {"type": "RetryPolicy", "config": []},
    {"type": "StepTimeoutPolicy", "config": {}},
    {"type": "StepTimeoutPolicy", "config": {"seconds": "x"}},
    {"type": "StepTimeoutPolicy", "config": {"seconds": math.nan}},
    {"type": "StepTimeoutPolicy", "config": {"seconds": -4}},
    {"type": "MemoryLimitPolicy", "config": {"bytes": 0}},
    {"type": "MemoryLimitPolicy", "config": {"bytes": 2**70}},
    {"type": "mine:P", "config": {}, "base": 3},
    {"type": "mine:P", "config": {}, "base": {"type": "RetryPolicy"}},
]


@pytest.mark.parametrize("config", IMPOSSIBLE, ids=repr)
def test_a_schema_with_an_impossible_policy_is_refused(config):
    broker = MemoryBroker()
    step = StepSchema(name="b", kind="B", policies=(config,))
    schema = WorkflowSchema(workflow_id="etl", name="etl", steps=(step,), outputs=("b",))
    for call in (broker.dispatch_workflow, lambda schema: broker.register_worker([schema])):
        with pytest.raises((WorkflowError, PolicyError)):
            call(schema)
    assert broker.list_runs() == []


class Labelled(RetryPolicy):
    """A user's own kind of a built-in policy, with more in its configuration."""

    def __init__(self, label="", **options):
        super().__init__(**options)
        self.label = label

    def to_config(self):
        return {**super().to_config(), "label": self.label}


class Quiet(StepTimeoutPolicy):
    """A user's own kind of a built-in policy, with nothing in its configuration."""

    def to_config(self):
        return {}


@pytest.mark.parametrize("policy", [Labelled("x"), Quiet(5)])
def test_a_subclass_of_a_built_in_policy_with_a_configuration_of_its_own_can_be_dispatched(policy):
    workflow = Workflow(Join(policies=[policy]))
    MemoryBroker().dispatch_workflow(workflow.to_schema())

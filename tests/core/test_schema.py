"""Workflows as plain data: JSON and back, fingerprints, ids."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
from collections import UserDict
from dataclasses import replace
from types import MappingProxyType

import pytest

from fuseline import Depends, Step, Workflow, WorkflowSchema
from fuseline.errors import PolicyError, WorkflowError
from fuseline.policies import RetryPolicy, StepPolicy, StepTimeoutPolicy, WorkflowPolicy
from fuseline.schema import ParameterSchema

from .helpers import HANG, chain_schema, dag, step_schema


class Load(Step):
    def run_step(self, path, limit=10): ...


class Join(Step):
    def run_step(self, *tables): ...


class Watching(WorkflowPolicy):
    def to_config(self):
        return {"deep": {"list": [1, 2.5, None, "ü", True]}}


def build(*, second_edge=True, retries=2, observers=(), **options) -> Workflow:
    one, two = Load(name="one", policies=[RetryPolicy(retries, retry_on=(OSError, KeyError))]), Load(name="two")
    join = Join(policies=[StepTimeoutPolicy(5)])
    one >> join
    if second_edge:
        two >> join

    class Report(Step):
        def run_step(self, title, total=Depends(join), *, style="plain"): ...

    return Workflow([Report(), two], policies=observers, **options)


# -- JSON and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "workflow",
    [
        build(),
        build(name="etl", version="2", on_failure="continue"),
        build(name="Läden/öffnen", observers=[Watching()]),
    ],
    ids=["unnamed", "named", "observed"],
)
def test_a_schema_goes_to_json_and_back_unchanged(workflow):
    schema = workflow.to_schema()
    text = schema.to_json()
    copy = WorkflowSchema.from_json(text)
    assert copy == schema
    assert copy.fingerprint == schema.fingerprint
    assert copy.to_json() == text
    assert "\n" not in text


def test_a_schema_says_what_the_workflow_says():
    schema = build(name="etl", version="2", on_failure="continue", observers=[Watching()]).to_schema()
    assert (schema.workflow_id, schema.name, schema.version, schema.on_failure) == ("etl@2", "etl", "2", "continue")
    assert schema.outputs == ("Report", "two")
    assert [step.name for step in schema.steps] == ["one", "two", "Join", "Report"]
    one, _, join, report = schema.steps
    assert one.kind == "Load"
    assert one.parameters == (ParameterSchema(name="path"), ParameterSchema(name="limit", required=False))
    assert one.policies[0]["type"] == "RetryPolicy"
    assert one.policies[0]["config"]["retry_on"] == ["KeyError", "OSError"]
    assert join.predecessors == ("one", "two")
    assert join.parameters == (ParameterSchema(name="tables", required=False, variadic=True),)
    limit = {"type": "StepTimeoutPolicy", "config": {"seconds": 5.0, "kill": False}}
    assert join.policies == (limit,)
    assert report.predecessors == ("Join",)
    assert report.parameters[1] == ParameterSchema(name="total", required=False, depends_on="Join")
    assert schema.policies[0]["config"] == {"deep": {"list": [1, 2.5, None, "ü", True]}}


def test_what_to_dict_returns_may_be_changed_without_changing_the_schema_or_others():
    class Special(Step):
        def run_step(self, a_name_that_no_other_test_uses): ...

    def schema():
        return Workflow(Special(policies=[RetryPolicy(2)]), name="etl", policies=[Watching()]).to_schema()

    first, text = schema(), schema().to_json()
    data = first.to_dict()
    data["steps"][0]["parameters"][0]["required"] = "changed"
    data["steps"][0]["policies"][0]["config"]["wait"] = "changed"
    data["policies"][0]["config"]["deep"] = "changed"
    assert first.to_json() == text
    assert schema().to_json() == text


def test_a_policy_of_the_workflow_appears_on_each_step_and_an_observer_on_the_workflow():
    schema = Workflow([Load(name="a"), Load(name="b")], policies=[RetryPolicy(1), Watching()]).to_schema()
    assert [len(step.policies) for step in schema.steps] == [1, 1]
    assert len(schema.policies) == 1


def test_a_config_that_json_cannot_hold_is_refused():
    class Odd(StepPolicy):
        def to_config(self):
            return {"what": object()}

    with pytest.raises(PolicyError, match=r"Odd\.to_config"):
        Workflow(Load(policies=[Odd()])).to_schema()


# -- fingerprints -----------------------------------------------------------------------------------------------------


def test_a_second_building_has_the_same_fingerprint():
    assert build().to_schema() == build().to_schema()
    assert build().to_schema().fingerprint == build().to_schema().fingerprint


CHANGES = {
    "edge": lambda: build(second_edge=False),
    "policy": lambda: build(retries=3),
    "on_failure": lambda: build(on_failure="continue"),
    "observer": lambda: build(observers=[Watching()]),
    "policy of the workflow": lambda: build(observers=[StepTimeoutPolicy(9)]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_of_steps_edges_policies_or_on_failure_changes_the_fingerprint(change):
    assert change().to_schema().fingerprint != build().to_schema().fingerprint


def schema_change(**changes) -> list[WorkflowSchema]:
    base = dag("a>c b>c")
    return [base, replace(base, **changes)]


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": ("c", "a")},
        {"steps": (step_schema("a"), step_schema("b"), step_schema("c", "b", "a"))},
        {"steps": (step_schema("a"), step_schema("x"), step_schema("c", "a", "x"))},
        {"steps": (step_schema("b"), step_schema("a"), step_schema("c", "a", "b"))},
        {"steps": (step_schema("a"), step_schema("b"), step_schema("c", "a", "b", parameters=()))},
    ],
    ids=["outputs", "order of edges", "name", "order of steps", "parameters"],
)
def test_every_part_that_decides_what_a_run_does_is_in_the_fingerprint(changes):
    base, changed = schema_change(**changes)
    assert base.fingerprint != changed.fingerprint


def test_name_and_version_are_not_in_the_fingerprint():
    base, changed = schema_change(name="other", version="3", workflow_id="other@3")
    assert base.fingerprint == changed.fingerprint


SCRIPT = """
    from fuseline import Depends, Step, Workflow
    from fuseline.policies import RetryPolicy, StepTimeoutPolicy

    class Load(Step):
        def run_step(self, path, limit=10): ...

    class Join(Step):
        def run_step(self, *tables): ...

    retry = RetryPolicy(2, retry_on=(OSError, KeyError, ValueError), give_up_on=(TypeError, IndexError))
    join = Join(policies=[StepTimeoutPolicy(5)])
    [Load(policies=[retry]) for _ in range(5)] >> join
    workflow = Workflow(join, on_failure="continue")
"""


def test_another_process_with_another_hash_seed_has_the_same_id_and_schema():
    here: dict[str, Workflow] = {}
    exec(textwrap.dedent(SCRIPT), here)
    program = textwrap.dedent(SCRIPT) + "print(workflow.to_schema().to_json())"
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            timeout=HANG,
            check=True,
        )
        assert there.stdout.strip() == here["workflow"].to_schema().to_json()


# -- ids --------------------------------------------------------------------------------------------------------------


def test_a_given_name_is_the_id():
    assert build(name="etl").to_schema().workflow_id == "etl"


def test_a_version_is_part_of_the_id():
    assert build(name="etl", version="2").to_schema().workflow_id == "etl@2"


def test_the_id_of_an_unnamed_workflow_tells_changed_ones_apart_and_stays_the_same_for_equal_ones():
    ids = [build(retries=n).to_schema().workflow_id for n in (2, 2, 3)]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0].startswith("Report+two-")


def test_the_id_of_an_unnamed_workflow_with_a_version_has_both():
    workflow_id = build(version="2").to_schema().workflow_id
    assert workflow_id.startswith("Report+two-")
    assert workflow_id.endswith("@2")


def test_the_id_of_a_named_workflow_does_not_follow_its_definition():
    assert build(name="etl", retries=2).to_schema().workflow_id == build(name="etl", retries=3).to_schema().workflow_id


# -- what is told again only if it has changed ------------------------------------------------------------------------


class Named(StepPolicy):
    def __init__(self, path):
        self.path = path

    def to_config(self):
        return {"path": self.path}


class Budget(StepPolicy):
    """All of them are equal, whatever they say."""

    def __init__(self, n):
        self.n = n

    def __eq__(self, other):
        return isinstance(other, Budget)

    def __hash__(self):
        return 0

    def to_config(self):
        return {"n": self.n}


class Elementwise(Budget):
    """Is compared as arrays are."""

    def __eq__(self, other):
        raise ValueError("the truth value of an array is ambiguous")

    def __hash__(self):
        return 0


def test_a_schema_is_the_same_object_until_something_changes():
    a, b = Load(name="a"), Load(name="b")
    workflow = Workflow([a, b], name="w")
    schema = workflow.to_schema()
    assert workflow.to_schema() is schema
    a.add_policy(Named(1))
    changed = workflow.to_schema()
    assert changed != schema
    assert workflow.to_schema() is changed
    a.policies[0].path = True  # equal to 1
    assert workflow.to_schema().to_json() != changed.to_json()


@pytest.mark.parametrize("kind", [Budget, Elementwise])
def test_policies_are_told_apart_whatever_they_say_of_being_equal(kind):
    a, b, own = Load(name="a"), Load(name="b"), kind(9)
    b.add_policy(own)
    workflow = Workflow([a, b], name="w", policies=[kind(1)])

    def numbers():
        return [step.policies[0]["config"]["n"] for step in workflow.to_schema().steps]

    assert numbers() == [1, 9]
    a.add_policy(own)
    assert numbers() == [9, 9]


def test_outputs_and_classes_that_were_replaced_are_in_the_schema():
    a, b = Load(name="a"), Load(name="b")
    workflow = Workflow([a, b], name="w")
    workflow.to_schema()
    workflow.outputs = (b,)
    assert workflow.to_schema().outputs == ("b",)

    class Reload(Load):
        pass

    b.__class__ = Reload
    assert workflow.to_schema().steps[1].kind.endswith("Reload")


def test_an_error_is_told_each_time():
    step = Load(name="a")
    workflow = Workflow(step, name="w")
    workflow.to_schema()

    other = Depends(Load(name="elsewhere"))

    def elsewhere(value=other): ...

    step.run_step = elsewhere
    for _ in range(2):
        with pytest.raises(KeyError):
            workflow.to_schema()


def test_many_functions_are_no_change():
    def make(number):
        def run_step():
            return number

        return run_step

    steps = [Load(name=f"s{number}") for number in range(10_100)]
    for number, step in enumerate(steps):
        step.run_step = make(number)
    workflow = Workflow(steps, name="w")
    assert workflow.to_schema() is workflow.to_schema()


# -- what the standard library writes ---------------------------------------------------------------------------------


def test_half_a_pair_of_surrogates_as_in_the_name_of_a_file_goes_to_json_and_back():
    path = b"caf\xe9.log".decode("utf-8", "surrogateescape")
    one, two = Load(name="one", policies=[Named(path)]), Join(name="two")
    one >> two
    schema = Workflow(two, name="etl", policies=[Watching()]).to_schema()
    copy = WorkflowSchema.from_json(schema.to_json())
    assert copy == schema
    assert copy.steps[0].policies[0]["config"] == {"path": path}
    assert copy.to_json() == schema.to_json()


@pytest.mark.parametrize("text", ['"\\udce9"', "[NaN]", '{"name":"\\udce9"}'])
def test_what_only_the_standard_library_reads_is_no_schema_for_that(text):
    with pytest.raises(WorkflowError, match="not the schema of a workflow"):
        WorkflowSchema.from_json(text)


def test_a_number_that_is_none_was_written_by_hand_and_is_read():
    schema = replace(dag("a>b"), policies=({"type": "mine", "config": {"limit": float("inf")}},))
    assert WorkflowSchema.from_json(schema.to_json()) == schema


def test_from_dict_takes_any_mapping_and_leaves_what_it_does_not_know():
    schema = build(name="etl").to_schema()
    plain = schema.to_dict()
    plain["steps"] = [MappingProxyType(step) for step in plain["steps"]]
    for data in (plain, MappingProxyType(plain), UserDict(plain), {**plain, "at": object()}):
        assert WorkflowSchema.from_dict(data) == schema
    for data in ([], {**plain, "name": object()}, {**plain, "steps": object()}):
        with pytest.raises(WorkflowError, match="not the schema of a workflow"):
            WorkflowSchema.from_dict(data)


# -- large ones -------------------------------------------------------------------------------------------------------


class Work(Step):
    def run_step(self, *parts): ...


def test_100_000_steps_with_a_chain_10_000_deep_become_a_schema():
    chain = [Work() for _ in range(10_000)]
    for before, after in itertools.pairwise(chain):
        before >> after
    wide = [Work() for _ in range(89_999)]
    last = Work(name="last")
    [*wide, chain[-1]] >> last
    schema = Workflow(last, name="large").to_schema()
    assert len(schema.steps) == 100_000
    assert len(schema.steps[-1].predecessors) == 90_000
    place = {step.name: i for i, step in enumerate(schema.steps)}
    assert all(place[before] < i for i, step in enumerate(schema.steps) for before in step.predecessors)
    assert len(schema.fingerprint) == 64


def test_a_chain_10_000_deep_goes_to_json_and_back():
    schema = chain_schema(10_000)
    assert WorkflowSchema.from_json(schema.to_json()) == schema

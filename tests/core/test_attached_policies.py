"""Policies on steps and workflows: attaching, which apply to a step, and what is refused."""

from __future__ import annotations

import re

import pytest

from fuseline import Step, Workflow
from fuseline.errors import PolicyError, UnsupportedPolicyError
from fuseline.executors import InlineExecutor, LokyExecutor, ThreadsExecutor
from fuseline.policies import Policy, RetryPolicy, StepPolicy, StepTimeoutPolicy, WorkflowPolicy
from fuseline.policies.base import built_in_policy, policy_config


class Work(Step):
    def run_step(self): ...


class Noting(StepPolicy):
    def __init__(self):
        self.attached = []

    def attach_to_step(self, step):
        self.attached.append(step)

    def attach_to_workflow(self, workflow):
        self.attached.append(workflow)


class Watching(WorkflowPolicy):
    def __init__(self):
        self.attached = []

    def attach_to_workflow(self, workflow):
        self.attached.append((workflow, list(workflow.steps)))


# -- attaching --------------------------------------------------------------------------------------------------------


def test_a_policy_on_a_step_is_attached_to_it_once():
    early, late = Noting(), Noting()
    step = Work(policies=[early])
    step.add_policy(late)
    Workflow(step).to_schema()
    assert early.attached == late.attached == [step]
    assert step.policies == (early, late)


def test_a_policy_on_a_workflow_is_attached_to_it_once_and_not_to_its_steps():
    early, late = Noting(), Noting()
    workflow = Workflow(Work(), policies=[early])
    workflow.add_policy(late)
    assert early.attached == late.attached == [workflow]
    assert workflow.policies == (early, late)


def test_an_observer_finds_the_workflow_complete_when_it_is_attached():
    observer = Watching()
    workflow = Workflow(Work(), policies=[observer])
    assert observer.attached == [(workflow, ["Work"])]
    assert workflow.observers == (observer,)


def test_a_policy_that_refuses_its_step_is_heard():
    class Picky(StepPolicy):
        def attach_to_step(self, step):
            raise PolicyError(f"not {step.name}")

    with pytest.raises(PolicyError, match="not Work"):
        Work(policies=[Picky()])


@pytest.mark.parametrize("policy", [None, "retry", RetryPolicy, Watching(), Policy()])
def test_a_step_takes_instances_of_step_policy_only(policy):
    with pytest.raises(PolicyError, match="step 'Work' takes instances of StepPolicy"):
        Work(policies=[policy])


@pytest.mark.parametrize("policy", [None, 3, StepTimeoutPolicy, Policy()])
def test_a_workflow_takes_instances_of_both_kinds_only(policy):
    with pytest.raises(PolicyError, match="workflow 'etl' takes instances of StepPolicy and WorkflowPolicy"):
        Workflow(Work(), name="etl", policies=[policy])


# -- hooks with other parameters --------------------------------------------------------------------------------------

STEP_HOOKS = {
    "attach_to_step": "step",
    "execute": "step, call",
    "execute_async": "step, call",
    "on_start": "step",
    "on_success": "step, result",
    "on_failure": "step, exc, attempt",
}
WORKFLOW_HOOKS = {
    "on_workflow_start": "workflow",
    "on_workflow_finished": "workflow, state",
    "on_step_start": "step",
    "on_step_success": "step, result",
    "on_step_failure": "step, exc",
    "on_step_retry": "step, exc, delay",
}


@pytest.mark.parametrize("hook", STEP_HOOKS)
@pytest.mark.parametrize("wrong", [lambda self: None, lambda self, a, b, c, d, e: None, lambda self, *, x: None])
def test_a_step_hook_with_other_parameters_is_refused_and_the_right_ones_are_named(hook, wrong):
    policy = type("Mine", (StepPolicy,), {hook: wrong})()
    expected = rf"Mine\.{hook} cannot be called as {hook}\({re.escape(STEP_HOOKS[hook])}\)"
    with pytest.raises(PolicyError, match=expected):
        Work(policies=[policy])
    with pytest.raises(PolicyError, match=expected):
        Workflow(Work(), policies=[policy])


@pytest.mark.parametrize("hook", WORKFLOW_HOOKS)
def test_an_observing_hook_with_other_parameters_is_refused_and_the_right_ones_are_named(hook):
    policy = type("Mine", (WorkflowPolicy,), {hook: lambda self: None})()
    with pytest.raises(PolicyError, match=rf"Mine\.{hook} cannot be called as .*{re.escape(WORKFLOW_HOOKS[hook])}\)"):
        Workflow(Work(), policies=[policy])


def test_a_refused_policy_is_not_added():
    step = Work()
    with pytest.raises(PolicyError):
        step.add_policy(type("Mine", (StepPolicy,), {"execute": lambda self: None})())
    assert step.policies == ()


def test_hooks_with_other_names_or_more_defaults_or_any_parameters_are_fine():
    class Mine(StepPolicy):
        def execute(self, target, function, extra=1):
            return function()

        def on_failure(self, *args):
            return None

    assert len(Work(policies=[Mine()]).policies) == 1


# -- which apply ------------------------------------------------------------------------------------------------------


class Tracing(StepPolicy):
    pass


def test_policies_of_a_step_are_the_workflows_first_and_then_its_own():
    own, shared, observer = Noting(), Tracing(), Watching()
    step = Work(policies=[own])
    workflow = Workflow(step, policies=[shared, observer])
    assert workflow.policies_of(step) == (shared, own)


def test_an_own_policy_replaces_those_of_its_class_on_the_workflow():
    own = RetryPolicy(max_retries=1)
    shared = [RetryPolicy(max_retries=2), Tracing(), RetryPolicy(max_retries=3)]
    bare, special = Work(), Work(policies=[own])
    workflow = Workflow([bare, special], policies=shared)
    assert workflow.policies_of(special) == (shared[1], own)
    assert workflow.policies_of(bare) == tuple(shared)


def test_an_own_policy_does_not_replace_a_subclass_or_a_base_of_its_class():
    class Special(RetryPolicy):
        pass

    shared, own = Special(), RetryPolicy()
    step = Work(policies=[own])
    assert Workflow(step, policies=[shared]).policies_of(step) == (shared, own)


def test_several_policies_of_one_class_on_a_step_all_apply():
    policies = [RetryPolicy(retry_on=OSError), RetryPolicy(retry_on=ValueError)]
    step = Work(policies=policies)
    assert Workflow(step).policies_of(step) == tuple(policies)


def test_a_policy_added_after_the_workflow_was_made_applies_too():
    step = Work()
    workflow = Workflow(step)
    late, shared = Noting(), Tracing()
    step.add_policy(late)
    workflow.add_policy(shared)
    assert workflow.policies_of(step) == (shared, late)
    assert dict(workflow.hosted()) == {"Work": (step, (shared, late))}


# -- what an executor must be able to do ------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["threads", "inline", ThreadsExecutor(1), InlineExecutor()])
@pytest.mark.parametrize("place", ["step", "workflow"])
def test_a_killing_timeout_is_refused_where_nothing_can_be_killed(executor, place):
    kill = [StepTimeoutPolicy(5, kill=True)]
    step = Work(policies=kill if place == "step" else ())
    with pytest.raises(UnsupportedPolicyError, match="on step 'Work' needs an executor that kills") as caught:
        Workflow(step, policies=kill if place == "workflow" else (), executor=executor)
    assert caught.value.executor in ("threads", "inline")
    assert (caught.value.step_name, caught.value.need) == ("Work", "kills")
    assert "StepTimeoutPolicy(seconds=5.0, kill=True)" in caught.value.policy


def test_a_killing_timeout_is_fine_where_children_can_be_killed():
    assert Workflow(Work(policies=[StepTimeoutPolicy(5, kill=True)]), executor="loky").executor == "loky"
    assert LokyExecutor.kills


def test_a_killing_timeout_is_refused_when_the_executor_is_chosen_for_one_run():
    workflow = Workflow(Work(policies=[StepTimeoutPolicy(5, kill=True)]))
    with pytest.raises(UnsupportedPolicyError):
        workflow.run(executor="threads")


def test_an_interrupting_timeout_is_fine_everywhere():
    for executor in ("threads", "inline", "loky"):
        Workflow(Work(policies=[StepTimeoutPolicy(5)]), executor=executor)


def test_a_need_that_nobody_knows_is_refused_by_every_executor():
    class Odd(StepPolicy):
        needs = frozenset({"runs_on_the_moon"})

    with pytest.raises(UnsupportedPolicyError, match="needs an executor that runs on the moon"):
        Workflow(Work(policies=[Odd()]), executor="loky")


# -- as data ----------------------------------------------------------------------------------------------------------


class Tagged(StepPolicy):
    def __init__(self, tags=()):
        self.tags = tuple(tags)

    def to_config(self):
        return {"tags": self.tags}


@pytest.mark.parametrize(
    "policy", [RetryPolicy(2, 0.5, retry_on=OSError), StepTimeoutPolicy(3, kill=True), Tagged(["a", "b"]), Watching()]
)
def test_a_policy_goes_to_its_config_and_back(policy):
    config = policy_config(policy)
    copy = type(policy).from_config(config["config"])
    assert type(copy) is type(policy)
    assert policy_config(copy) == config


def test_a_config_says_which_built_in_policy_a_subclass_is_a_kind_of():
    class Mine(RetryPolicy):
        pass

    assert policy_config(RetryPolicy())["type"] == "RetryPolicy"
    assert policy_config(Mine())["base"] == policy_config(RetryPolicy())
    assert policy_config(Mine())["type"].endswith("<locals>.Mine")
    assert "base" not in policy_config(Tagged())


@pytest.mark.parametrize("bad", [object(), {1, 2}, float("nan"), float("inf"), b"x"])
def test_a_config_that_json_cannot_hold_is_refused_and_the_policy_named(bad):
    with pytest.raises(PolicyError, match=r"Tagged\.to_config\(\) returned something that JSON cannot hold"):
        policy_config(Tagged([bad]))


def test_a_built_in_policy_is_made_of_its_config_and_that_of_a_subclass():
    class Mine(RetryPolicy):
        def to_config(self):
            return {"mine": 1}

    assert built_in_policy(policy_config(RetryPolicy(2, 0.5)), RetryPolicy) == RetryPolicy(2, 0.5)
    assert built_in_policy(policy_config(Mine(2, 0.5)), RetryPolicy) == RetryPolicy(2, 0.5)
    assert built_in_policy(policy_config(Tagged()), RetryPolicy) is None
    assert built_in_policy(policy_config(RetryPolicy()), StepTimeoutPolicy) is None


def test_the_repr_of_a_policy_shows_its_configuration():
    assert repr(StepTimeoutPolicy(5)) == "StepTimeoutPolicy(seconds=5.0, kill=False)"
    assert repr(Tracing()) == "Tracing()"

"""The same workflow gives the same states, results, attempts and hook calls on every executor and in a custom loop."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from fuseline import MemoryBroker, ProcessEngine, RunFailed, StepReport, Workflow
from fuseline.executors import LokyExecutor
from fuseline.policies import RetryPolicy, StepTimeoutPolicy
from fuseline.worker import build_shared_dict

from .mixed_steps import AfterOptional, Broken, FailsTwice, Join, Log, Nothing, Optional, SkipIt, Sleepy, Source, Watch

pytestmark = pytest.mark.usefixtures("checked")


def succeeding(log: str) -> Workflow:
    source = Source()
    flaky = FailsTwice(policies=[RetryPolicy(1, retry_on=OSError), RetryPolicy(2, retry_on=ConnectionError)])
    flaky.policies[0].retry_on = frozenset({"TimeoutError"})  # type: ignore[attr-defined]  # a budget of another cause
    sleepy = Sleepy(policies=[StepTimeoutPolicy(60)])
    optional, after = Optional(policies=[SkipIt()]), AfterOptional()
    join, nothing = Join(), Nothing()
    source >> [flaky, sleepy, optional]
    optional >> after
    [flaky, sleepy, nothing] >> join
    return Workflow(outputs=[join, after], policies=[Log(log)], name="succeeding")


def failing(log: str) -> Workflow:
    source, broken, never = Source(), Broken(policies=[RetryPolicy(2)]), AfterOptional()
    source >> broken >> never
    return Workflow(outputs=[never], policies=[Log(log)], name="failing")


def failing_and_going_on(log: str) -> Workflow:
    source, broken, never, sleepy = Source(), Broken(), AfterOptional(), Sleepy()
    broken >> never
    source >> sleepy
    return Workflow(outputs=[never, sleepy], policies=[Log(log)], name="going on", on_failure="continue")


def one_of_many_failing(log: str) -> Workflow:
    """Sixty steps that need nothing of each other; the sixth fails, and nothing starts after that."""
    steps = [Broken() if i == 5 else Source() for i in range(60)]
    return Workflow(outputs=steps, policies=[Log(log)], name="many")


def giving_up(log: str) -> Workflow:
    policies = [RetryPolicy(5, retry_on=ArithmeticError, give_up_on=ZeroDivisionError)]
    return Workflow(outputs=[Broken(policies=policies)], policies=[Log(log)], name="giving up")


def work_with_the_loop_of_a_custom_worker(broker: MemoryBroker, workflow: Workflow) -> None:
    worker_id = broker.register_worker([workflow.to_schema()])
    workflow_step_map = workflow.steps
    while broker.unsettled(worker_id):
        assignment = broker.get_step(worker_id, timeout=60)
        assert assignment is not None
        step = workflow_step_map[assignment.step_name]
        shared = build_shared_dict(assignment.payload)
        result = workflow._execute_step(step, shared)
        broker.report_step(
            worker_id,
            StepReport(
                workflow_id=assignment.workflow_id,
                instance_id=assignment.instance_id,
                step_name=assignment.step_name,
                state=step.state,
                result=result,
            ),
        )
    broker.unregister_worker(worker_id)


def outcome(how: str, make: Callable[[str], Workflow], log: Path, processes: int = 2) -> dict[str, Any]:
    workflow = make(str(log))
    workflow.add_policy(watch := Watch())
    broker = MemoryBroker()
    instance_id = broker.dispatch_workflow(workflow.to_schema(), {"n": 4})
    if how == "custom":
        work_with_the_loop_of_a_custom_worker(broker, workflow)
    else:
        ProcessEngine(broker, [workflow], processes=processes, executor=how).work()
    run = broker.get_run(instance_id)
    try:
        result = broker.result(instance_id)
    except Exception as error:
        result = f"{type(error).__name__} from {error.__cause__!r}"
    lines = sorted(line.replace(str(log), "LOG") for line in log.read_text().splitlines())
    return {
        "run": run.state,
        "result": result,
        "steps": {s.name: (s.state, s.attempts, repr(s.error), s.cause) for s in run.steps.values()},
        "hooks": lines,
        "observed": watch.calls if processes == 1 else sorted(watch.calls),
    }


@pytest.mark.parametrize("make", [succeeding, failing, failing_and_going_on, giving_up])
def test_outcomes_and_hook_calls_are_the_same_everywhere(make: Callable[[str], Workflow], tmp_path: Path) -> None:
    outcomes = {how: outcome(how, make, tmp_path / how) for how in ("inline", "threads", "loky", "custom")}
    assert outcomes["threads"] == outcomes["inline"]
    assert outcomes["loky"] == outcomes["inline"]
    assert outcomes["custom"] == outcomes["inline"]
    assert outcomes["inline"]["hooks"]
    assert outcomes["inline"]["observed"]


def test_nothing_starts_after_a_failure_anywhere(tmp_path: Path) -> None:
    hows = ("inline", "threads", "loky", "custom")
    outcomes = {how: outcome(how, one_of_many_failing, tmp_path / how, processes=1) for how in hows}
    states = [state for state, *_ in outcomes["inline"]["steps"].values()]
    assert (states.count("SUCCEEDED"), states.count("FAILED"), states.count("CANCELLED")) == (5, 1, 54)
    for how in hows[1:]:
        assert outcomes[how] == outcomes["inline"], how


def test_the_outcomes_are_the_right_ones(tmp_path: Path) -> None:
    good = outcome("loky", succeeding, tmp_path / "good")
    assert good["result"] == [{"total": 6, "count": 40, "nothing": None, "title": "sum"}, None]
    assert {name: (state, attempts) for name, (state, attempts, *_) in good["steps"].items()} == {
        "Source": ("SUCCEEDED", 1),
        "FailsTwice": ("SUCCEEDED", 3),
        "Sleepy": ("SUCCEEDED", 1),
        "Optional": ("SKIPPED", 1),
        "AfterOptional": ("SKIPPED", 0),
        "Nothing": ("SUCCEEDED", 1),
        "Join": ("SUCCEEDED", 1),
    }
    assert sum("on_failure" in line for line in good["hooks"]) == 3
    bad = outcome("loky", failing, tmp_path / "bad")
    assert bad["run"] == "FAILED"
    assert bad["steps"]["Broken"][:2] == ("FAILED", 3)
    assert bad["steps"]["AfterOptional"] == ("CANCELLED", 0, "None", "step 'Broken' failed")
    assert "ZeroDivisionError" in bad["result"]
    on = outcome("loky", failing_and_going_on, tmp_path / "on")
    assert on["run"] == "FAILED"
    assert on["steps"]["Sleepy"][:2] == ("SUCCEEDED", 1)
    assert on["steps"]["AfterOptional"][:2] == ("CANCELLED", 0)
    assert outcome("loky", giving_up, tmp_path / "up")["steps"]["Broken"][:2] == ("FAILED", 1)


class Recalling(LokyExecutor):
    """Keeps what is recalled from it."""

    def recall(self, tokens: Collection[int] | None = None) -> None:
        recalled.append(tokens)
        super().recall(tokens)


recalled: list[Collection[int] | None] = []


def test_what_waits_of_a_failed_run_is_recalled_at_once(tmp_path: Path) -> None:
    recalled.clear()
    workflow = one_of_many_failing(str(tmp_path / "log"))
    with pytest.raises(RunFailed):
        workflow.run({"n": 4}, executor=Recalling(1))
    [tokens] = recalled  # one by one, each would make room in the child for the next
    assert tokens is not None
    assert len(tokens) > 1

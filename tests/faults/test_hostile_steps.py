"""One hostile step among good ones: the good ones never notice, the hostile one has a named end."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from fuseline import MemoryBroker, ProcessEngine, RunFailed, State, StepCrashed, StepTimedOut, Workflow
from fuseline.errors import NotPicklableError, RemoteStepError
from fuseline.policies import RetryPolicy, StepTimeoutPolicy

sys.path.insert(0, str(Path(__file__).parent))  # children get the path too, so that they can import the steps

from hostile import DEEDS, Descriptors, Forge, Good, Hostile
from started import started_since

SIBLINGS = 20

#: {deed: (class of the error, a part of its message)}
ENDS = {
    "SIGKILL": (StepCrashed, "died by SIGKILL"),
    "SIGSEGV": (StepCrashed, "died by SIGSEGV"),
    "SIGTERM": (StepCrashed, "died by SIGTERM"),
    "SIGABRT": (StepCrashed, "died by SIGABRT"),
    "exit 0": (StepCrashed, "exit code 0"),
    "exit 1": (StepCrashed, "exit code 1"),
    "exit 3": (StepCrashed, "exit code 3"),
    "exception that cannot be unpickled": (RemoteStepError, "fit: diverged"),
    "result that cannot be unpickled": (NotPicklableError, "cannot be loaded"),
    "result that cannot be pickled": (NotPicklableError, "lock"),
    "result that recurses too deep": (NotPicklableError, "recursion"),
    "generator as a result": (NotPicklableError, "generator"),
    "sys.exit": (StepCrashed, "sys.exit(3)"),
    "KeyboardInterrupt": (StepCrashed, "KeyboardInterrupt"),
    "exception whose __str__ raises": (Exception, "__str__ raised RuntimeError"),
    "closes all descriptors and stays": (StepCrashed, "closed the pipe"),
}

#: What hurts nobody, as its end comes through memory: ``{deed: what it returns}``.
HARMLESS = {"closes all descriptors": None, "writes garbage into every descriptor": "returned"}

HANGS = [
    "python loop",
    "C call that holds the GIL",
    "sleep",
    "lock",
    "ignores SIGTERM and swallows everything",
    "SIGSTOP",
    "starts processes and hangs",
]


def run_among_siblings(hostile: Workflow, deed: str, **inputs: object) -> tuple[MemoryBroker, str]:
    good = Workflow(outputs=[Good()])
    broker = MemoryBroker()
    schema = good.to_schema()
    before = broker.dispatch_many(schema, [{"value": i} for i in range(SIBLINGS // 2)])
    bad = broker.dispatch_workflow(hostile.to_schema(), {"deed": deed, **inputs})
    after = broker.dispatch_many(schema, [{"value": i} for i in range(SIBLINGS // 2, SIBLINGS)])
    ProcessEngine(broker, [good, hostile], processes=2).work()
    assert [broker.result(run) for run in before + after] == [2 * i for i in range(SIBLINGS)]
    return broker, bad


@pytest.mark.parametrize("deed", ENDS)
def test_a_hostile_step_ends_with_a_named_error_and_its_siblings_succeed(deed: str) -> None:
    broker, bad = run_among_siblings(Workflow(outputs=[Hostile()]), deed)
    kind, text = ENDS[deed]
    [step] = broker.get_run(bad).steps.values()
    assert step.state is State.FAILED
    assert step.attempts == 1
    assert isinstance(step.error, kind)
    with pytest.raises(RunFailed) as failure:
        broker.result(bad)
    assert text in str(failure.value)
    assert type(failure.value.__cause__) is type(step.error)


@pytest.mark.parametrize("deed", ENDS)
def test_a_hostile_step_is_retried_in_a_child_that_works(deed: str) -> None:
    workflow = Workflow(outputs=[Hostile(policies=[RetryPolicy(2)])])
    broker, bad = run_among_siblings(workflow, deed, until_attempt=1)
    assert broker.result(bad) == "behaved"
    assert broker.get_run(bad).steps["Hostile"].attempts == 2


@pytest.mark.parametrize("deed", HARMLESS)
def test_a_step_that_spoils_its_pipe_and_returns_has_returned(deed: str) -> None:
    broker, bad = run_among_siblings(Workflow(outputs=[Hostile()]), deed)
    assert broker.result(bad) == HARMLESS[deed]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nothing tells what a descriptor is of")
def test_a_step_finds_no_descriptor_of_the_memory_by_which_its_child_is_heard() -> None:
    """What it writes there could take the place of reports that nobody has read yet."""
    broker, bad = run_among_siblings(Workflow(outputs=[Descriptors()]), "none")
    descriptors = broker.result(bad)
    assert any(name.startswith("pipe:") for name in descriptors)
    assert [name for name in descriptors if "fuseline" in name or "memfd" in name] == []


def test_of_a_fork_that_returns_twice_the_parent_counts() -> None:
    broker, bad = run_among_siblings(Workflow(outputs=[Hostile()]), "forks and both return")
    assert broker.result(bad) == "parent"


@pytest.mark.parametrize("deed", HANGS)
def test_a_step_that_hangs_is_killed_with_all_it_started(deed: str) -> None:
    before = set(psutil.pids())
    workflow = Workflow(outputs=[Hostile(policies=[StepTimeoutPolicy(0.3)])])
    broker, bad = run_among_siblings(workflow, deed)
    [step] = broker.get_run(bad).steps.values()
    assert step.state is State.FAILED
    assert isinstance(step.error, StepTimedOut)
    assert step.error.killed
    assert started_since(before, "3600") == []


def test_a_step_that_always_crashes_ends_after_its_retries() -> None:
    workflow = Workflow(outputs=[Hostile(policies=[RetryPolicy(3)])])
    broker, bad = run_among_siblings(workflow, "SIGKILL")
    [step] = broker.get_run(bad).steps.values()
    assert step.state is State.FAILED
    assert step.attempts == 4


def test_many_hostile_steps_at_once_are_all_contained() -> None:
    hostile = Workflow(outputs=[Hostile()])
    good = Workflow(outputs=[Good()])
    broker = MemoryBroker()
    bad = [broker.dispatch_workflow(hostile.to_schema(), {"deed": deed}) for deed in ENDS]
    fine = broker.dispatch_many(good.to_schema(), [{"value": i} for i in range(SIBLINGS)])
    ProcessEngine(broker, [hostile, good], processes=5).work()
    assert [broker.result(run) for run in fine] == [2 * i for i in range(SIBLINGS)]
    assert {broker.get_run(run).state for run in bad} == {State.FAILED}


assert set(ENDS) | set(HANGS) | set(HARMLESS) | {"forks and both return"} == set(DEEDS)


@pytest.mark.parametrize(
    "report",
    [
        ["AttemptReport", None, "RAISED"],
        ["AttemptReport", None, "TIMED_OUT"],
        ["AttemptReport", None, "LOST", None, [["ValueError"], "x"], None, None, 1.0],
        ["AttemptReport", None, "KILLED", None, [["ValueError"], "x"]],
        ["AttemptReport", None, "RETURNED"],
        ["AttemptReport", None, "RETURNED", {"data": b"N."}, [["ValueError"], "x"]],
        ["AttemptReport", None, "RETURNED", {"data": b"N."}, None, None, None, math.nan],
        ["AttemptReport", None, "RETURNED", {"data": b"N."}, None, None, None, 1e300],
        ["AttemptReport", None, "RAISED", None, [[], "x"], ["FAIL", 0.0], None, 1.0],
    ],
)
def test_a_report_that_a_step_forges_ends_that_step_only(report: list[Any]) -> None:
    forge, good = Forge(report), Good()
    broker = MemoryBroker()
    workflows = [Workflow(outputs=[forge], name="forge"), Workflow(outputs=[good], name="good")]
    [forged] = broker.dispatch_many(workflows[0].to_schema(), [{}])
    runs = broker.dispatch_many(workflows[1].to_schema(), [{"value": i} for i in range(5)])
    ProcessEngine(broker, workflows, processes=2).work()
    assert [broker.result(run) for run in runs] == [2 * i for i in range(5)]
    with pytest.raises(RunFailed) as caught:
        broker.result(forged)
    assert isinstance(caught.value.__cause__, StepCrashed)

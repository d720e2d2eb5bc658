"""LocalBroker: a broker process that programs share, whose runs survive whoever ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

import fuseline.broker
from fuseline import ProcessEngine, RunFailed, Workflow
from fuseline.attempt import build_shared_dict
from fuseline.broker import LocalBroker
from fuseline.errors import (
    BrokerError,
    RunNotFinished,
)
from fuseline.messages import KillNotice, ReportStatus, StepReport
from fuseline.policies import RetryPolicy
from fuseline.states import State
from fuseline.testing import Gate
from fuseline.testing.gate import HANG
from fuseline.wakeup import wait_readable

from .conftest import wait_gone
from .workflows import Double, Fail, Log, adding, starts


def work(broker: LocalBroker, *workflows: Workflow, executor: str = "inline") -> None:
    ProcessEngine(broker, workflows, processes=2, executor=executor).work()


# -- from dispatch to result ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["inline", "loky"])
def test_a_run_goes_from_dispatch_to_result(broker: LocalBroker, executor: str) -> None:
    workflow = adding()
    runs = broker.dispatch_many(workflow.to_schema(), [{"a": i} for i in range(20)])
    assert broker.get_run(runs[0]).state is State.PENDING
    with pytest.raises(RunNotFinished):
        broker.result(runs[0])
    work(broker, workflow, executor=executor)
    assert [broker.result(run) for run in runs] == [2 * (i + 10) for i in range(20)]
    info = broker.get_run(runs[3])
    assert (info.state, info.inputs, info.workflow) == (State.SUCCEEDED, {"a": 3}, "adding")
    assert [step.attempts for step in info.steps.values()] == [1, 1]


def test_workflow_run_takes_it(broker: LocalBroker) -> None:
    assert adding().run({"a": 1}, broker=broker, executor="inline") == 22


def test_failures_retries_and_causes_are_as_with_any_broker(broker: LocalBroker) -> None:
    fail, after = Fail(policies=[RetryPolicy(2)]), Double()
    fail >> after
    workflow = Workflow(outputs=[after], name="failing")
    run = broker.dispatch_workflow(workflow.to_schema())
    work(broker, workflow)
    with pytest.raises(RunFailed) as caught:
        broker.result(run)
    assert isinstance(caught.value.__cause__, KeyError)
    steps = broker.get_run(run).steps
    assert (steps["Fail"].attempts, steps["Fail"].state) == (3, State.FAILED)
    assert (steps["Double"].state, steps["Double"].cause) == (State.CANCELLED, "step 'Fail' failed")


def test_the_printed_loop_of_a_custom_worker_works(broker: LocalBroker) -> None:
    workflow = adding()
    run = broker.dispatch_workflow(workflow.to_schema(), {"a": 1})
    worker_id = broker.register_worker([workflow.to_schema()])
    workflow_step_map = workflow.steps
    while (assignment := broker.get_step(worker_id, timeout=0.2)) is not None:
        step = workflow_step_map[assignment.step_name]
        shared = build_shared_dict(assignment.payload)
        result = workflow._execute_step(step, shared)
        report = StepReport(
            workflow_id=assignment.workflow_id,
            instance_id=assignment.instance_id,
            step_name=assignment.step_name,
            state=step.state,
            result=result,
        )
        assert broker.report_step(worker_id, report).status is ReportStatus.ACCEPTED
        assert broker.report_step(worker_id, report).status is ReportStatus.STALE
    assert broker.result(run) == 22
    broker.unregister_worker(worker_id)


def test_nothing_about_an_assignment_comes_before_it(broker: LocalBroker) -> None:
    workflow = adding()
    worker = broker.register_worker([workflow.to_schema()])
    news = broker.news(worker)
    assert broker.trade(worker, [], 1).assignments == []
    run = broker.dispatch_workflow(workflow.to_schema(), {"a": 1})
    known = broker._workers[worker]
    while not known._assignments:  # it is here
        assert wait_readable([news.fileno()], HANG)
        news.clear()
    assert broker.cancel(run)
    while not known._notices:  # and nobody wants it any more
        assert wait_readable([news.fileno()], HANG)
        news.clear()
    assert broker.keep_alive(worker) == []
    [assignment] = broker.trade(worker, [], 0).assignments
    assert broker.keep_alive(worker) == [KillNotice(assignment.token)]
    assert broker.keep_alive(worker) == []
    broker.unregister_worker(worker)


def test_a_closed_broker_says_so(broker: LocalBroker) -> None:
    broker.close()
    broker.close()
    with pytest.raises(BrokerError, match="is closed"):
        broker.list_runs()


# -- several programs -------------------------------------------------------------------------------------------------


def test_programs_that_name_the_same_store_share_a_broker(store: Path) -> None:
    workflow = adding()
    with LocalBroker(store) as one, LocalBroker(store) as two:
        assert one.pid == two.pid
        run = one.dispatch_workflow(workflow.to_schema(), {"a": 1})
        work(two, workflow)
        assert one.result(run, timeout=HANG) == 22
    wait_gone(one.pid)


def test_a_result_can_be_waited_for_and_events_followed(broker: LocalBroker, store: Path) -> None:
    workflow = adding()
    run = broker.dispatch_workflow(workflow.to_schema(), {"a": 1})
    with broker.events(run) as events:
        thread = threading.Thread(target=work, args=[broker, workflow])
        thread.start()
        assert broker.result(run, timeout=HANG) == 22
        seen = [(event.step_name, event.state.value) for event in events]
        thread.join(HANG)
    assert seen == [
        (None, "RUNNING"),
        ("Add", "RUNNING"),
        ("Add", "SUCCEEDED"),
        ("Double", "READY"),
        ("Double", "RUNNING"),
        ("Double", "SUCCEEDED"),
        (None, "SUCCEEDED"),
    ]
    with broker.events(run) as events:
        assert list(events) == []
    with pytest.raises(RunNotFinished):
        broker.result(broker.dispatch_workflow(workflow.to_schema(), {"a": 1}), timeout=0.01)


def test_the_story_of_a_run_is_kept(store: Path) -> None:
    workflow = adding()
    with LocalBroker(store) as broker:
        run = broker.dispatch_workflow(workflow.to_schema(), {"a": 1})
        work(broker, workflow)
    with LocalBroker(store) as broker:
        story = [(move.step_name, move.state.value) for move in broker.story(run)]
        assert story[0] == ("Add", "READY")
        assert story[-1] == (None, "SUCCEEDED")
        assert len(story) == 8
        assert broker.result(run) == 22


# -- what ends --------------------------------------------------------------------------------------------------------


def test_runs_outlive_the_broker_process(store: Path, tmp_path: Path) -> None:
    workflow = Workflow(outputs=[Log()], name="log")
    inputs = [{"log": str(tmp_path / "log"), "number": i} for i in range(300)]
    with LocalBroker(store) as broker, ProcessEngine(broker, [workflow], processes=2) as engine:
        runs = broker.dispatch_many(workflow.to_schema(), inputs)
        thread = threading.Thread(target=engine.work)
        thread.start()
        for _ in range(3):
            broker.list_runs(state=State.PENDING)  # it is there
            os.kill(broker.pid, signal.SIGKILL)
        thread.join(HANG)
        assert not thread.is_alive()
        assert [broker.result(run) for run in runs] == list(range(300))
    assert Counter(starts(tmp_path / "log")) == dict.fromkeys(map(str, range(300)), 1)


@pytest.mark.parametrize("deaths", [2, 3])
def test_a_broker_that_a_signal_hits_as_it_starts_is_started_again(
    store: Path, monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    environments = [{**os.environ, "FUSELINE_FAULT": "sql:3"}] * deaths
    monkeypatch.setattr(
        "fuseline.broker.process._environment", lambda: environments.pop() if environments else dict(os.environ)
    )
    if deaths < 3:
        LocalBroker(store).close()
    else:
        with pytest.raises(BrokerError, match=f"started 3 times and ended at once each time.*{store.name}"):
            LocalBroker(store)
    assert environments == []


def test_a_broker_without_a_store_ends_with_its_process() -> None:
    with LocalBroker() as broker:
        os.kill(broker.pid, signal.SIGKILL)
        with pytest.raises(BrokerError, match="Give it a path"):
            broker.list_runs()


WORKER = """
    import sys
    from fuseline import ProcessEngine, Step, Workflow
    from fuseline.broker.local import LocalBroker
    from fuseline.testing import Gate

    class Hold(Step):
        def run_step(self, gate):
            gate.enter()
            return "held"

    workflow = Workflow(outputs=[Hold()], name="hold")
    broker = LocalBroker(sys.argv[1])
    if len(sys.argv) > 2:
        gate = Gate.at(sys.argv[2])
        print(broker.dispatch_workflow(workflow.to_schema(), {"gate": gate}), flush=True)
    ProcessEngine(broker, [workflow], processes=1).work()
    broker.close()
"""


def start(tmp_path: Path, *arguments: Any) -> subprocess.Popen[str]:
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    return subprocess.Popen([sys.executable, str(script), *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_the_step_of_a_worker_that_is_killed_goes_to_another(store: Path, tmp_path: Path) -> None:
    with Gate() as gate, LocalBroker(store) as broker:
        with start(tmp_path, store, gate.folder) as first:
            assert first.stdout is not None
            run = first.stdout.readline().strip()
            gate.wait_entered()
            children = psutil.Process(first.pid).children(recursive=True)
            first.kill()
            first.wait()
        with start(tmp_path, store) as second:
            gate.wait_entered()
            assert not any(child.is_running() and child.status() != "zombie" for child in children)
            gate.open()
            assert broker.result(run, timeout=HANG) == "held"
            assert second.wait(HANG) == 0
        [step] = broker.get_run(run).steps.values()
        assert step.attempts == 2


# -- the package ------------------------------------------------------------------------------------------------------


def test_the_package_has_what_it_says_and_nothing_else() -> None:
    assert set(fuseline.broker.__all__) <= set(dir(fuseline.broker))
    assert fuseline.broker.LocalBroker is LocalBroker
    with pytest.raises(AttributeError, match="has no attribute 'RemoteBroker'"):
        fuseline.broker.RemoteBroker  # noqa: B018

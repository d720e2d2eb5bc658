"""A step over its memory limit, and a run over its time: both end with their own error, and others do not notice."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from fuseline import Broker, LocalBroker, MemoryBroker, ProcessEngine, RunFailed, State, Workflow
from fuseline.errors import RunTimedOut, StepOutOfMemory, WorkflowError
from fuseline.policies import MemoryLimitPolicy, RetryPolicy, StepTimeoutPolicy, WorkflowTimeoutPolicy
from fuseline.processes import memory
from fuseline.testing import Gate
from fuseline.testing.contract import is_running
from fuseline.testing.gate import HANG
from fuseline.testing.steps import Raise

sys.path.insert(0, str(Path(__file__).parent))  # children get the path too, so that they can import the steps

from hostile import Good
from started import started_since
from takers import MB, Held, Scores, Stuck, Take, Use

LIMIT = 250 * MB
#: A step that nothing has ended by then is ended by this: a net.
NET = StepTimeoutPolicy(HANG)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture(params=["memory", "local"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    if request.param == "memory":
        yield MemoryBroker()
        return
    with LocalBroker(tmp_path / "runs.db") as broker:
        yield broker
        pid = broker.pid
    wait_gone(pid)


def wait_gone(pid: int) -> None:
    try:
        psutil.Process(pid).wait(HANG)
    except psutil.NoSuchProcess:
        pass


# -- memory -----------------------------------------------------------------------------------------------------------


WAYS = [
    "slowly",
    pytest.param("at once", marks=linux_only),
    "in a grandchild",
    "in a grandchild of another session",
]


def run_among_siblings(broker: Broker, hostile: Workflow, **inputs: object) -> str:
    """Return the run of ``hostile``, which has ended; others beside it have succeeded."""
    good = Workflow(outputs=[Good()])
    before = broker.dispatch_many(good.to_schema(), [{"value": i} for i in range(10)])
    bad = broker.dispatch_workflow(hostile.to_schema(), inputs)
    after = broker.dispatch_many(good.to_schema(), [{"value": i} for i in range(10)])
    ProcessEngine(broker, [good, hostile], processes=2).work()
    assert [broker.result(run) for run in before + after] == [2 * i for i in range(10)] * 2
    return bad


@pytest.mark.parametrize("how", WAYS)
def test_a_step_over_its_limit_is_ended_with_all_it_started_and_its_siblings_succeed(broker: Broker, how: str) -> None:
    before = set(psutil.pids())
    workflow = Workflow(outputs=[Take(policies=[MemoryLimitPolicy(LIMIT), NET])])
    bad = run_among_siblings(broker, workflow, how=how)
    with pytest.raises(RunFailed) as caught:
        broker.result(bad)
    error = caught.value.__cause__
    assert isinstance(error, StepOutOfMemory)
    assert (error.limit, error.instance_id, error.attempt) == (LIMIT, bad, 1)
    assert error.used > (0 if how == "at once" else LIMIT)
    assert started_since(before, "3600") == []


@pytest.mark.parametrize("how", WAYS)
def test_a_step_over_its_limit_is_retried_like_any_failure(how: str) -> None:
    policies = [MemoryLimitPolicy(LIMIT), RetryPolicy(1, retry_on=MemoryError), NET]
    broker = MemoryBroker()
    bad = run_among_siblings(broker, Workflow(outputs=[Take(policies=policies)]), how=how, until_attempt=1)
    assert broker.result(bad)
    assert broker.get_run(bad).steps["Take"].attempts == 2


def test_a_step_under_its_limit_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, file = str(tmp_path / "go"), str(tmp_path / "file")
    os.mkfifo(go)
    with open(file, "wb") as sparse:
        sparse.truncate(8 * 2**30)  # of which it maps all, and needs a page
    looks: list[int] = []

    def look(leader: int) -> int:
        looks.append(before(leader))
        if len(looks) == 3:
            os.close(os.open(go, os.O_WRONLY))
        return looks[-1]

    before = memory.tree_memory
    monkeypatch.setattr(memory, "tree_memory", look)
    workflow = Workflow(outputs=[Use(policies=[MemoryLimitPolicy(LIMIT), NET])])
    assert workflow.run({"go": go, "file": file}, processes=1) == 51
    assert all(0 < used < LIMIT for used in looks)


def test_nobody_looks_at_a_step_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(leader: int) -> int:
        raise AssertionError("a look")

    monkeypatch.setattr(memory, "tree_memory", look)
    with Gate() as gate:
        opener = threading.Thread(target=lambda: (gate.wait_entered(), gate.open()))
        opener.start()
        assert Workflow(outputs=[Held(policies=[NET])]).run({"gate": gate}, processes=1) == "let go"
        opener.join()


@linux_only
def test_children_and_what_they_start_go_before_their_program_if_the_machine_has_no_memory_left() -> None:
    def score(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    child, grandchild = Workflow(outputs=[Scores()]).run(processes=1)
    assert child == grandchild == min(1000, score("self") + 500)


# -- time -------------------------------------------------------------------------------------------------------------


#: Seconds that a run may take: a child that has started begins its step long before.
TIME = 4.0


@contextmanager
def at_work(broker: Broker, workflow: Workflow, executor: str = "loky") -> Iterator[None]:
    """Let an engine work, in a child that has started; at the end, all that runs has ended."""
    good = Workflow(outputs=[Good()], name="good")
    engine = ProcessEngine(broker, [workflow, good], processes=1, executor=executor)
    thread = threading.Thread(target=engine.work, kwargs={"block": True})
    thread.start()
    try:
        assert broker.result(broker.dispatch_workflow(good.to_schema(), {"value": 1}), timeout=HANG) == 2
        yield
    finally:
        engine.stop()
        thread.join(HANG)
    assert not thread.is_alive()


def assert_timed_out(broker: Broker, run: str) -> dict[str, State]:
    """Check that a run has had its time; return how its steps ended."""
    with pytest.raises(RunTimedOut, match="Raise its WorkflowTimeoutPolicy") as caught:
        broker.result(run, timeout=HANG)
    assert isinstance(caught.value, RunFailed)
    assert isinstance(caught.value, TimeoutError)
    info = broker.get_run(run)
    assert info.state is State.FAILED
    causes = {step.cause for step in info.steps.values() if step.state is State.CANCELLED}
    assert len(causes) == 1
    assert "WorkflowTimeoutPolicy" in causes.pop()
    return {name: step.state for name, step in info.steps.items()}


def test_a_run_with_a_stuck_step_ends_and_leaves_no_process(broker: Broker, gate: Gate) -> None:
    stuck, after = Stuck(policies=[NET]), Good()
    stuck >> after
    workflow = Workflow(outputs=[after], policies=[WorkflowTimeoutPolicy(TIME)])
    with at_work(broker, workflow):
        run = broker.dispatch_workflow(workflow.to_schema(), {"gate": gate})
        pids = gate.wait_entered().split()
        gate.open()
        assert assert_timed_out(broker, run) == {"Stuck": State.CANCELLED, "Good": State.CANCELLED}
    assert not [pid for pid in map(int, pids) if is_running(pid)]


def test_a_run_whose_retry_waits_ends(broker: Broker) -> None:
    failing = Raise(policies=[RetryPolicy(3, wait=3600.0)])
    workflow = Workflow(outputs=[failing], policies=[WorkflowTimeoutPolicy(0.5)])
    run = broker.dispatch_workflow(workflow.to_schema(), {})
    ProcessEngine(broker, [workflow], processes=1).work()
    assert assert_timed_out(broker, run) == {"Raise": State.CANCELLED}
    assert broker.get_run(run).steps["Raise"].attempts == 1


def test_a_run_whose_steps_are_queued_behind_a_stuck_one_ends(broker: Broker, gate: Gate) -> None:
    steps = [Stuck(policies=[NET]), *(Good(name=f"queued-{i}") for i in range(20))]
    workflow = Workflow(outputs=steps, policies=[WorkflowTimeoutPolicy(TIME)])
    with at_work(broker, workflow):
        run = broker.dispatch_workflow(workflow.to_schema(), {"gate": gate, "value": 1})
        gate.wait_entered()
        gate.open()
        assert assert_timed_out(broker, run) == dict.fromkeys(workflow.steps, State.CANCELLED)


def test_runs_in_the_queue_have_their_time_before_them(broker: Broker) -> None:
    workflow = Workflow(outputs=[Good()], policies=[WorkflowTimeoutPolicy(HANG)])
    runs = broker.dispatch_many(workflow.to_schema(), [{"value": i} for i in range(50)])
    ProcessEngine(broker, [workflow], processes=2).work()
    assert [broker.result(run) for run in runs] == [2 * i for i in range(50)]


def test_what_cannot_be_killed_ends_by_itself_and_nobody_hears_of_it(broker: Broker, gate: Gate) -> None:
    workflow = Workflow(outputs=[Held()], policies=[WorkflowTimeoutPolicy(1.0)])
    with at_work(broker, workflow, "threads"):
        run = broker.dispatch_workflow(workflow.to_schema(), {"gate": gate})
        gate.wait_entered()
        try:
            assert_timed_out(broker, run)
            if isinstance(broker, LocalBroker):
                with pytest.raises(WorkflowError, match="still runs"):
                    broker.resume(run)
        finally:
            gate.open()
    assert assert_timed_out(broker, run) == {"Held": State.CANCELLED}


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[LocalBroker]:
    with LocalBroker(tmp_path / "runs.db") as broker:
        yield broker
        pid = broker.pid
    wait_gone(pid)


def test_a_run_that_had_its_time_is_resumed_with_a_fresh_one(stored: LocalBroker, gate: Gate) -> None:
    workflow = Workflow(outputs=[Held()], policies=[WorkflowTimeoutPolicy(TIME)])
    with at_work(stored, workflow):
        run = stored.dispatch_workflow(workflow.to_schema(), {"gate": gate})
        assert_timed_out(stored, run)
    with at_work(stored, workflow):
        assert stored.resume(run)
        gate.wait_entered()
        gate.open()
        assert stored.result(run, timeout=HANG) == "let go"
    told = [(move.state, move.cause) for move in stored.story(run) if move.step_name is None]
    assert [state.value for state, _ in told] == ["RUNNING", "FAILED", "RUNNING", "SUCCEEDED"]
    assert "WorkflowTimeoutPolicy(4)" in told[1][1]


def test_the_time_of_a_run_survives_the_death_of_its_broker(stored: LocalBroker, gate: Gate) -> None:
    workflow = Workflow(outputs=[Held()], policies=[WorkflowTimeoutPolicy(TIME)])
    with at_work(stored, workflow):
        run = stored.dispatch_workflow(workflow.to_schema(), {"gate": gate})
        gate.wait_entered()
        os.kill(stored.pid, signal.SIGKILL)
        assert_timed_out(stored, run)
    end = stored.story(run)[-1]
    assert end.state is State.FAILED
    assert "WorkflowTimeoutPolicy(4)" in end.cause

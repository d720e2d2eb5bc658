"""ProcessEngine: lanes, warm pools, retries that wait, stopping, cancelling, and errors where they are written."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fuseline import MemoryBroker, ProcessEngine, RunFailed, State, Step, StepCrashed, Workflow, current_run
from fuseline.broker.base import Traded
from fuseline.errors import (
    NotPicklableError,
    RemoteStepError,
    RunCancelled,
    StepLost,
    UnknownExecutorError,
    UnsupportedPolicyError,
    WorkflowError,
)
from fuseline.executors import InlineExecutor, LokyExecutor
from fuseline.messages import StepReport
from fuseline.policies import RetryPolicy, StepTimeoutPolicy, WorkflowPolicy
from fuseline.testing import Gate
from fuseline.testing.contract import is_running
from fuseline.testing.gate import HANG
from fuseline.testing.steps import Echo, Hold, HoldWithChild, RaiseCannotLoad, StuckInC, WhereAmI

EXECUTORS = ["inline", "threads", "loky"]


class NoteOrder(Step):
    """Appends its label to a file; fails on the first attempt if told to."""

    def run_step(self, path: str, label: str, fails: bool = False) -> str:
        with open(path, "a") as file:
            file.write(f"{label}\n")
        run = current_run()
        if fails and run is not None and run.attempt == 1:
            raise ValueError(label)
        return label


def dispatch(broker: MemoryBroker, workflow: Workflow, **inputs: Any) -> str:
    return broker.dispatch_workflow(workflow.to_schema(), inputs)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_one_call_runs_a_workflow_here(executor: str) -> None:
    one, two = Echo(name="one"), Echo(name="two")
    one >> two
    assert Workflow(outputs=[two]).run({"value": 5}, executor=executor) == 5
    assert Workflow(outputs=[one, two]).run({"value": 6}, executor=executor) == [6, 6]
    assert two.state is State.SUCCEEDED


def test_each_workflow_runs_on_its_own_executor_in_one_engine() -> None:
    workflows = [Workflow(outputs=[WhereAmI()], executor=name, name=name) for name in EXECUTORS]
    workflows.append(Workflow(outputs=[WhereAmI()], name="by default"))
    broker = MemoryBroker()
    runs = {w.name: dispatch(broker, w) for w in workflows}
    ProcessEngine(broker, workflows, processes=1, executor="threads").work()
    where = {name: broker.result(run) for name, run in runs.items()}
    assert where["inline"] == (os.getpid(), threading.current_thread().name)
    assert where["threads"][0] == where["by default"][0] == os.getpid()
    assert where["threads"][1] == where["by default"][1] != threading.current_thread().name
    assert where["loky"][0] != os.getpid()


def test_a_busy_executor_does_not_keep_another_waiting(gate: Gate) -> None:
    slow = Workflow(outputs=[Hold()], executor="loky", name="slow")
    fast = Workflow(outputs=[OpensGate()], executor="threads", name="fast")
    broker = MemoryBroker()
    held = dispatch(broker, slow, gate=gate)
    opened = dispatch(broker, fast, gate=gate)
    ProcessEngine(broker, [slow, fast], processes=1).work()
    assert broker.result(held) == "let go"
    assert broker.result(opened) is None


class OpensGate(Step):
    def run_step(self, gate: Gate) -> None:
        gate.wait_entered()
        gate.open()


def test_children_stay_warm_inside_of_with() -> None:
    workflow = Workflow(outputs=[WhereAmI()])
    broker = MemoryBroker()
    with ProcessEngine(broker, [workflow], processes=1) as engine:
        pids = set()
        for _ in range(3):
            run = dispatch(broker, workflow)
            engine.work()
            pids.add(broker.result(run)[0])
        assert len(pids) == 1
    run = dispatch(broker, workflow)
    engine.work()
    assert broker.result(run)[0] not in pids


def test_warm_children_outlive_the_thread_that_started_them() -> None:
    workflow = Workflow(outputs=[WhereAmI()])
    broker = MemoryBroker()
    natives: list[int] = []

    def work() -> None:
        natives.append(threading.get_native_id())
        engine.work()

    pids = set()
    with ProcessEngine(broker, [workflow], processes=1) as engine:
        for _ in range(2):
            run = dispatch(broker, workflow)
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(HANG)
            while Path(f"/proc/self/task/{natives[-1]}").exists():  # joined, and not yet gone
                pass
            pids.add(broker.result(run)[0])
    assert len(pids) == 1


def test_a_waiting_retry_holds_no_slot(tmp_path: Path) -> None:
    """On one slot, the second run is worked on while the first waits for its retry."""
    workflow = Workflow(outputs=[NoteOrder(policies=[RetryPolicy(1, wait=0.2)])])
    broker = MemoryBroker()
    path = str(tmp_path / "order")
    first = dispatch(broker, workflow, path=path, label="first", fails=True)
    second = dispatch(broker, workflow, path=path, label="second")
    ProcessEngine(broker, [workflow], processes=1).work()
    assert [broker.result(run) for run in (first, second)] == ["first", "second"]
    assert Path(path).read_text().split() == ["first", "second", "first"]


def test_work_serves_until_stopped_when_it_blocks() -> None:
    workflow = Workflow(outputs=[Echo()])
    broker = MemoryBroker()
    engine = ProcessEngine(broker, [workflow], processes=2)
    thread = threading.Thread(target=engine.work, kwargs={"block": True})
    thread.start()
    for value in range(3):
        assert broker.result(dispatch(broker, workflow, value=value), timeout=HANG) == value
    engine.stop()
    thread.join(HANG)
    assert not thread.is_alive()


def test_two_engines_share_a_broker() -> None:
    workflow = Workflow(outputs=[Echo()])
    broker = MemoryBroker()
    runs = [dispatch(broker, workflow, value=i) for i in range(50)]
    engines = [ProcessEngine(broker, [workflow], processes=1) for _ in range(2)]
    threads = [threading.Thread(target=engine.work) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert [broker.result(run) for run in runs] == list(range(50))


def test_an_engine_works_once_at_a_time(gate: Gate) -> None:
    workflow = Workflow(outputs=[Hold()])
    broker = MemoryBroker()
    dispatch(broker, workflow, gate=gate)
    engine = ProcessEngine(broker, [workflow], processes=1)
    thread = threading.Thread(target=engine.work)
    thread.start()
    gate.wait_entered()
    with pytest.raises(RuntimeError, match="working already"):
        engine.work()
    gate.open()
    thread.join(HANG)


# -- cancelling -------------------------------------------------------------------------------------------------------


def test_cancel_kills_what_runs_with_all_it_started(gate: Gate) -> None:
    hold, after = HoldWithChild(), Echo()
    hold >> after
    workflow = Workflow(outputs=[after])
    broker = MemoryBroker()
    run = dispatch(broker, workflow, gate=gate)
    engine = ProcessEngine(broker, [workflow], processes=1)
    thread = threading.Thread(target=engine.work)
    thread.start()
    pids = [int(pid) for pid in gate.wait_entered().split()]
    assert broker.cancel(run)
    with pytest.raises(RunCancelled):
        broker.result(run, timeout=HANG)
    assert not [pid for pid in pids if is_running(pid)]
    thread.join(HANG)
    info = broker.get_run(run)
    assert {name: step.state for name, step in info.steps.items()} == {
        "HoldWithChild": State.CANCELLED,
        "Echo": State.CANCELLED,
    }
    assert not broker.cancel(run)


class CancelsOnTheWay(MemoryBroker):
    """Somebody cancels a run when one of its steps is on its way to its engine."""

    def trade(self, worker_id: str, reports: Sequence[StepReport], room: int) -> Traded:
        traded = super().trade(worker_id, reports, room)
        for assignment in traded.assignments:
            self.cancel(assignment.instance_id)
        return traded


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_is_cancelled_on_its_way_does_not_begin(tmp_path: Path, executor: str) -> None:
    workflow = Workflow(outputs=[NoteOrder()])
    broker = CancelsOnTheWay()
    run = dispatch(broker, workflow, path=str(tmp_path / "began"), label="here")
    ProcessEngine(broker, [workflow], processes=1, executor=executor).work()
    assert broker.get_run(run).state is State.CANCELLED
    assert not (tmp_path / "began").exists()


def test_a_cancelled_task_cancels_its_run(gate: Gate) -> None:
    async def main() -> None:
        task = asyncio.create_task(Workflow(outputs=[HoldWithChild()]).run_async({"gate": gate}, processes=1))
        pids = [int(pid) for pid in (await asyncio.to_thread(gate.wait_entered)).split()]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not [pid for pid in pids if is_running(pid)]

    asyncio.run(main())


def test_run_async_gives_the_result() -> None:
    async def main() -> Any:
        workflow = Workflow(outputs=[Echo()])
        return await asyncio.gather(*(workflow.run_async({"value": i}, processes=1) for i in range(2)))

    assert asyncio.run(main()) == [0, 1]


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_failed_run_raises_with_the_exception_of_its_step_as_the_cause(executor: str) -> None:
    with pytest.raises(RunFailed, match=r"'Divide'.*ZeroDivisionError") as failure:
        Workflow(outputs=[Divide()]).run({"by": 0}, executor=executor)
    assert isinstance(failure.value.__cause__, ZeroDivisionError)
    assert failure.value.step_names == ("Divide",)
    assert "run_step" in str(failure.value.__cause__.__cause__)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_class_of_an_exception_that_cannot_travel_is_named_all_the_same(executor: str) -> None:
    with pytest.raises(RunFailed, match=r"'RaiseCannotLoad': .*CannotLoadError: fit: diverged") as failure:
        Workflow(outputs=[RaiseCannotLoad()]).run(executor=executor)
    assert isinstance(failure.value.__cause__, RemoteStepError)


class Divide(Step):
    def run_step(self, by: int) -> float:
        return 1 / by


def test_a_stuck_step_times_out_on_the_way_of_one_call() -> None:
    with pytest.raises(RunFailed) as failure:
        Workflow(outputs=[StuckInC(policies=[StepTimeoutPolicy(0.2)])]).run(processes=1)
    assert isinstance(failure.value.__cause__, TimeoutError)


def test_a_pool_whose_children_cannot_start_fails_the_run_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # no interpreter starts with it
    with pytest.raises(RunFailed) as failure:
        Workflow(outputs=[Echo()]).run(processes=2)
    assert isinstance(failure.value.__cause__, StepLost)
    assert "no child process starts here" in str(failure.value.__cause__)


def test_code_that_cannot_be_loaded_in_a_child_fails_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here_for_a_moment.py").write_text(
        "from fuseline import Step\nclass Lost(Step):\n    def run_step(self): return 1\n"
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        from only_here_for_a_moment import Lost  # type: ignore[import-not-found]
    with pytest.raises(RunFailed) as failure:
        Workflow(outputs=[Lost()]).run(processes=1)
    assert isinstance(failure.value.__cause__, NotPicklableError)
    assert "only_here_for_a_moment" in str(failure.value.__cause__)


def test_an_import_that_crashes_the_child_fails_the_step_and_does_not_go_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashes_on_import.py").write_text(
        "import multiprocessing, os\n"
        "if multiprocessing.current_process().name == 'fuseline-child':\n    os._exit(7)\n"
        "from fuseline import Step\nclass Never(Step):\n    def run_step(self): return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from crashes_on_import import Never  # type: ignore[import-not-found]

    with pytest.raises(RunFailed) as failure:
        Workflow(outputs=[Never()]).run(processes=1)
    assert isinstance(failure.value.__cause__, StepCrashed)
    assert failure.value.__cause__.exit_code == 7


# -- errors where they are written ------------------------------------------------------------------------------------


class HasLock(Step):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def run_step(self) -> None: ...


def test_a_step_that_cannot_be_pickled_is_refused_by_name_and_attribute() -> None:
    workflow = Workflow(outputs=[HasLock()])
    with pytest.raises(NotPicklableError, match=r"step 'HasLock'.*attribute 'lock' is of type _thread.lock"):
        ProcessEngine(MemoryBroker(), [workflow])
    assert workflow.run(executor="threads") is None


def test_a_closure_that_cannot_be_pickled_is_refused_by_variable() -> None:
    lock = threading.Lock()

    class Closes(Step):
        def run_step(self) -> Any:
            return lock

    with pytest.raises(NotPicklableError, match=r"'Closes'.*closure variable 'lock' of its method 'run_step'"):
        Workflow(outputs=[Closes()]).run()


@pytest.mark.parametrize("processes", [0, -1, 1.5, True, "2"])
def test_an_impossible_number_of_processes_is_refused(processes: Any) -> None:
    workflow = Workflow(outputs=[Echo()])
    with pytest.raises(WorkflowError, match="processes="):
        ProcessEngine(MemoryBroker(), [workflow], processes=processes)
    with pytest.raises(WorkflowError, match="processes="):
        LokyExecutor(processes)
    with pytest.raises(WorkflowError, match="processes="):
        workflow.run(processes=processes)


def test_an_engine_refuses_what_it_cannot_run() -> None:
    one, same = Workflow(outputs=[Echo()], name="same"), Workflow(outputs=[Echo()], name="same")
    with pytest.raises(WorkflowError, match="two workflows have the id 'same'"):
        ProcessEngine(MemoryBroker(), [one, same])
    with pytest.raises(WorkflowError, match="nothing to do"):
        ProcessEngine(MemoryBroker(), [])
    with pytest.raises(WorkflowError, match="instances of Workflow"):
        ProcessEngine(MemoryBroker(), [Echo()])  # type: ignore[list-item]
    with pytest.raises(WorkflowError, match="works for a Broker"):
        ProcessEngine(None, [one])  # type: ignore[arg-type]
    with pytest.raises(UnknownExecutorError, match="known are inline, loky, threads"):
        ProcessEngine(MemoryBroker(), [one], executor="dask")
    strict = Workflow(outputs=[Echo(policies=[StepTimeoutPolicy(1, kill=True)])])
    with pytest.raises(UnsupportedPolicyError, match="'threads' does not"):
        ProcessEngine(MemoryBroker(), [strict], executor="threads")


def test_a_run_with_unknown_or_missing_inputs_is_refused_before_it_starts() -> None:
    workflow = Workflow(outputs=[Divide()])
    with pytest.raises(WorkflowError, match="'Divide' cannot fill the parameter 'by'"):
        workflow.run()
    with pytest.raises(WorkflowError, match="takes the input 'buy'"):
        workflow.run({"by": 1, "buy": 2})
    with pytest.raises(NotPicklableError, match="the input 'by'"):
        workflow.run({"by": threading.Lock()})


# -- stopping, closing, and hooks that cannot be served ---------------------------------------------------------------


def test_stop_before_work_makes_it_return_at_once() -> None:
    workflow = Workflow(outputs=[Echo()])
    broker = MemoryBroker()
    engine = ProcessEngine(broker, [workflow], executor="inline")
    run = dispatch(broker, workflow, value=1)
    engine.stop()
    engine.work(block=True)
    assert broker.get_run(run).state is State.PENDING
    engine.work()
    assert broker.result(run) == 1


def test_draining_gives_back_what_was_not_begun(tmp_path: Path, gate: Gate) -> None:
    quick, hold = NoteOrder(), Hold()
    notes, held = Workflow(outputs=[quick], name="notes"), Workflow(outputs=[hold], name="held")
    broker = MemoryBroker()
    path = str(tmp_path / "log")
    with ProcessEngine(broker, [notes, held], processes=1) as engine:
        for _ in range(20):
            dispatch(broker, notes, path=path, label="warm")
        engine.work()
        first = dispatch(broker, held, gate=gate)
        behind = [dispatch(broker, notes, path=path, label="behind") for _ in range(40)]
        worker = threading.Thread(target=engine.work)
        worker.start()
        gate.wait_entered()
        engine.stop()
        give_up = time.monotonic() + HANG
        while any(info.steps["NoteOrder"].state is State.RUNNING for info in map(broker.get_run, behind)):
            assert time.monotonic() < give_up
        gate.open()
        worker.join(HANG)
        assert not worker.is_alive()
        assert broker.result(first) == "let go"
        assert "behind" not in Path(path).read_text()
        assert {broker.get_run(run).state for run in behind} <= {State.PENDING, State.RUNNING}
        engine.work()
    assert [broker.result(run) for run in behind] == ["behind"] * 40
    assert Path(path).read_text().count("behind") == 40


def test_a_retry_that_is_due_does_not_wake_an_engine_that_has_no_room() -> None:
    class Sized(InlineExecutor):
        room = 1

        def free_slots(self) -> int:
            return self.room

    workflow = Workflow(outputs=[Divide(policies=[RetryPolicy(1, wait=0.0)])])
    broker, executor = MemoryBroker(), Sized()
    [lane] = (engine := ProcessEngine(broker, [workflow], executor=executor))._lanes
    dispatch(broker, workflow, by=0)
    lane.worker_id = broker.register_worker([workflow.to_schema()])
    lane.start()
    [assignment] = broker.get_steps(lane.worker_id, 1)
    report = StepReport(
        workflow_id=assignment.workflow_id,
        instance_id=assignment.instance_id,
        step_name=assignment.step_name,
        state=State.FAILED,
        token=assignment.token,
    )
    assert broker.report_step(lane.worker_id, report).step_state is State.RETRYING
    assert engine._patience(drains=False) == 0.0
    assert engine._patience(drains=True) is None
    executor.room = 0
    assert engine._patience(drains=False) is None
    engine.close()


def test_a_close_that_was_interrupted_can_be_repeated() -> None:
    class Interrupted(LokyExecutor):
        interrupts = 1

        def close(self) -> None:
            if self.interrupts:
                self.interrupts -= 1
                raise KeyboardInterrupt
            super().close()

    workflow = Workflow(outputs=[Echo()])
    broker = MemoryBroker()
    engine = ProcessEngine(broker, [workflow], executor=Interrupted(1))
    run = dispatch(broker, workflow, value=1)
    with pytest.raises(KeyboardInterrupt):
        engine.work()
    engine.close()
    assert broker.result(run) == 1
    again = dispatch(broker, workflow, value=2)
    engine.work()
    assert broker.result(again) == 2


class LoadsOnlyInChildren:
    def __init__(self, program: int) -> None:
        self.program = program

    def __reduce__(self) -> Any:
        return _load_unless_in, (self.program,)


def _load_unless_in(program: int) -> LoadsOnlyInChildren:
    if os.getpid() == program:
        raise RuntimeError("not here")
    return LoadsOnlyInChildren(program)


class MakeOne(Step):
    def run_step(self, program: int) -> LoadsOnlyInChildren:
        return LoadsOnlyInChildren(program)


class Results(WorkflowPolicy):
    def __init__(self) -> None:
        self.results: list[object] = []

    def on_step_success(self, step: Step, result: object) -> None:
        self.results.append(result)


def test_a_result_that_does_not_load_here_is_no_trouble_for_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    observer = Results()
    make, use = MakeOne(name="make"), Echo(name="use")
    workflow = Workflow(outputs=[make, use], policies=[observer])
    broker = MemoryBroker()
    run = dispatch(broker, workflow, program=os.getpid(), value=3)
    ProcessEngine(broker, [workflow], processes=1).work()
    assert broker.get_run(run).state is State.SUCCEEDED
    assert observer.results == [3]
    assert "the result of step 'make' cannot be loaded here" in caplog.text


def test_an_error_of_a_hundred_megabytes_is_still_that_error() -> None:
    with pytest.raises(RunFailed) as failure:
        Workflow(outputs=[RaiseMuch()]).run(processes=1)
    assert isinstance(failure.value.__cause__, ValueError)
    assert len(str(failure.value.__cause__)) == 100_000_000


class RaiseMuch(Step):
    def run_step(self) -> None:
        raise ValueError("x" * 100_000_000)

"""Clocks that jump and processes that stand still: nothing expires because of it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fuseline import ProcessEngine, State, Workflow
from fuseline.broker import LocalBroker
from fuseline.broker.base import encode_inputs
from fuseline.broker.door import Door, knock
from fuseline.broker.link import ServerLink
from fuseline.broker.server import Server
from fuseline.broker.store import Store
from fuseline.broker.wire import FROM_BROKER, Hello, Welcome
from fuseline.channel import Channel
from fuseline.messages import StepReport
from fuseline.policies import RetryPolicy, StepTimeoutPolicy
from fuseline.testing import Gate
from fuseline.testing.gate import HANG

from ..broker.conftest import wait_gone
from ..broker.workflows import FailUnless, Hold, adding
from ..engine.programs import Program
from .housings import KINDS, open_broker

YEAR = 366 * 86400.0


@contextmanager
def wall_clock_moved(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Iterator[None]:
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + seconds)
        yield


@contextmanager
def at_work(engine: ProcessEngine) -> Iterator[None]:
    """Have an engine work in a thread until nothing is left to do."""
    thread = threading.Thread(target=engine.work)
    thread.start()
    try:
        yield
    finally:
        thread.join(HANG)
        assert not thread.is_alive()


@pytest.mark.parametrize("seconds", [YEAR, -YEAR], ids=["forward", "back"])
@pytest.mark.parametrize("executor", ["loky", "threads"])
def test_a_year_on_the_wall_clock_ends_no_step_and_no_wait(
    tmp_path: Path, gate: Gate, executor: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = Hold(policies=[StepTimeoutPolicy(HANG), RetryPolicy(1, wait=HANG)])
    workflow = Workflow(outputs=[hold], name="hold")
    with open_broker("memory", tmp_path) as broker:
        run = broker.dispatch_workflow(workflow.to_schema(), {"gate": gate})
        with at_work(ProcessEngine(broker, [workflow], processes=1, executor=executor)):
            gate.wait_entered()
            with wall_clock_moved(monkeypatch, seconds):
                again = broker.dispatch_workflow(workflow.to_schema(), {"gate": gate})  # wakes the engine
                gate.open()
                gate.wait_entered()
            gate.open()
        for each in (run, again):
            assert broker.result(each) == "held"
            assert broker.get_run(each).steps["Hold"].attempts == 1


@pytest.mark.parametrize("seconds", [YEAR, -YEAR], ids=["forward", "back"])
def test_a_retry_waits_as_long_as_it_should_whatever_the_wall_clock_does(
    tmp_path: Path, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = Workflow(outputs=[FailUnless(policies=[RetryPolicy(1, wait=3600.0)])], name="waiting")
    with serving(tmp_path) as server:
        housing = server._housing
        schema = workflow.to_schema()
        housing.dispatch(schema, "r", encode_inputs({"path": str(tmp_path / "nowhere"), "x": 1}))
        housing.register("w.1", [schema], [])
        [first] = housing.get_steps("w.1", 1)
        report = StepReport(
            workflow_id=schema.workflow_id,
            instance_id="r",
            step_name="FailUnless",
            state=State.FAILED,
            token=first.token,
        )
        housing.report("w.1", report)
        with wall_clock_moved(monkeypatch, seconds):
            housing.on_time(time.monotonic())
            assert housing.get_steps("w.1", 1) == []
            late = time.monotonic() + 3601.0
            monkeypatch.setattr(time, "monotonic", lambda: late)
            housing.on_time(late)
            [second] = housing.get_steps("w.1", 1)
            monkeypatch.undo()
        assert second.attempt == 2


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server that a test turns by hand."""
    store = Store(folder / "runs.db")
    door = Door(folder / "door")
    server = Server(store, door, stays=True)
    try:
        yield server
    finally:
        for link in list(server._links):
            server._drop(link)
        server._selector.close()
        server._wakeup.close()
        door.close()
        store.close()


def test_a_broker_that_stood_still_reads_what_came_meanwhile_before_it_judges(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        connection, key = knock(tmp_path / "door")
        silent, other = socket.socketpair()
        with connection, silent:
            channel: Channel[Any, Any] = Channel(connection.fileno(), FROM_BROKER)
            accepted = server._door.accept()
            assert accepted is not None
            long_ago = time.monotonic() - 3600.0
            for link in (ServerLink(accepted, long_ago), ServerLink(other, long_ago)):
                server._add(link)
            channel.send(Hello(key))  # in time, for all that the program knows
            server._turn()
            [welcome] = channel.receive()
            assert isinstance(welcome, Welcome)
            assert silent.recv(1) == b""  # who has said nothing in that hour is not waited for
            assert len(server._links) == 1


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_broker_that_is_stopped_for_a_while_loses_no_step_and_starts_none_twice(
    tmp_path: Path, gate: Gate, kind: str
) -> None:
    hold = Workflow(outputs=[Hold(policies=[StepTimeoutPolicy(HANG)])], name="hold")
    with open_broker(kind, tmp_path) as broker:
        assert isinstance(broker, LocalBroker)
        run = broker.dispatch_workflow(hold.to_schema(), {"gate": gate})
        others = broker.dispatch_many(adding().to_schema(), [{"a": i} for i in range(20)])
        with at_work(ProcessEngine(broker, [hold, adding()], processes=2)):
            gate.wait_entered()
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                gate.open()  # its report has to wait
            finally:
                os.kill(broker.pid, signal.SIGCONT)
        assert broker.result(run) == "held"
        assert [broker.result(other) for other in others] == [2 * (i + 10) for i in range(20)]
        attempts = {step.attempts for each in (run, *others) for step in broker.get_run(each).steps.values()}
        assert attempts == {1}


def test_a_program_that_is_stopped_for_a_while_keeps_its_steps(tmp_path: Path, gate: Gate) -> None:
    """Nobody is declared dead because he is slow: only the end of all his processes counts."""
    source = """
        import sys
        from fuseline import ProcessEngine, Workflow
        from fuseline.broker import LocalBroker
        sys.path.insert(0, sys.argv[2])
        from workflows import Hold
        with LocalBroker(sys.argv[1]) as broker:
            ProcessEngine(broker, [Workflow(outputs=[Hold()], name="hold")], processes=1).work()
    """
    workflow = Workflow(outputs=[Hold()], name="hold")
    with LocalBroker(tmp_path / "runs.db") as broker:
        run = broker.dispatch_workflow(workflow.to_schema(), {"gate": gate})
        folder = str(Path(__file__).parents[1] / "broker")
        with Program(tmp_path, source, str(tmp_path / "runs.db"), folder) as program:
            gate.wait_entered()
            program.signal(signal.SIGSTOP)
            os.kill(broker.pid, signal.SIGKILL)  # the next one does not hear of the worker, and must not judge it
            wait_gone(broker.pid)
            rival = broker.register_worker([workflow.to_schema()])
            assert broker.get_step(rival, timeout=0.5) is None  # several looks at who is missing
            assert [worker.is_missing for worker in broker.status().workers if worker.worker_id != rival] in (
                [],
                [True],
            )
            program.signal(signal.SIGCONT)
            gate.open()
            assert broker.result(run, timeout=HANG) == "held"
            assert program.end()[0] == 0
        assert broker.get_run(run).steps["Hold"].attempts == 1
        broker.unregister_worker(rival)
    wait_gone(broker.pid)

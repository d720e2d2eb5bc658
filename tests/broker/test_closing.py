"""A broker that is closed while an engine works with it: the engine ends with what it runs, and the run goes on."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from fuseline import ProcessEngine, Workflow
from fuseline.broker import LocalBroker
from fuseline.broker.link import ClientLink
from fuseline.broker.process import BrokerProcess
from fuseline.errors import BrokerError
from fuseline.presence import is_gone
from fuseline.states import State
from fuseline.testing import Gate
from fuseline.testing.contract import is_running
from fuseline.testing.gate import HANG

from .conftest import wait_gone
from .test_engines import at_work
from .workflows import Hold, adding

HOLD = Workflow(outputs=[Hold()], name="hold")


class Work:
    """An engine that works in a thread, and the broker that is closed under it."""

    def __init__(self, store: Path, gate: Gate) -> None:
        self.errors: list[BrokerError] = []
        self.broker = LocalBroker(store)
        self.presence = self.broker.workplace.presence
        self.run = self.broker.dispatch_workflow(HOLD.to_schema(), {"gate": gate})
        self._gate = gate
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        gate.wait_entered()
        self.broker.close()

    def _work(self) -> None:
        try:
            ProcessEngine(self.broker, [HOLD], processes=1).work()
        except BrokerError as error:
            self.errors.append(error)

    def ends(self) -> bool:
        """Wait for the engine, which must not wait for the step."""
        self._thread.join(HANG)
        if has_ended := not self._thread.is_alive():
            return has_ended
        self._gate.open()
        self._thread.join(HANG)
        return False


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "others stay"])
def test_an_engine_ends_whoever_else_uses_the_broker(store: Path, gate: Gate, others: int) -> None:
    with ExitStack() as stack:
        for _ in range(others):
            stack.enter_context(LocalBroker(store))
        work = Work(store, gate)
        assert work.ends()
        [error] = work.errors
        assert "LocalBroker is closed" in str(error)
    wait_gone(work.broker.pid)


def test_what_an_engine_had_is_given_away_when_it_has_ended_though_its_program_goes_on(store: Path, gate: Gate) -> None:
    work = Work(store, gate)
    assert work.ends()
    assert is_gone(work.presence)
    with LocalBroker(store) as broker:
        with at_work(ProcessEngine(broker, [HOLD], processes=1, executor="inline")):
            gate.wait_entered()
            gate.open()
        assert broker.result(work.run) == "held"
        assert broker.get_run(work.run).steps["Hold"].attempts == 2
    wait_gone(broker.pid)


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "others stay"])
def test_an_engine_that_waits_for_work_ends(store: Path, others: int) -> None:
    with ExitStack() as stack:
        for _ in range(others):
            stack.enter_context(LocalBroker(store))
        broker = LocalBroker(store)
        errors: list[BrokerError] = []
        waits = threading.Event()

        class Engine(ProcessEngine):
            def _patience(self, drains: bool) -> float | None:
                waits.set()
                return super()._patience(drains)

        def work() -> None:
            try:
                Engine(broker, [HOLD], processes=1).work(block=True)
            except BrokerError as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert waits.wait(HANG)
        broker.close()
        thread.join(HANG)
        [error] = errors
        assert "LocalBroker is closed" in str(error)
    wait_gone(broker.pid)


def test_who_waits_for_a_step_or_a_result_or_events_hears_of_the_end(store: Path) -> None:
    broker = LocalBroker(store)
    run = broker.dispatch_workflow(HOLD.to_schema(), {"gate": None})
    worker_id = broker.register_worker([adding().to_schema()])
    follower = broker.events()
    ends: list[str] = []

    def ask(question: Callable[[], object]) -> None:
        try:
            question()
            ends.append("nothing more")
        except BrokerError as error:
            ends.append(str(error))

    questions: list[Callable[[], object]] = [
        lambda: broker.get_step(worker_id, None),
        lambda: broker.result(run, timeout=None),
        lambda: list(follower),
    ]
    threads = [threading.Thread(target=ask, args=[question]) for question in questions]
    for thread in threads:
        thread.start()
    while len(broker._streams) < 2:  # both are followed; get_step asks again and again
        os.sched_yield()
    broker.close()
    for thread in threads:
        thread.join(HANG)
    closed = "this LocalBroker is closed. Make another one."
    assert sorted(ends) == ["nothing more", closed, closed]
    wait_gone(broker.pid)


def test_what_comes_while_a_worker_says_goodbye_is_not_begun(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = adding().to_schema()
    with LocalBroker(store) as other:
        broker = LocalBroker(store)
        worker_id = broker.register_worker([schema])
        broker.news(worker_id)  # as an engine does
        broker.trade(worker_id, [], 1)
        worker = broker._workers[worker_id]
        real = worker._say_goodbye

        def say_goodbye() -> None:
            run = other.dispatch_workflow(schema, {"a": 1})
            while other.get_run(run).steps["Add"].state is not State.RUNNING:  # it is on its way to us
                os.sched_yield()
            real()

        monkeypatch.setattr(worker, "_say_goodbye", say_goodbye)
        broker.close()
        with pytest.raises(BrokerError, match="closed"):
            broker.trade(worker_id, [], 1)
        broker.unregister_worker(worker_id)
        second = other.register_worker([schema])
        step = other.get_step(second, HANG)
        assert step is not None
        assert step.attempt == 1
        other.unregister_worker(second)
    wait_gone(other.pid)


PROGRAM = """
    import sys, threading
    from fuseline import ProcessEngine, Workflow
    from fuseline.broker import LocalBroker, local
    from fuseline.broker.process import BrokerProcess
    from fuseline.errors import BrokerError
    sys.path.insert(0, sys.argv[2])
    from workflows import Hold

    closed = threading.Event()

    class Patient(BrokerProcess):
        '''Looks for another link when it is closed altogether, and not before.'''

        def link(self, on_push):
            if self.is_closed:
                closed.wait()
            return super().link(on_push)

    def work():
        try:
            engine.work()
        except BrokerError as error:
            print(error)

    local.BrokerProcess = Patient
    broker = LocalBroker(sys.argv[1])
    engine = ProcessEngine(broker, [Workflow(outputs=[Hold()], name="hold")], processes=1)
    thread = threading.Thread(target=work)
    thread.start()
    sys.stdin.readline()
    broker.close()
    closed.set()
    thread.join()
    sys.stdin.read()
"""


def test_an_engine_ends_with_its_children_and_the_next_program_finishes_the_run(store: Path, gate: Gate) -> None:
    with LocalBroker(store) as broker:
        run = broker.dispatch_workflow(HOLD.to_schema(), {"gate": gate})
    wait_gone(broker.pid)
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(store), str(Path(__file__).parent)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as program, ExitStack() as stack:
        stack.callback(program.kill)
        assert program.stdin is not None
        assert program.stdout is not None
        gate.wait_entered()
        children = [each.pid for each in psutil.Process(program.pid).children() if not is_tracker(each)]
        assert len(children) == 2  # one that runs the step, and the guardian
        program.stdin.write("close it\n")
        program.stdin.flush()
        assert select.select([program.stdout], [], [], HANG)[0]
        assert "LocalBroker is closed" in program.stdout.readline()
        assert not any(map(is_running, children))  # though the program is there still
        assert program.communicate(timeout=HANG)[0] == ""
        assert program.returncode == 0
    with LocalBroker(store) as broker:
        with at_work(ProcessEngine(broker, [HOLD], processes=1, executor="inline")):
            gate.wait_entered()
            gate.open()
        assert broker.result(run) == "held"
        assert broker.get_run(run).steps["Hold"].attempts == 2
    wait_gone(broker.pid)


def is_tracker(process: psutil.Process) -> bool:
    """Return whether it is a helper that stays as long as its program."""
    return "resource_tracker" in " ".join(process.cmdline())


def test_a_handler_that_closes_a_broker_while_it_is_started_again_leaves_no_process(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = LocalBroker(store)
    start = BrokerProcess._start

    def start_and_close(process: BrokerProcess) -> ClientLink:
        link = start(process)
        broker.close()  # as a handler of a signal would, in this very thread
        return link

    monkeypatch.setattr(BrokerProcess, "_start", start_and_close)
    os.kill(broker.pid, signal.SIGKILL)
    wait_gone(broker.pid)
    with pytest.raises(BrokerError, match="is closed"):
        broker.list_runs()
    wait_gone(broker.pid)

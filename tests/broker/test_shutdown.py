"""Each rung of the ladder leaves a store that can be gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import psutil
import pytest

from fuseline import ProcessEngine, State, Workflow
from fuseline.broker import LocalBroker
from fuseline.testing import Gate
from fuseline.testing.gate import HANG

from .conftest import wait_gone
from .workflows import Hold

pytestmark = pytest.mark.usefixtures("checked")

PROGRAM = """
    import sys
    from fuseline import ProcessEngine, Workflow
    from fuseline.broker import LocalBroker
    sys.path.insert(0, sys.argv[2])
    from workflows import Hold

    with LocalBroker(sys.argv[1]) as broker:
        ProcessEngine(broker, [Workflow(outputs=[Hold()], name="hold")], processes=1).work()
"""


@pytest.mark.parametrize(
    ("number", "times", "code", "attempts"),
    [
        (signal.SIGINT, 1, 130, 1),  # what runs is finished
        (signal.SIGINT, 2, 130, 2),  # it is killed, and starts again
        (signal.SIGINT, 3, 130, 2),
        (signal.SIGTERM, 1, 143, 1),
        (signal.SIGTERM, 2, 143, 2),
        (signal.SIGTERM, 3, 143, 2),
        (signal.SIGKILL, 1, -9, 2),
    ],
)
def test_the_rest_is_done_by_the_next_program(
    store: Path, number: signal.Signals, times: int, code: int, attempts: int
) -> None:
    workflow = Workflow(outputs=[Hold()], name="hold")
    with Gate() as gate, Gate() as other, LocalBroker(store) as broker:
        running, waiting = broker.dispatch_many(workflow.to_schema(), [{"gate": gate}, {"gate": other}])
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(store), str(Path(__file__).parent)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as program:
            assert program.stderr is not None
            gate.wait_entered()
            children = psutil.Process(program.pid).children(recursive=True)
            os.kill(program.pid, number)
            if number is not signal.SIGKILL:
                assert b"stopping" in program.stderr.readline()
            if attempts == 1:
                gate.open()
            for _ in range(times - 1):
                os.kill(program.pid, number)
            program.stderr.read()  # to its end, so that it never waits for us
            assert program.wait(HANG) in (code, -number)
        for child in children:
            wait_gone(child.pid)
        engine = ProcessEngine(broker, [workflow], processes=1)
        thread = threading.Thread(target=engine.work)
        thread.start()
        if attempts == 2:
            gate.wait_entered()
            gate.open()
        other.wait_entered()
        other.open()
        thread.join(HANG)
        assert not thread.is_alive()
        assert [broker.result(run) for run in (running, waiting)] == ["held", "held"]
        assert broker.get_run(running).steps["Hold"].attempts == attempts
        assert broker.get_run(waiting).steps["Hold"].attempts == 1
        assert broker.get_run(running).state is State.SUCCEEDED
    wait_gone(broker.pid)

"""The program that works, its broker, or both get SIGKILL: none of their children is left, whatever it was doing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from fuseline.testing import Gate

sys.path.insert(0, str(Path(__file__).parent))  # programs get it as an argument

from arena import wait_for_end

PROGRAM = """
    import sys
    sys.path.insert(0, sys.argv[4])
    from fuseline import MemoryBroker, ProcessEngine, Workflow
    from fuseline.broker import LocalBroker
    from fuseline.testing import Gate
    from stuck import Stuck

    gate, how, kind = Gate.at(sys.argv[1]), *sys.argv[2:4]
    workflow = Workflow(outputs=[Stuck()])
    broker = LocalBroker() if kind == "local" else MemoryBroker()
    engine = ProcessEngine(broker, [workflow], processes=2)
    runs = [broker.dispatch_workflow(workflow.to_schema(), {"gate": gate, "how": how}) for _ in range(2)]
    print(getattr(broker, "pid", 0), flush=True)
    engine.work(block=True)
"""


@pytest.mark.parametrize("how", ["idle", "busy", "stuck"])
@pytest.mark.parametrize("dies", ["program", "program with a broker process", "program and broker"])
def test_nothing_is_left(dies: str, how: str, gate: Gate) -> None:
    kind = "memory" if dies == "program" else "local"
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), gate.folder, how, kind, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program, contextlib.ExitStack() as net:
        net.callback(program.kill)  # or a test that fails would wait for it
        assert program.stdout is not None
        broker = int(program.stdout.readline())
        helpers = [int(gate.wait_entered()) for _ in range(2)]
        for _ in helpers:
            gate.open()
        started = [process.pid for process in psutil.Process(program.pid).children(recursive=True)]
        assert len(started) >= 3  # two children, a guardian
        program.kill()
        if dies == "program and broker":
            os.kill(broker, signal.SIGKILL)
        for pid in {*started, *helpers, broker} - {0}:
            wait_for_end(pid)

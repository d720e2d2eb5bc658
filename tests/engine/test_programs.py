"""Whole programs: without a guard, ended by signals, killed, and how they exit."""

from __future__ import annotations

import signal
import sys
import textwrap
from pathlib import Path

import pytest

from fuseline.testing import Gate

sys.path.insert(0, str(Path(__file__).parent))

from programs import Program, wait_gone

HOLDING = """
    import subprocess, sys, time
    from fuseline import MemoryBroker, ProcessEngine, Step, Workflow
    from fuseline.testing import Gate

    class Hold(Step):
        def run_step(self, gate):
            process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
            gate.enter()
            {after}
            process.kill()
            process.wait()
            return "held"

    class Report(Step):
        def run_step(self, text):
            return text

    gate = Gate.at(sys.argv[1])
    hold = Hold()
    report = Report()
    hold >> report
    workflow = Workflow(outputs=[report])
    broker = MemoryBroker()
    run = broker.dispatch_workflow(workflow.to_schema(), {{"gate": gate}})
    try:
        ProcessEngine(broker, [workflow], processes=2, executor={executor!r}).work()
    finally:
        steps = broker.get_run(run).steps
        print({{name: str(step.state) for name, step in steps.items()}}, flush=True)
    print("worked")
"""


def holding(folder: Path, gate: Gate, executor: str = "loky", after: str = "") -> Program:
    source = HOLDING.format(executor=executor, after=after or "pass")
    return Program(folder, source, gate.folder)


def test_a_script_without_a_guard_works(tmp_path: Path) -> None:
    source = """
        from fuseline import Step, Workflow
        from dataclasses import dataclass

        @dataclass
        class Point:
            x: int

        class Make(Step):
            def run_step(self, x):
                return Point(x)

        class Use(Step):
            def run_step(self, point):
                return (lambda: point.x + 1, point)

        make = Make()
        make >> (use := Use())
        call, point = Workflow(outputs=[use]).run({"x": 1})
        print(call(), type(point) is Point)
    """
    with Program(tmp_path, source) as program:
        assert program.end() == (0, "2 True\n", "")


#: Runs its workflow when it is imported; three processes deep at most, whatever is wrong.
RUNS_ON_IMPORT = """
    import os
    from fuseline import Step, Workflow

    depth = int(os.environ.get("DEPTH", "0"))
    assert depth < 3, "processes without end"
    os.environ["DEPTH"] = str(depth + 1)

    class Say(Step):
        def run_step(self):
            return "said"

    say = Say()
    {guard}print(Workflow(outputs=[say]).run())
"""


def test_a_module_that_runs_a_workflow_on_import_does_not_do_so_in_children_of_children(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(textwrap.dedent(RUNS_ON_IMPORT.format(guard="")))
    with Program(tmp_path, "import first") as program:
        code, out, err = program.end()
    assert (code, out) == (1, "")
    assert "processes without end" not in err
    assert "module 'first', line 14, runs a workflow while it is imported" in err
    assert err.rstrip().splitlines()[-1].startswith("fuseline.errors.RunFailed: ")


def test_such_a_module_works_with_a_guard(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(textwrap.dedent(RUNS_ON_IMPORT.format(guard='if __name__ == "__main__": ')))
    source = "import first; from fuseline import Workflow; print(Workflow(outputs=[first.say]).run())"
    with Program(tmp_path, source) as program:
        assert program.end() == (0, "said\n", "")


def test_files_of_the_current_directory_do_not_take_the_place_of_python_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But what a step starts finds its own files as always."""
    here = tmp_path / "here"
    here.mkdir()
    for name in ("queue", "random", "socket", "tempfile"):
        (here / f"{name}.py").write_text("raise ImportError('not this one')")
    (here / "helper.py").write_text("x = 1")
    (here / "script.py").write_text("import helper; print(helper.x)")
    monkeypatch.chdir(here)
    source = """
        import os, subprocess, sys
        from fuseline import Step, Workflow

        class Start(Step):
            def run_step(self):
                return subprocess.check_output([sys.executable, "script.py"], text=True), dict(os.environ)

        said, environment = Workflow(outputs=[Start()]).run()
        print(said.strip(), "PYTHONSAFEPATH" in environment, "PYTHONSAFEPATH" in os.environ)
    """
    with Program(tmp_path, source) as program:
        assert program.end() == (0, "1 False False\n", "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_one_signal_drains(tmp_path: Path, gate: Gate, number: signal.Signals, code: int) -> None:
    with holding(tmp_path, gate) as program:
        gate.wait_entered()
        started = program.descendants()
        program.signal(number)
        program.wait_said("stopping when")
        gate.open()
        returncode, out, err = program.end()
        assert returncode == code, err
        assert err.startswith("stopping when the steps that run have ended; the next Ctrl-C or SIGTERM ends them\n")
        assert out == "{'Hold': 'SUCCEEDED', 'Report': 'READY'}\n"
        wait_gone(started)


@pytest.mark.parametrize("executor", ["loky", "inline"])
def test_two_signals_kill(tmp_path: Path, gate: Gate, executor: str) -> None:
    after = "time.sleep(3600)"
    with holding(tmp_path, gate, executor, after) as program:
        gate.wait_entered()
        gate.open()
        started = program.descendants() if executor == "loky" else []  # what a step there has started is the program's
        program.signal(signal.SIGINT)
        program.signal(signal.SIGTERM)  # not the same again: two of a kind at a time count as one
        returncode, out, err = program.end()
        assert returncode in (-signal.SIGINT, 143), err
        assert out == "{'Hold': 'READY', 'Report': 'PENDING'}\n"
        wait_gone(started)


def test_three_signals_leave_now_and_children_follow(tmp_path: Path, gate: Gate) -> None:
    with holding(tmp_path, gate, "threads", "time.sleep(3600)") as program:
        gate.wait_entered()
        gate.open()
        program.signal(signal.SIGINT)
        program.wait_said("stopping when")
        program.signal(signal.SIGTERM)
        program.signal(signal.SIGINT)
        assert program.end()[0] in (128 + signal.SIGTERM, 128 + signal.SIGINT)


@pytest.mark.parametrize("state", ["waiting", "sleeping", "stuck"])
def test_nothing_outlives_a_program_that_is_killed(tmp_path: Path, gate: Gate, state: str) -> None:
    after = {"waiting": "", "sleeping": "time.sleep(3600)", "stuck": "pow(7, 10**9)"}[state]
    with holding(tmp_path, gate, after=after) as program:
        gate.wait_entered()
        started = program.descendants()
        assert len(started) >= 4  # a child, what it started, the guardian, a resource tracker
        if state != "waiting":
            gate.open()
        program.signal(signal.SIGKILL)
        program.end()
        wait_gone(started)


def test_a_program_that_exits_without_close_leaves_nothing(tmp_path: Path) -> None:
    source = """
        import os, sys
        from fuseline import MemoryBroker, ProcessEngine, Step, Workflow

        class Pid(Step):
            def run_step(self):
                return os.getpid()

        workflow = Workflow(outputs=[Pid()])
        broker = MemoryBroker()
        run = broker.dispatch_workflow(workflow.to_schema())
        engine = ProcessEngine(broker, [workflow], processes=2).__enter__()
        engine.work()
        print(broker.result(run))
    """
    with Program(tmp_path, source) as program:
        returncode, out, err = program.end()
        assert returncode == 0, err
        assert not Path(f"/proc/{int(out)}").exists()

"""Ctrl-C and SIGTERM at bad moments, and programs of all kinds: they end soon, with 130 or 143, and leave nothing but a
store that can be gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fuseline import ProcessEngine
from fuseline.broker import LocalBroker
from fuseline.errors import BrokerError
from fuseline.testing import Gate

from ..broker.conftest import wait_gone
from ..broker.workflows import adding
from ..engine.programs import Program
from ..engine.programs import wait_gone as wait_all_gone

#: Exit codes of Ctrl-C and SIGTERM; a shell sees the death by the signal itself as the same numbers.
INTERRUPTED = {130, -signal.SIGINT}
TERMINATED = {143, -signal.SIGTERM}

Run = Callable[..., Program]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Starts a program that knows the workflows of the tests; all of its processes can be told by their environment."""
    monkeypatch.setenv("FUSELINE_TEST", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "broker"))
    return lambda source, *arguments: Program(tmp_path, source, *arguments)


def wait_nobody(folder: Path) -> None:
    """Wait until nothing is left of a program that ``run`` has started, nor of what it has started."""
    while left := [process for process in psutil.process_iter() if is_of(process, folder)]:
        wait_all_gone(left)  # one of them may have started another meanwhile


def is_of(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get("FUSELINE_TEST") == str(folder)
    except psutil.Error:  # it has ended, or is somebody else's
        return False


def go_on(store: Path) -> int:
    """Do what is left in a store; return how many runs there were."""
    with LocalBroker(store) as broker:
        assert broker.check() == []
        ProcessEngine(broker, [adding()], processes=1, executor="inline").work()
        results = [broker.result(info.instance_id) for info in broker.list_runs()]
        assert results == [22] * len(results)
    wait_gone(broker.pid)
    return len(results)


# -- at bad moments ---------------------------------------------------------------------------------------------------

AT_A_MOMENT = """
    import importlib, os, signal, sys
    from fuseline import ProcessEngine
    from fuseline.broker import LocalBroker
    from workflows import adding

    store, place, count = sys.argv[1:]
    module, _, path = place.partition(":")
    owner, *within, name = [importlib.import_module(module), *path.split(".")]
    for each in within:
        owner = getattr(owner, each)
    real = getattr(owner, name)

    def interrupted(*arguments, **options):
        result = real(*arguments, **options)
        for _ in range(int(count)):
            os.kill(os.getpid(), signal.SIGINT)
        return result

    setattr(owner, name, interrupted)
    with LocalBroker(store) as broker:
        broker.dispatch_workflow(adding().to_schema(), {"a": 1})
        ProcessEngine(broker, [adding()], processes=1).work()
    print("worked")
"""

MOMENTS = {
    "the broker has started": "fuseline.broker.process:BrokerProcess._start",
    "a run is dispatched": "fuseline.broker.local:LocalBroker._dispatch",
    "the guardian has started": "fuseline.processes.guardian:acquire",
    "a child has started": "fuseline.processes.launch:launch",
    "an engine is at work": "fuseline.engines:ProcessEngine._turn",
    "children are closed": "fuseline.executors.loky:LokyExecutor.close",
    "the broker is left": "fuseline.broker.local:LocalBroker.close",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_any_moment_ends_the_program_and_leaves_a_store_that_is_whole(
    run: Run, tmp_path: Path, moment: str
) -> None:
    store = tmp_path / "runs.db"
    with run(AT_A_MOMENT, str(store), MOMENTS[moment], "1") as program:
        returncode, out, err = program.end()
    assert returncode in INTERRUPTED, err
    assert out == ""
    assert "KeyboardInterrupt" in err
    wait_nobody(tmp_path)
    assert go_on(store) == (0 if moment == "the broker has started" else 1)


COMMITTING = """
    import os, signal, sqlite3, sys
    from fuseline.broker import serve

    place, moment = sys.argv[1], int(sys.argv[2])
    connect, commits = sqlite3.connect, []

    class Connection(sqlite3.Connection):
        def execute(self, sql, *values):
            cursor = super().execute(sql, *values)  # Python heeds a signal when SQLite has returned, not before
            if sql == "COMMIT":
                commits.append(sql)
                if len(commits) == moment:
                    os.kill(os.getpid(), signal.SIGINT)
            return cursor

    sqlite3.connect = lambda *arguments, **options: connect(*arguments, **options, factory=Connection)
    serve(place, on_ready=lambda pid: print("ready", flush=True))
    print("served")
"""


@pytest.mark.parametrize("moment", [1, 2])
def test_ctrl_c_inside_of_a_commit_at_the_start_leaves_a_store_that_is_whole(
    run: Run, tmp_path: Path, moment: int
) -> None:
    store = tmp_path / "runs.db"
    with run(COMMITTING, str(store), str(moment)) as program:
        returncode, out, _ = program.end()
    assert (returncode in INTERRUPTED, out) == (True, "")
    wait_nobody(tmp_path)
    assert go_on(store) == 0


def test_ctrl_c_inside_of_the_commit_of_a_run_loses_nothing_that_was_acknowledged(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    with run(COMMITTING, str(store), "3") as program:
        program.wait_said("ready", in_output=True)
        with LocalBroker(store) as broker:
            assert broker.pid == program.pid
            instance_id = broker.dispatch_workflow(adding().to_schema(), {"a": 1})
            assert program.end() == (0, "ready\nserved\n", "")
            assert broker.get_run(instance_id).instance_id == instance_id
        wait_gone(broker.pid)
    assert go_on(store) == 1


HOLDING = """
    import sys
    from fuseline import ProcessEngine, Workflow
    from fuseline.broker import LocalBroker
    from fuseline.testing import Gate
    from workflows import Add, Hold

    gate = Gate.at(sys.argv[2])
    with LocalBroker(sys.argv[1]) as broker:
        broker.dispatch_workflow(Workflow(outputs=[Hold()], name="hold").to_schema(), {"gate": gate})
        ProcessEngine(broker, [Workflow(outputs=[Hold()], name="hold")], processes=1).work()
"""


@pytest.mark.parametrize(
    ("number", "codes"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)], ids=["SIGINT", "SIGTERM"]
)
def test_a_hail_of_signals_ends_all_of_it(
    run: Run, tmp_path: Path, gate: Gate, number: signal.Signals, codes: set[int]
) -> None:
    with run(HOLDING, str(tmp_path / "runs.db"), gate.folder) as program:
        gate.wait_entered()
        while program.process.poll() is None:  # five come within 100 ms, and more if they are not heeded
            program.signal(number)
            with suppress(subprocess.TimeoutExpired):
                program.process.wait(0.02)
        assert program.end()[0] in codes
    wait_nobody(tmp_path)
    with LocalBroker(tmp_path / "runs.db") as broker:
        [info] = broker.list_runs()
        assert not info.state.is_settled
        assert broker.check() == []
    wait_gone(broker.pid)


def test_ctrl_c_while_a_broker_is_silent_ends_the_program(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    source = """
        import os, signal, sys
        from fuseline.broker import LocalBroker, process
        from workflows import adding

        process._FAREWELL = 0.1
        with LocalBroker(sys.argv[1]) as broker:
            os.kill(broker.pid, signal.SIGSTOP)
            print(broker.pid, file=sys.stderr)
            broker.dispatch_workflow(adding().to_schema(), {"a": 1})
    """
    with run(source, str(store)) as program:
        silent = int(program.wait_said("\n").split()[0])
        try:
            program.signal(signal.SIGINT)
            assert program.end()[0] in INTERRUPTED
        finally:
            os.kill(silent, signal.SIGCONT)
    wait_nobody(tmp_path)
    assert go_on(store) in (0, 1)


# -- programs of all kinds --------------------------------------------------------------------------------------------

PROGRAMS = {
    "a script without a guard": """
        with LocalBroker(store) as broker:
            print(adding().run({"a": 1}, broker=broker))
    """,
    "a script that closes nothing": """
        broker = LocalBroker(store)
        run = broker.dispatch_workflow(adding().to_schema(), {"a": 1})
        engine = ProcessEngine(broker, [adding()], processes=1).__enter__()
        engine.work()
        print(broker.result(run))
    """,
    "a thread": """
        with LocalBroker(store) as broker:
            thread = threading.Thread(target=lambda: print(adding().run({"a": 1}, broker=broker)))
            thread.start()
            thread.join()
    """,
    "asyncio": """
        async def main():
            with LocalBroker(store) as broker:
                print(await adding().run_async({"a": 1}, broker=broker))
        asyncio.run(main())
    """,
    "a call within a running loop": """
        async def main():
            with LocalBroker(store) as broker:
                print(adding().run({"a": 1}, broker=broker))
        asyncio.run(main())
    """,
    "an exit in the middle": """
        broker = LocalBroker(store)
        print(adding().run({"a": 1}, broker=broker))
        sys.exit(0)
    """,
}
IMPORTS = """
import asyncio, sys, threading
from fuseline import ProcessEngine
from fuseline.broker import LocalBroker
from workflows import adding
store = sys.argv[1]
"""


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_of_any_kind_works_and_leaves_nothing(run: Run, tmp_path: Path, kind: str) -> None:
    store = tmp_path / "runs.db"
    with run(IMPORTS + textwrap.dedent(PROGRAMS[kind]), str(store)) as program:
        returncode, out, err = program.end()
    assert (returncode, out) == (0, "22\n"), err
    wait_nobody(tmp_path)
    assert go_on(store) == 1


def test_pytest_runs_workflows_of_a_test_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "test_user.py").write_text(
        textwrap.dedent("""
        from fuseline import Step, Workflow
        from fuseline.broker import LocalBroker

        class Mine(Step):
            def run_step(self, x):
                return x + 1

        def test_memory():
            assert Workflow(outputs=[Mine()]).run({"x": 1}) == 2

        def test_process(tmp_path):
            with LocalBroker(tmp_path / "runs.db") as broker:
                assert Workflow(outputs=[Mine()]).run({"x": 1}, broker=broker) == 2
        """)
    )
    source = """
        import sys, pytest
        folder = sys.argv[1]
        sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", folder, "-c", "/dev/null", folder]))
    """
    with run(source, str(tmp_path)) as program:
        returncode, out, err = program.end()
    assert returncode == 0, out + err
    assert "2 passed" in out
    wait_nobody(tmp_path)


def test_ctrl_c_ends_asyncio_with_what_runs(run: Run, tmp_path: Path, gate: Gate) -> None:
    source = """
        import asyncio, sys
        from fuseline import Workflow
        from fuseline.testing import Gate
        from workflows import Hold

        gate = Gate.at(sys.argv[1])
        asyncio.run(Workflow(outputs=[Hold()]).run_async({"gate": gate}))
    """
    with run(source, gate.folder) as program:
        gate.wait_entered()
        program.signal(signal.SIGINT)
        assert program.end()[0] in INTERRUPTED
    wait_nobody(tmp_path)


def test_a_broker_that_cannot_have_a_process_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no such python"))
    with pytest.raises(BrokerError, match="the system refuses a process for the broker"):
        LocalBroker(tmp_path / "runs.db")
    assert list(tmp_path.iterdir()) == []

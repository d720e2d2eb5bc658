"""The guardian shows that a program is there until it has killed all that the program has started."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from fuseline import Workflow
from fuseline.broker import LocalBroker
from fuseline.presence import Presence, is_gone
from fuseline.processes import guardian
from fuseline.testing import Gate
from fuseline.testing.contract import is_running
from fuseline.testing.gate import HANG

from .conftest import wait_gone
from .workflows import HoldWithHelp

PROGRAM = """
    import sys
    from fuseline import ProcessEngine, Workflow
    from fuseline.broker import LocalBroker
    from fuseline.processes import guardian
    sys.path.insert(0, sys.argv[2])
    from workflows import HoldWithHelp

    guardian.__file__ = sys.argv[3]
    with LocalBroker(sys.argv[1]) as broker:
        ProcessEngine(broker, [Workflow(outputs=[HoldWithHelp()], name="help")], processes=1).work()
"""

#: A guardian that waits before it kills.
SLOW_GUARDIAN = """
    import os, runpy

    def kill_slowly(*arguments, kill=os.killpg):
        with open({entered!r}, "w") as pipe:
            pipe.write("here\\n")
        with open({go!r}) as pipe:
            pipe.read(1)
        kill(*arguments)

    os.killpg = kill_slowly
    runpy.run_path({main!r}, run_name="__main__")
"""


def test_a_step_is_not_given_to_another_before_what_it_has_started_was_killed(
    store: Path, tmp_path: Path, gate: Gate
) -> None:
    workflow = Workflow(outputs=[HoldWithHelp()], name="help")
    with ExitStack() as stack, Gate() as killing, LocalBroker(store) as broker:
        main = str(Path(guardian.__file__).with_name("guardian_main.py"))
        slow = textwrap.dedent(SLOW_GUARDIAN).format(entered=killing._entered, go=killing._go, main=main)
        (tmp_path / "guardian_main.py").write_text(slow)
        run = broker.dispatch_workflow(workflow.to_schema(), {"gate": gate})
        code, here = textwrap.dedent(PROGRAM), Path(__file__).parent
        with subprocess.Popen([sys.executable, "-c", code, store, here, tmp_path / "guardian.py"]) as program:
            helper = int(gate.wait_entered())
            [presence] = store.with_name("runs.db.files").joinpath("presence").iterdir()
            children = psutil.Process(program.pid).children()
            [keeper] = [each for each in children if "guardian_main.py" in " ".join(each.cmdline())]
            stack.callback(end, keeper)
            program.kill()
        killing.wait_entered()
        for child in children:
            if child != keeper:
                wait_gone(child.pid)
        assert is_running(helper)
        assert not is_gone(presence)  # because of the guardian alone
        worker_id = broker.register_worker([workflow.to_schema()])
        assert broker.get_step(worker_id) is None
        killing.open()
        wait_gone(helper)
        wait_gone(keeper.pid)
        assert is_gone(presence)
        step = broker.get_step(worker_id, HANG)
        assert step is not None
        assert (step.instance_id, step.attempt) == (run, 2)
        broker.unregister_worker(worker_id)
    wait_gone(broker.pid)


def end(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


@pytest.fixture
def guarded() -> Iterator[None]:
    guardian.acquire()
    yield
    guardian.release()


@pytest.fixture
def shown(tmp_path: Path, guarded: None) -> Path:
    """A file in which nobody shows himself but for the guardian."""
    return show(tmp_path / "program")


def show(path: Path) -> Path:
    presence = Presence(path)
    guardian.show(path)
    presence.leave()
    return path


def wait_let_go(path: Path) -> None:
    """Wait until nobody shows himself in a file."""

    def lock() -> None:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)

    thread = threading.Thread(target=lock, daemon=True)
    thread.start()
    thread.join(HANG)
    assert not thread.is_alive()


def test_what_is_hidden_is_let_go(tmp_path: Path, shown: Path) -> None:
    other = show(tmp_path / "other")
    assert not is_gone(shown)
    guardian.hide(shown)
    wait_let_go(shown)
    assert is_gone(shown)
    assert not is_gone(other)


def test_the_path_of_what_is_shown_may_have_line_breaks(tmp_path: Path, shown: Path) -> None:
    folder = tmp_path / "a\n+x\n~b\n"
    folder.mkdir()
    odd = show(folder / "program")
    guardian.hide(shown)
    wait_let_go(shown)  # so that the guardian has heard all
    assert not is_gone(odd)
    guardian.hide(odd)
    wait_let_go(odd)
    assert is_gone(odd)


def test_what_is_shown_twice_is_hidden_twice(tmp_path: Path, shown: Path) -> None:
    guardian.show(shown)
    guardian.hide(shown)
    other = show(tmp_path / "other")
    guardian.hide(other)
    wait_let_go(other)  # so that the guardian has heard all
    assert not is_gone(shown)
    guardian.hide(shown)
    wait_let_go(shown)
    assert is_gone(shown)


@pytest.mark.usefixtures("guarded")
def test_it_is_shown_before_the_guardian_has_looked(tmp_path: Path) -> None:
    process = guardian._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        path = show(tmp_path / "program")
        assert not is_gone(path)
    finally:
        process.send_signal(signal.SIGCONT)
    guardian.hide(path)
    wait_let_go(path)


def test_a_guardian_that_ends_lets_go_of_all(tmp_path: Path) -> None:
    guardian.acquire()
    paths = [show(tmp_path / name) for name in ("one", "two")]
    assert not any(map(is_gone, paths))
    guardian.release()
    assert all(map(is_gone, paths))

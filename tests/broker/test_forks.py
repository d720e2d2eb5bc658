"""What a fork of a program does with the broker that it was born with: nothing that its program would notice."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from fuseline.broker import LocalBroker
from fuseline.broker.door import knock
from fuseline.broker.link import ClientLink, LinkLost
from fuseline.broker.wire import BrokerStatus, GetStatus
from fuseline.messages import ReportStatus, StepReport
from fuseline.states import State
from fuseline.testing.gate import HANG

from .conftest import wait_gone
from .workflows import adding


def fork(call: Callable[[], object]) -> int:
    """Make a fork that calls something, and ends without what else programs do at their end."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        call()
        code = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def assert_ends_well(pid: int) -> None:
    """Wait until a fork has ended; what it called must have raised nothing."""
    fd = os.pidfd_open(pid)
    has_ended = bool(select.select([fd], [], [], HANG)[0])
    os.close(fd)
    if not has_ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def raises_link_lost(link: ClientLink) -> bool:
    try:
        link.call(GetStatus(), BrokerStatus)
    except LinkLost:
        return True
    return False


def test_a_fork_does_not_have_the_links_of_its_program_and_does_not_end_them(stored: LocalBroker) -> None:
    link = ClientLink(*knock(Path(stored._process.welcome.door)))

    def look() -> None:
        assert link.fileno() < 0
        assert raises_link_lost(link)
        link.close()

    assert_ends_well(fork(look))
    assert not raises_link_lost(link)
    link.close()


def test_a_fork_may_use_the_broker_and_leave_it(broker: LocalBroker) -> None:
    schema = adding().to_schema()
    run = broker.dispatch_workflow(schema, {"a": 1})
    worker_id = broker.register_worker([schema])
    step = broker.get_step(worker_id)
    assert step is not None
    links = [broker._process._main, broker._workers[worker_id]._link]
    before = broker.status()
    of_fork, told = os.pipe()

    def use() -> None:
        assert broker.get_run(run).state is State.RUNNING
        os.write(told, broker.dispatch_workflow(schema, {"a": 2}).encode())
        broker.close()
        broker.close()

    assert_ends_well(fork(use))
    other = os.read(of_fork, 100).decode()
    os.close(of_fork)
    os.close(told)
    assert broker.get_run(other).state is State.PENDING  # after that, the broker has noticed the end of the fork
    after = broker.status()
    assert (after.pid, after.programs, after.workers) == (before.pid, before.programs, before.workers)
    assert links == [broker._process._main, broker._workers[worker_id]._link]
    assert broker.workplace.presence.exists()
    report = StepReport(
        workflow_id=step.workflow_id,
        instance_id=run,
        step_name=step.step_name,
        state=State.SUCCEEDED,
        result=11,
        token=step.token,
    )
    assert broker.report_step(worker_id, report).status is ReportStatus.ACCEPTED
    broker.unregister_worker(worker_id)


def test_a_fork_that_closes_the_broker_closes_nothing_of_its_program(broker: LocalBroker) -> None:
    schema = adding().to_schema()
    worker_id = broker.register_worker([schema])
    before = broker.status()
    assert_ends_well(fork(broker.close))
    broker.find_runs("")  # after that, the broker has noticed the end of the fork
    after = broker.status()
    assert (after.pid, after.programs, after.workers) == (before.pid, before.programs, before.workers)
    assert broker.workplace.presence.exists()
    run = broker.dispatch_workflow(schema, {"a": 1})
    step = broker.get_step(worker_id, HANG)
    assert step is not None
    assert step.instance_id == run
    broker.unregister_worker(worker_id)


def test_a_fork_may_work_and_its_workers_are_others_than_those_of_its_program(stored: LocalBroker) -> None:
    schema = adding().to_schema()
    stored.register_worker([schema])
    run = stored.dispatch_workflow(schema, {"a": 1})
    of_fork, told = os.pipe()
    heard, go = os.pipe()

    def work() -> None:
        worker_id = stored.register_worker([schema])
        step = stored.get_step(worker_id, HANG)
        assert step is not None
        os.write(told, worker_id.encode())
        os.read(heard, 1)

    pid = fork(work)
    try:
        worker_of_fork = os.read(of_fork, 100).decode()
        worker_id = stored.register_worker([schema])
        assert worker_id != worker_of_fork
        assert stored.get_step(worker_id) is None  # the fork has it
    finally:
        os.write(go, b"x")
        assert_ends_well(pid)
        for fd in (of_fork, told, heard, go):
            os.close(fd)
    step = stored.get_step(worker_id, HANG)  # for the fork is gone, though its program is not
    assert step is not None
    assert (step.instance_id, step.attempt) == (run, 2)
    stored.unregister_worker(worker_id)


def test_a_fork_has_no_part_in_what_its_program_follows(stored: LocalBroker) -> None:
    with stored.events() as events:

        def end() -> None:
            assert list(events) == []
            events.close()

        assert_ends_well(fork(end))
        assert events.next_event(0.0) is None  # and it does not wait for ever
        run = stored.dispatch_workflow(adding().to_schema(), {"a": 1})
        event = events.next_event(HANG)
        assert event is not None
        assert event.instance_id == run


def test_a_fork_may_ask_though_its_program_was_just_asking(
    stored: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, is_asking = ClientLink._read, threading.Event()

    def read(link: ClientLink, timeout: float | None = None) -> None:
        is_asking.set()
        real(link, timeout)

    monkeypatch.setattr(ClientLink, "_read", read)
    os.kill(stored.pid, signal.SIGSTOP)  # so that it does not answer yet
    thread = threading.Thread(target=stored.find_runs, args=[""])
    try:
        thread.start()
        assert is_asking.wait(HANG)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python has one for forks of programs with threads
            pid = fork(lambda: stored.find_runs(""))
    finally:
        os.kill(stored.pid, signal.SIGCONT)
        thread.join(HANG)
    assert_ends_well(pid)


PROGRAM = """
    import os, sys
    from fuseline import ProcessEngine
    from fuseline.broker import LocalBroker
    sys.path.insert(0, sys.argv[2])
    from workflows import adding

    with LocalBroker(sys.argv[1] or None) as broker:
        run = broker.dispatch_workflow(adding().to_schema(), {"a": 1})
        fork = os.fork()
        if not fork:
            sys.exit()
        assert os.waitpid(fork, 0)[1] == 0
        broker_pid = broker.pid
        ProcessEngine(broker, [adding()], processes=1, executor="inline").work()
        assert broker.status().pid == broker_pid
        print(broker.result(run))
"""


def command(program: str, store: Path | str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(program), str(store), str(Path(__file__).parent)]


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "unstored"])
def test_a_fork_that_ends_as_programs_do_does_not_take_the_broker_with_it(store: Path, is_stored: bool) -> None:
    line = command(PROGRAM, store if is_stored else "")
    ended = subprocess.run(line, capture_output=True, text=True, timeout=HANG, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "22\n", "")


WITH_A_FORK = """
    import os, sys
    from fuseline.broker import LocalBroker
    sys.path.insert(0, sys.argv[2])
    from workflows import adding

    broker = LocalBroker(sys.argv[1])
    worker_id = broker.register_worker([adding().to_schema()])
    assert broker.get_step(worker_id) is not None
    fork = os.fork()
    if fork:
        print(fork, flush=True)
    sys.stdin.read()
"""


def test_a_fork_does_not_keep_alive_the_program_that_was_killed(stored: LocalBroker, store: Path) -> None:
    schema = adding().to_schema()
    stored.dispatch_workflow(schema, {"a": 1})
    pipe = subprocess.PIPE
    with subprocess.Popen(command(WITH_A_FORK, store), stdin=pipe, stdout=pipe, text=True) as program:
        assert program.stdout is not None
        orphan = int(program.stdout.readline())
        program.kill()
        program.wait(HANG)
        worker_id = stored.register_worker([schema])
        step = stored.get_step(worker_id, HANG)
        assert step is not None
        os.kill(orphan, 0)  # it is there still
        [worker] = stored.status().workers
        assert worker.worker_id == worker_id
        stored.unregister_worker(worker_id)
    wait_gone(orphan)

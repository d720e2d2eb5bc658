"""Child, stamp and guardian: started clean, ended for certain."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from fuseline import Step, Workflow
from fuseline.channel import incoming
from fuseline.processes import guardian
from fuseline.processes.child import Child
from fuseline.processes.inherited import InheritedFd
from fuseline.processes.line import LineEnd
from fuseline.processes.output import Output, OutputMarks
from fuseline.processes.stamp import Stamp
from fuseline.processes.tickets import Tickets
from fuseline.processes.tree import is_alive, kill_processes, signal_group
from fuseline.testing.contract import is_running
from fuseline.testing.gate import HANG

sys.path.insert(0, str(Path(__file__).parent))


class Started(msgspec.Struct):
    pid: int
    cap: str | None


DECODE = msgspec.msgpack.Decoder(Started).decode


def lead_a_group(program: int) -> None:
    os.setsid()
    assert os.getppid() == program


def show_nothing(stream: int, text: bytes) -> None:
    pass


def return_at_once(line: LineEnd, stamp: Stamp, tickets: Tickets, marks: OutputMarks, program: int) -> None:
    lead_a_group(program)


def say_and_wait(line: LineEnd, stamp: Stamp, tickets: Tickets, marks: OutputMarks, program: int) -> None:
    """Stamp, start a process that would stay, say its pid, and wait for the end of the pipe."""
    lead_a_group(program)
    stamp.pick_up(7)
    stamp.start(7)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    said = line.open(incoming(Started))
    said.send(Started(process.pid, os.environ.get("CAP")))
    said.nudge()
    list(said.receive())


def say_what_is_blocked(line: LineEnd, stamp: Stamp, tickets: Tickets, marks: OutputMarks, program: int) -> None:
    lead_a_group(program)
    blocked = sorted(signal.Signals(number).name for number in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    said = line.open(incoming(Started))
    said.send(Started(os.getpid(), " ".join(blocked)))
    said.nudge()


def ignore_sigterm(line: LineEnd, stamp: Stamp, tickets: Tickets, marks: OutputMarks, program: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say_and_wait(line, stamp, tickets, marks, program)


@pytest.fixture(autouse=True)
def guarded() -> Iterator[None]:
    guardian.acquire()
    yield
    guardian.release()


def hear(child: Child[Started]) -> Started:
    readable, _, _ = select.select([child.fileno()], [], [], HANG)
    assert readable
    [message] = child.line.receive()
    return message


def test_ctrl_c_waits_until_a_child_has_left_the_terminal() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    child = Child(say_what_is_blocked, {}, DECODE, show_nothing)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert hear(child).cap == "SIGINT"
    drive_to_the_end(child)


def drive_to_the_end(child: Child[Started]) -> None:
    give_up = time.monotonic() + HANG
    while not child.is_gone:
        again = child.advance(time.monotonic())
        if not child.is_gone:
            wait = HANG if again is None else max(0.0, again - time.monotonic())
            select.select([child.exit_fd], [], [], wait)
        assert time.monotonic() < give_up


def test_a_child_that_returns_is_gone_with_its_exit_code() -> None:
    child = Child(return_at_once, {}, DECODE, show_nothing)
    drive_to_the_end(child)
    assert child.returncode == 0
    assert not is_running(child.pid)


@pytest.mark.parametrize("target", [say_and_wait, ignore_sigterm])
def test_an_ended_child_is_gone_with_what_it_started(target: object) -> None:
    child = Child(target, {"CAP": "2"}, DECODE, show_nothing)  # type: ignore[arg-type]
    started = hear(child)
    assert started.cap == "2"
    stamp = child.stamp.read()
    assert stamp.token == 7
    assert stamp.picked_up <= stamp.started <= time.monotonic()
    child.end(time.monotonic(), grace=0.05)
    drive_to_the_end(child)
    assert not is_running(child.pid)
    assert not is_running(started.pid)
    assert child.returncode == (-signal.SIGKILL if target is ignore_sigterm else -signal.SIGTERM)


def test_what_a_dead_child_has_started_goes_too() -> None:
    child = Child(say_and_wait, {}, DECODE, show_nothing)
    pid = hear(child).pid
    os.kill(child.pid, signal.SIGKILL)
    drive_to_the_end(child)
    assert child.returncode == -signal.SIGKILL
    assert not is_running(pid)


def test_many_children_end_side_by_side() -> None:
    children = [Child(ignore_sigterm, {}, DECODE, show_nothing) for _ in range(4)]
    for child in children:
        hear(child)
    now = time.monotonic()
    for child in children:
        child.end(now, grace=0.2)
    while not all(child.is_gone for child in children):
        for child in children:
            child.advance(time.monotonic())
        select.select([], [], [], 0.01)
    assert {child.returncode for child in children} == {-signal.SIGKILL}


def test_a_program_that_ignores_the_end_of_children_loses_only_the_exit_code() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = Child(return_at_once, {}, DECODE, show_nothing)
        drive_to_the_end(child)
        assert child.returncode is None
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_the_guardian_survives_the_signals_of_a_terminal_and_ends_with_its_pipe() -> None:
    process = guardian._process
    assert process is not None
    child = Child(say_and_wait, {}, DECODE, show_nothing)
    hear(child)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(process.pid, number)
    assert process.poll() is None
    child.end(time.monotonic(), grace=0.0)
    drive_to_the_end(child)


def test_a_child_can_be_had_where_there_are_no_files_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    child = Child(say_and_wait, {}, DECODE, show_nothing)
    hear(child)
    assert child.stamp.read().token == 7
    child.end(time.monotonic(), grace=HANG)
    drive_to_the_end(child)
    assert child.returncode == -signal.SIGTERM


def test_descriptors_of_children_may_be_high() -> None:
    child = Child(return_at_once, {}, DECODE, show_nothing)
    low = child._exit_fd
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    try:
        child._exit_fd = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1500)
        poller = select.poll()
        poller.register(child.exit_fd, select.POLLIN)
        while not child.is_gone:
            child.advance(time.monotonic())
            poller.poll(10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(low)
    assert child.returncode == 0


def test_who_does_not_end_after_sigkill_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    child = Child(say_and_wait, {}, DECODE, show_nothing)
    started = hear(child).pid
    with monkeypatch.context() as patch:  # as if both were in an uninterruptible wait of the kernel
        patch.setattr("fuseline.processes.child.signal_group", lambda *_: None)
        patch.setattr("fuseline.processes.child.kill_processes", lambda _: None)
        child.end(0.0, grace=0.0)
        again = child.advance(1.0)
        assert again is not None
        assert not child.is_gone
        assert child.advance(10.0) is None
    assert child.is_gone
    assert [record.getMessage().startswith(f"process {child.pid}, ") for record in caplog.records] == [True]
    os.killpg(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)  # it has ended after all
    while is_running(started):
        os.sched_yield()


def test_multiprocessing_does_not_reap_children_whose_number_we_still_need() -> None:
    child = Child(return_at_once, {}, DECODE, show_nothing)
    select.select([child.exit_fd], [], [], HANG)
    assert child.has_exited()
    assert multiprocessing.active_children() == []  # which reaps what has ended of its own
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    drive_to_the_end(child)
    assert child.returncode == 0


def test_a_number_that_is_another_process_s_by_now_gets_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(return_at_once, {}, DECODE, show_nothing)
    select.select([child.exit_fd], [], [], HANG)
    os.waitpid(child.pid, 0)  # the program does so
    signals: list[int] = []
    monkeypatch.setattr("fuseline.processes.child.signal_group", lambda leader, number: signals.append(number))
    with monkeypatch.context() as patch:
        patch.setattr("psutil.pid_exists", lambda pid: True)
        child.end(time.monotonic(), grace=0.0)
        drive_to_the_end(child)
    assert signals == []
    assert child.returncode is None


def start_a_pool(number: int) -> int:
    class Double(Step):
        def run_step(self, number: int) -> int:
            return 2 * number

    result: int = Workflow(outputs=[Double()]).run({"number": number}, processes=1)
    return result


def test_a_worker_of_a_multiprocessing_pool_may_have_children() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(start_a_pool, (4,)) == 8
        pool.close()
        pool.join()


def test_a_guardian_that_was_stopped_ends_all_the_same() -> None:
    assert guardian._process is not None
    guardian._process.send_signal(signal.SIGSTOP)  # and the end of this test waits for it


def test_a_descriptor_goes_to_a_child_while_that_is_started_and_at_no_other_time() -> None:
    with pytest.raises(TypeError, match="when that is started"):
        pickle.dumps(InheritedFd(0))


def test_where_there_is_no_second_pipe_there_is_no_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = [os.pipe()]

    def pipe() -> tuple[int, int]:
        if not ends:
            raise OSError("no more descriptors")
        return ends.pop()

    monkeypatch.setattr(os, "pipe", pipe)
    with pytest.raises(OSError, match="no more descriptors"):
        Output(show_nothing)


def test_a_step_that_has_closed_its_output_is_not_marked_in_it() -> None:
    output = Output(show_nothing)
    output.theirs.close()
    output.theirs.put(0, 7)
    assert not output.theirs.has_unread(0)
    assert output.finish(7, [0], is_long=True) == ""
    output.close()


def test_who_is_gone_is_sent_no_signal_and_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "3600"], start_new_session=True) as sleeper:
        process = psutil.Process(sleeper.pid)
        assert is_alive(process)
        with monkeypatch.context() as patch:  # macOS refuses signals to zombies
            patch.setattr(os, "killpg", refuse)
            signal_group(sleeper.pid, signal.SIGKILL)
        assert sleeper.poll() is None
        kill_processes([process])
        sleeper.wait(HANG)
        kill_processes([process])
        signal_group(sleeper.pid, signal.SIGKILL)
        assert not is_alive(process)
        monkeypatch.setattr(process, "is_running", lambda: True)  # it ends just then
        assert not is_alive(process)


def refuse(*_: int) -> None:
    raise PermissionError


def test_a_guardian_that_was_killed_is_missed_by_nobody() -> None:
    process = guardian._process
    assert process is not None
    process.kill()
    process.wait(HANG)
    child = Child(return_at_once, {}, DECODE, show_nothing)
    drive_to_the_end(child)
    assert child.returncode == 0


def test_without_a_thread_that_lasts_no_child_is_started_in_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(call: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(guardian, "_starter", SimpleNamespace(submit=submit, shutdown=lambda: None))
    with ThreadPoolExecutor(1) as other, pytest.raises(OSError, match="can't start new thread"):
        other.submit(guardian.in_lasting_thread, os.getpid).result()

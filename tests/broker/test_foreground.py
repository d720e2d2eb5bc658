"""A broker in the foreground, and what becomes of those who use it when it comes and goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fuseline import ProcessEngine, Workflow
from fuseline.broker import LocalBroker, serve, server_main
from fuseline.broker.link import ClientLink, LinkLost
from fuseline.broker.server import Server
from fuseline.broker.store.file import Ownership
from fuseline.broker.wire import Retire
from fuseline.testing.gate import HANG, Gate

from .conftest import wait_gone
from .workflows import Hold, Log, adding, starts

SERVE = """
import sys
from fuseline.broker import serve
serve(sys.argv[1], durability="process", keep_runs=1000, on_ready=lambda pid: print(pid, flush=True))
print("done")
"""


@contextmanager
def foreground(store: Path) -> Iterator[subprocess.Popen[str]]:
    """A broker in the foreground of another process, once it is ready."""
    command = [sys.executable, "-c", SERVE, str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == f"{process.pid}\n"
            yield process
        finally:
            process.kill()


def test_programs_join_it_and_it_stays(store: Path) -> None:
    with foreground(store) as process:
        for _ in range(2):
            with LocalBroker(store) as broker:
                assert broker.pid == process.pid
                status = broker.status()
                assert (status.stays, status.durability, status.keep_runs) == (True, "process", 1000)
                broker.dispatch_workflow(adding().to_schema(), {"a": 1})
        assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_a_store_that_is_whole(store: Path, number: signal.Signals) -> None:
    with foreground(store) as process:
        with LocalBroker(store) as broker:
            run = broker.dispatch_workflow(adding().to_schema(), {"a": 1})
        process.send_signal(number)
        out, err = process.communicate(timeout=HANG)
        assert (process.returncode, out, err) == (0, "done\n", "")
    assert not store.with_name("runs.db-wal").exists()
    with LocalBroker(store) as broker:
        assert broker.get_run(run).instance_id == run
    wait_gone(broker.pid)


def test_a_second_one_is_refused_with_the_pid_of_the_first(store: Path) -> None:
    with foreground(store) as process:
        command = [sys.executable, "-c", SERVE, str(store)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
        assert f"StoreInUse: the store {store} is in use by process {process.pid}." in second.stderr


def test_it_takes_over_from_one_in_the_background_while_an_engine_works(store: Path, tmp_path: Path) -> None:
    workflow = Workflow(outputs=[Log()], name="log")
    inputs = [{"log": str(tmp_path / "log"), "number": i} for i in range(400)]
    with LocalBroker(store) as broker, ProcessEngine(broker, [workflow], processes=2) as engine:
        runs = broker.dispatch_many(workflow.to_schema(), inputs)
        before = broker.pid
        thread = threading.Thread(target=engine.work)
        thread.start()
        with foreground(store) as process:
            thread.join(HANG)
            assert not thread.is_alive()
            assert [broker.result(run) for run in runs] == list(range(400))
            assert broker.pid == process.pid != before
    wait_gone(broker.pid)
    assert Counter(starts(tmp_path / "log")) == dict.fromkeys(map(str, range(400)), 1)


def test_after_its_end_programs_go_on_with_one_in_the_background_until_it_is_back(store: Path, gate: Gate) -> None:
    workflow = Workflow(outputs=[Hold()], name="hold")
    with foreground(store) as first, LocalBroker(store) as broker:
        run = broker.dispatch_workflow(workflow.to_schema(), {"gate": gate})
        engine = ProcessEngine(broker, [workflow], processes=1)
        thread = threading.Thread(target=engine.work)
        thread.start()
        gate.wait_entered()
        os.kill(first.pid, signal.SIGKILL)
        first.wait(HANG)
        assert broker.get_run(run).instance_id == run
        assert broker.pid != first.pid
        with foreground(store) as second:
            assert broker.status().pid == second.pid
            gate.open()
            thread.join(HANG)
            assert broker.result(run) == "held"
            assert broker.get_run(run).steps["Hold"].attempts == 1
    wait_gone(broker.pid)


def test_one_in_the_background_keeps_nobody_waiting_who_reads_the_output_of_its_starter(store: Path) -> None:
    code = """
import os, sys
from fuseline.broker import LocalBroker
LocalBroker(sys.argv[1])
os._exit(0)
"""
    with LocalBroker(store) as broker:  # keeps it alive
        os.kill(broker.pid, signal.SIGKILL)
        wait_gone(broker.pid)
        os.truncate(server_main.log_of(store), 2 << 20)
        subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, timeout=HANG, check=True)
        assert broker.list_runs() == []
        assert server_main.log_of(store).stat().st_size < 1 << 20  # it begins anew when it has become long
    wait_gone(broker.pid)


def test_a_second_signal_does_not_wait_for_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str | int] = []
    monkeypatch.setattr(os, "_exit", heard.append)
    server = SimpleNamespace(stop=lambda: heard.append("stop"))
    before = signal.getsignal(signal.SIGTERM)
    with server_main._stopping(cast(Server, server)):
        signal.raise_signal(signal.SIGTERM)
        assert heard == ["stop"]
        signal.raise_signal(signal.SIGTERM)
        assert heard[1] == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_it_may_be_in_a_thread_and_waits_for_one_that_is_just_ending(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = Ownership(store)
    ending.announce(str(store.with_name("a door that is closed")))
    pause = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: ending.release())
    monkeypatch.setattr(server_main, "time", pause)
    servers: list[Server] = []
    make = server_main._open

    def make_one(*arguments: Any, **options: Any) -> Server:
        servers.append(make(*arguments, **options))
        return servers[0]

    monkeypatch.setattr(server_main, "_open", make_one)
    is_ready = threading.Event()
    thread = threading.Thread(target=serve, args=[store], kwargs={"on_ready": lambda pid: is_ready.set()})
    thread.start()
    try:
        assert is_ready.wait(HANG)
        with LocalBroker(store) as broker:
            assert broker.pid == os.getpid()
            assert not server_main._ask_to_retire(store)  # it stays
            monkeypatch.setattr(server_main, "ClientLink", Losing)
            assert server_main._ask_to_retire(store)
    finally:
        servers[0].stop()
        thread.join(HANG)
    assert not thread.is_alive()


class Losing(ClientLink):
    """A link that ends when the broker should answer whether it retires."""

    def call(self, request: Any, kind: type[Any], timeout: float | None = None) -> Any:
        if isinstance(request, Retire):
            raise LinkLost("it has just ended")
        return super().call(request, kind, timeout)

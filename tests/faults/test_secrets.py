"""What others can see of a broker process and its programs: no port, no key, no value."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fuseline import ProcessEngine, RunFailed, Workflow
from fuseline.broker import LocalBroker
from fuseline.broker.store.file import read_owner
from fuseline.broker.wire import Done, Hello
from fuseline.cli import main
from fuseline.errors import BrokerError
from fuseline.testing import Gate
from fuseline.testing.gate import HANG

from ..broker.conftest import wait_gone
from ..broker.workflows import Fail, Hold

SECRET = "correct-horse-battery-staple"


class FailWith(Fail):
    def run_step(self, secret: str) -> None:  # type: ignore[override]
        raise ValueError(f"cannot log in with {secret}")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    with LocalBroker(tmp_path / "runs.db") as broker:
        yield broker
    wait_gone(broker.pid)


def key_of(broker: LocalBroker) -> str:
    return Path(broker._process._main.welcome.door, "key").read_text()


def test_no_process_has_a_socket_of_a_network(broker: LocalBroker, gate: Gate) -> None:
    workflow = Workflow(outputs=[Hold()], name="hold")
    run = broker.dispatch_workflow(workflow.to_schema(), {"gate": gate})
    with ProcessEngine(broker, [workflow], processes=2) as engine:
        thread = threading.Thread(target=engine.work)
        thread.start()
        gate.wait_entered()
        here = psutil.Process()
        processes = [here, psutil.Process(broker.pid), *here.children(recursive=True)]
        assert len(processes) >= 4  # this program, the broker, a guardian, a child
        sockets = {process.pid: process.net_connections("inet") for process in processes}
        commands = [" ".join(process.cmdline()) for process in processes]
        environments = [str(process.environ()) for process in processes[1:]]
        gate.open()
        thread.join(HANG)
    assert broker.result(run) == "held"
    assert {pid: found for pid, found in sockets.items() if found} == {}
    assert [text for text in commands + environments if key_of(broker) in text] == []


def test_neither_key_nor_values_are_in_logs_and_messages(
    broker: LocalBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    workflow = Workflow(outputs=[FailWith()], name="fails")
    run = broker.dispatch_workflow(workflow.to_schema(), {"secret": SECRET})
    ProcessEngine(broker, [workflow], processes=1).work()
    with pytest.raises(RunFailed) as caught:
        broker.result(run)
    assert SECRET in str(caught.value.__cause__)  # who asks for the run gets it
    with pytest.raises(BrokerError) as refused:
        broker._process._main.call(Hello(key_of(broker), protocol=9), Done)
    log = (tmp_path / "runs.db.files" / "broker.log").read_text()
    said = log + caplog.text + "".join(capfd.readouterr()) + str(refused.value)
    assert SECRET not in said
    assert key_of(broker) not in said + repr(read_owner(tmp_path / "runs.db"))


def test_the_doctor_shows_no_key(broker: LocalBroker, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--store", str(tmp_path / "runs.db")]) == 0
    out, err = capfd.readouterr()
    assert str(broker.pid) in out
    assert key_of(broker) not in out + err

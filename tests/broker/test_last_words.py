"""What a program has finished counts, even if it is killed before anybody has heard of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fuseline import ProcessEngine, State
from fuseline.attempt import StepHost
from fuseline.broker import LocalBroker
from fuseline.encoding import encode, encode_error
from fuseline.messages import AttemptReport, Outcome, Payload
from fuseline.presence import Presence, is_gone
from fuseline.spool import Spool, read_spools, remove_dead_spools, remove_spools
from fuseline.testing.gate import HANG
from fuseline.workplace import Workplace

from .conftest import wait_gone
from .workflows import Add, Fail, adding

pytestmark = pytest.mark.usefixtures("checked")

PROGRAM = """
    import os, signal, sys
    from fuseline import ProcessEngine
    from fuseline.broker import LocalBroker
    from fuseline.executors.{module} import {name} as Base
    sys.path.insert(0, sys.argv[2])
    from workflows import adding, {step}
    from fuseline import Workflow

    class DiesWithReports(Base):
        '''Its program is killed when a step has ended, and before anybody was told.'''

        def poll(self):
            reports = super().poll()
            if reports:
                os.kill(os.getpid(), signal.SIGKILL)
            return reports

    workflow = adding() if {step!r} == "Add" else Workflow(outputs=[{step}()], name="failing")
    with LocalBroker(sys.argv[1]) as broker:
        ProcessEngine(broker, [workflow], executor=DiesWithReports(1)).work()
"""

EXECUTORS = [("inline", "InlineExecutor"), ("threads", "ThreadsExecutor"), ("loky", "LokyExecutor")]


def run_and_die(store: Path, module: str, name: str, step: str) -> None:
    code = textwrap.dedent(PROGRAM).format(module=module, name=name, step=step)
    here = str(Path(__file__).parent)
    ended = subprocess.run([sys.executable, "-c", code, str(store), here], timeout=HANG, check=False)
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("module", "name"), EXECUTORS)
@pytest.mark.parametrize("broker_dies", [False, True], ids=["the broker lives", "the broker dies, too"])
def test_a_step_that_has_ended_is_not_started_again(store: Path, module: str, name: str, broker_dies: bool) -> None:
    workflow = adding()
    with LocalBroker(store) as broker:
        run = broker.dispatch_workflow(workflow.to_schema(), {"a": 1})
        run_and_die(store, module, name, "Add")
        if broker_dies:
            os.kill(broker.pid, signal.SIGKILL)
        ProcessEngine(broker, [workflow], processes=1, executor="inline").work()
        assert broker.result(run) == 22
        assert {name: step.attempts for name, step in broker.get_run(run).steps.items()} == {"Add": 1, "Double": 1}
    wait_gone(broker.pid)
    assert list(store.with_name("runs.db.files").joinpath("spools").iterdir()) == []
    assert list(store.with_name("runs.db.files").joinpath("presence").iterdir()) == []


def test_a_failure_counts_as_well(store: Path) -> None:
    from fuseline import Workflow

    workflow = Workflow(outputs=[Fail()], name="failing")
    with LocalBroker(store) as broker:
        run = broker.dispatch_workflow(workflow.to_schema())
        run_and_die(store, "loky", "LokyExecutor", "Fail")
        with broker.events(run) as events:
            for _ in events:
                pass
        info = broker.get_run(run)
        assert info.state is State.FAILED
        assert isinstance(info.steps["Fail"].error, KeyError)
    wait_gone(broker.pid)


# -- the parts --------------------------------------------------------------------------------------------------------


def report(token: int, size: int = 10) -> AttemptReport:
    return AttemptReport(token=token, outcome=Outcome.RETURNED, result=encode(b"x" * size), started=1.0)


def test_reports_are_read_in_their_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "me")
    error = AttemptReport(token=3, outcome=Outcome.RAISED, error=encode_error(KeyError("no")), started=1.0)
    for each in (report(1), report(2), error):
        spool.add(each)
    spool.close()
    spool.close()
    assert list(read_spools(tmp_path, "me")) == [report(1), report(2), error]
    assert list(read_spools(tmp_path, "you")) == []
    remove_spools(tmp_path, "me")
    assert list(tmp_path.iterdir()) == []


def test_half_a_report_at_the_end_is_left_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "me")
    for token in (1, 2):
        spool.add(report(token))
    spool.close()
    [path] = tmp_path.iterdir()
    data = path.read_bytes()
    written = len(data.rstrip(b"\0"))
    for size in range(written):
        for rest in (b"", bytes(len(data) - size)):
            path.write_bytes(data[:size] + rest)
            assert list(read_spools(tmp_path, "me")) in ([], [report(1)])
    path.write_bytes(data[: written // 2] + b"garbage" * 10)
    assert list(read_spools(tmp_path, "me")) == [report(1)]


def test_a_closed_spool_takes_no_more_and_loses_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "me")
    spool.add(report(1))
    spool.close()
    spool.add(report(2))
    assert list(read_spools(tmp_path, "me")) == [report(1)]


def test_what_was_written_in_part_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    spool = Spool(tmp_path, "me")
    spool.add(report(1))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:20], at))  # as a full disk does
    spool.add(report(2))
    monkeypatch.undo()
    spool.add(report(3))
    spool.close()
    assert list(read_spools(tmp_path, "me")) == [report(1), report(3)]


def test_two_in_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    one, two = Spool(tmp_path, "me"), Spool(tmp_path, "me")
    for token in range(1, 4):
        one.add(report(token))
        two.add(report(10 * token))
    one.close()
    two.close()
    assert sorted(each.token for each in read_spools(tmp_path, "me")) == [1, 2, 3, 10, 20, 30]


def test_a_report_may_be_large(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "me")
    sizes = [10, 200_000, 10, 3_000_000, 10, 20]
    for token, size in enumerate(sizes):
        spool.add(report(token, size))
    spool.close()
    assert [each.token for each in read_spools(tmp_path, "me")] == list(range(len(sizes)))


def test_it_does_not_grow_for_ever(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "me")
    for token in range(600):
        spool.add(report(token, 30_000))
    spool.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 9 << 20
    tokens = [each.token for each in read_spools(tmp_path, "me")]
    assert tokens == list(range(600 - len(tokens), 600))
    assert len(tokens) > 130


def test_what_ended_processes_have_written_goes_once_it_was_heard(tmp_path: Path) -> None:
    here = Spool(tmp_path, "me")
    here.add(report(1))
    pid = os.fork()
    if not pid:
        Spool(tmp_path, "me").add(report(2))
        os._exit(0)
    os.waitpid(pid, 0)
    assert len(list(tmp_path.iterdir())) == 2
    remove_dead_spools(tmp_path, "me")
    assert [path.name.partition("-")[0] for path in tmp_path.iterdir()] == [f"me.{os.getpid()}"]
    here.close()


def test_where_it_cannot_be_written_the_step_goes_on(tmp_path: Path) -> None:
    place = Workplace(presence=tmp_path / "me", spools=tmp_path / "nowhere")
    host = StepHost(workplace=place)
    payload = Payload(arguments={"a": encode(1)})
    ended = host.carry_out(Add(), [], workflow_id="w", payload=payload, token=7)
    assert ended.outcome is Outcome.RETURNED
    host.close()


def test_a_fork_writes_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "me")
    spool.add(report(1))
    pid = os.fork()
    if not pid:
        spool.add(report(2))
        os._exit(0)
    os.waitpid(pid, 0)
    spool.close()
    assert list(read_spools(tmp_path, "me")) == [report(1)]


def test_who_shows_itself_while_somebody_looks_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "me"
    real, looks = os.open, []

    def open_and_look(*arguments: object, **options: object) -> int:
        fd = real(*arguments, **options)  # type: ignore[arg-type]
        if not looks:
            looks.append(True)
            assert is_gone(path)  # after the file was opened, and before it is locked
        return fd

    monkeypatch.setattr(os, "open", open_and_look)
    presence = Presence(path)
    assert looks
    assert not is_gone(path)
    presence.leave()
    assert is_gone(path)

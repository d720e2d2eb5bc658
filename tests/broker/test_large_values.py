"""Values that are too large for the store are in files beside it, and go when nothing needs them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from fuseline import ProcessEngine, RunFailed, Workflow
from fuseline.broker import LocalBroker
from fuseline.errors import StoreError
from fuseline.messages import StepReport
from fuseline.states import State
from fuseline.workplace import LARGE

from .conftest import wait_gone
from .workflows import Bytes, Fail, Length, values_of

SIZE = 100_000


def making() -> Workflow:
    make, measure = Bytes(), Length()
    make.next(measure)
    return Workflow(outputs=[measure], name="making")


def keeping() -> Workflow:
    return Workflow(outputs=[Bytes()], name="keeping")


@pytest.mark.parametrize("executor", ["inline", "threads", "loky"])
def test_a_large_result_goes_through_a_file(stored: LocalBroker, store: Path, executor: str) -> None:
    workflow = keeping()
    run = stored.dispatch_workflow(workflow.to_schema(), {"size": SIZE})
    ProcessEngine(stored, [workflow], processes=1, executor=executor).work()
    [file] = values_of(store)
    assert file.stat().st_size > SIZE
    assert file.stat().st_mode & 0o077 == 0 or file.parent.stat().st_mode & 0o077 == 0
    assert stored.result(run) == b"x" * SIZE
    stored.forget(run)
    assert values_of(store) == []


def test_a_small_result_does_not(stored: LocalBroker, store: Path) -> None:
    workflow = keeping()
    run = stored.dispatch_workflow(workflow.to_schema(), {"size": LARGE // 2})
    ProcessEngine(stored, [workflow], processes=1, executor="inline").work()
    assert values_of(store) == []
    assert len(stored.result(run)) == LARGE // 2


def test_a_large_input_does(stored: LocalBroker, store: Path) -> None:
    workflow = Workflow(outputs=[Length()], name="length")
    run = stored.dispatch_workflow(workflow.to_schema(), {"data": b"x" * SIZE})
    assert len(values_of(store)) == 1
    ProcessEngine(stored, [workflow], processes=1).work()
    assert stored.result(run) == SIZE
    assert stored.get_run(run).inputs == {"data": b"x" * SIZE}


def test_the_file_of_a_result_that_nothing_needs_any_more_is_removed(stored: LocalBroker, store: Path) -> None:
    workflow = making()
    run = stored.dispatch_workflow(workflow.to_schema(), {"size": SIZE})
    ProcessEngine(stored, [workflow], processes=1).work()
    assert stored.result(run) == SIZE
    assert values_of(store) == []


def test_a_run_that_failed_keeps_what_it_needs_to_go_on(store: Path, tmp_path: Path) -> None:
    make, fail, measure = Bytes(), Fail(), Length()
    make.next(measure)
    fail.next(measure)
    workflow = Workflow(outputs=[measure], name="half")
    with LocalBroker(store) as broker:
        run = broker.dispatch_workflow(workflow.to_schema(), {"size": SIZE})
        ProcessEngine(broker, [workflow], processes=1, executor="inline").work()
        with pytest.raises(RunFailed):
            broker.result(run)
        if broker.get_run(run).steps["Bytes"].state is State.SUCCEEDED:
            assert len(values_of(store)) == 1
    wait_gone(broker.pid)
    with LocalBroker(store) as broker:
        make, measure = Bytes(), Length()
        make.next(measure)
        mended = Workflow(outputs=[measure], name="half")
        assert broker.resume(run, mended.to_schema(), changed=True)
        ProcessEngine(broker, [mended], processes=1, executor="inline").work()
        assert broker.result(run) == SIZE
        assert broker.get_run(run).steps["Bytes"].attempts == 1


def test_runs_with_files_survive_the_broker_and_a_move_of_the_store(store: Path, tmp_path: Path) -> None:
    workflow = making()
    with LocalBroker(store) as broker:
        run = broker.dispatch_workflow(Workflow(outputs=[Length()], name="l").to_schema(), {"data": b"x" * SIZE})
        kept = broker.dispatch_workflow(keeping().to_schema(), {"size": SIZE})
        ProcessEngine(broker, [keeping()], processes=1, executor="inline").work()
    wait_gone(broker.pid)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in tmp_path.glob("runs.db*"):
        os.rename(path, elsewhere / path.name)
    with LocalBroker(elsewhere / "runs.db") as broker:
        assert broker.result(kept) == b"x" * SIZE
        ProcessEngine(broker, [Workflow(outputs=[Length()], name="l")], processes=1, executor="inline").work()
        assert broker.result(run) == SIZE
        assert broker.check() == []
    assert workflow.name == "making"


def test_a_hand_written_worker_keeps_large_results_too(stored: LocalBroker, store: Path) -> None:
    workflow = keeping()
    run = stored.dispatch_workflow(workflow.to_schema(), {"size": 1})
    worker_id = stored.register_worker([workflow.to_schema()])
    assignment = stored.get_step(worker_id)
    assert assignment is not None

    def report(result: Any) -> StepReport:
        return StepReport(
            workflow_id=assignment.workflow_id,
            instance_id=assignment.instance_id,
            step_name=assignment.step_name,
            state=State.SUCCEEDED,
            result=result,
            token=assignment.token,
        )

    stored.report_step(worker_id, report(b"y" * SIZE))
    [file] = values_of(store)
    stored.report_step(worker_id, report(b"z" * SIZE))  # too late: its file goes, the other stays
    assert values_of(store) == [file]
    assert stored.result(run) == b"y" * SIZE
    stored.unregister_worker(worker_id)


def test_leftovers_are_swept_when_they_are_old(store: Path) -> None:
    with LocalBroker(store) as broker:
        run = broker.dispatch_workflow(keeping().to_schema(), {"size": SIZE})
        ProcessEngine(broker, [keeping()], processes=1, executor="inline").work()
    wait_gone(broker.pid)
    [kept] = values_of(store)
    old, new = kept.with_name("0" * 32), kept.with_name(".unfinished-" + "1" * 32)
    for path in (old, new):
        path.write_bytes(b"")
    for path in (kept, old):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    with LocalBroker(store) as broker:
        assert values_of(store) == sorted([kept, new])
        assert len(broker.result(run)) == SIZE


def test_a_file_that_is_gone_is_named(stored: LocalBroker, store: Path) -> None:
    run = stored.dispatch_workflow(keeping().to_schema(), {"size": SIZE})
    ProcessEngine(stored, [keeping()], processes=1, executor="inline").work()
    [file] = values_of(store)
    file.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        stored.result(run)
    [problem] = stored.check()
    assert file.name in problem


@pytest.mark.parametrize("executor", ["inline", "loky"])
def test_a_value_that_cannot_be_written_fails_its_step(stored: LocalBroker, store: Path, executor: str) -> None:
    workflow = keeping()
    run = stored.dispatch_workflow(workflow.to_schema(), {"size": SIZE})
    folder = store.with_name("runs.db.files") / "values"
    folder.rmdir()
    ProcessEngine(stored, [workflow], processes=1, executor=executor).work()
    folder.mkdir()
    with pytest.raises(RunFailed, match="cannot keep the result of step 'Bytes'"):
        stored.result(run)

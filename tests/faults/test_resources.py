"""Disks that are full, descriptors and directories that are gone: a typed error, and nothing half done."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fuseline import ProcessEngine, RunFailed, Workflow
from fuseline.broker import LocalBroker
from fuseline.errors import BrokerError, FuselineError, StoreError

from ..broker.conftest import wait_gone
from ..broker.workflows import Bytes, adding, values_of

LARGE = 4_000_000  #: with half of it, there is room for what a program shares with its children


@contextmanager
def limited(what: int, limit: int) -> Iterator[None]:
    """Let this process, and those it starts, have no more of something."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def without_descriptors() -> int:
    """Return a limit that leaves this process no descriptor."""
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    return fd


@pytest.mark.parametrize("executor", ["inline", "loky"])
def test_a_full_disk_fails_the_step_whose_value_does_not_fit_and_no_other(tmp_path: Path, executor: str) -> None:
    store = tmp_path / "runs.db"
    workflow = Workflow(outputs=[Bytes()], name="bytes")
    with LocalBroker(store) as broker:
        large, small = broker.dispatch_many(workflow.to_schema(), [{"size": LARGE}, {"size": 10}])
        with limited(resource.RLIMIT_FSIZE, LARGE // 2):
            ProcessEngine(broker, [workflow], processes=1, executor=executor).work()
        assert broker.result(small) == b"x" * 10
        with pytest.raises(RunFailed, match=r"cannot keep the result of step 'Bytes' .* Make room there") as caught:
            broker.result(large)
        assert isinstance(caught.value.__cause__, StoreError)
        assert values_of(store) == []  # not even half of it
        assert broker.resume(large)
        ProcessEngine(broker, [workflow], processes=1, executor=executor).work()
        assert broker.result(large) == b"x" * LARGE
    wait_gone(broker.pid)


def test_a_full_disk_refuses_an_input_that_does_not_fit_and_takes_the_others(tmp_path: Path) -> None:
    workflow = adding()
    with LocalBroker(tmp_path / "runs.db") as broker:
        with limited(resource.RLIMIT_FSIZE, LARGE // 2), pytest.raises(StoreError, match="cannot keep the input 'a'"):
            broker.dispatch_many(workflow.to_schema(), [{"a": 1}, {"a": b"x" * LARGE}])
        [info] = broker.list_runs()
        ProcessEngine(broker, [workflow], processes=1, executor="inline").work()
        assert broker.result(info.instance_id) == 22
    wait_gone(broker.pid)


def test_without_descriptors_a_broker_is_refused_and_later_had(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    with limited(resource.RLIMIT_NOFILE, without_descriptors()), pytest.raises((FuselineError, OSError)):
        LocalBroker(store)
    assert not store.exists()
    with LocalBroker(store) as broker:
        assert broker.list_runs() == []
    wait_gone(broker.pid)


@pytest.mark.parametrize("spare", [0, 6, 12])
def test_without_descriptors_an_engine_says_so_and_the_run_goes_on_when_there_are_some(
    tmp_path: Path, spare: int
) -> None:
    workflow = adding()
    with LocalBroker(tmp_path / "runs.db") as broker:
        run = broker.dispatch_workflow(workflow.to_schema(), {"a": 1})
        engine = ProcessEngine(broker, [workflow], processes=1)
        failure = None
        with limited(resource.RLIMIT_NOFILE, without_descriptors() + spare):
            try:
                engine.work()
            except (FuselineError, OSError) as error:
                failure = error
        state = broker.get_run(run).state
        if not state.is_settled:
            assert failure is not None
            ProcessEngine(broker, [workflow], processes=1).work()
        elif broker.get_run(run).state == "FAILED":  # no child could be started, and that is the reason of the step
            assert broker.resume(run)
            ProcessEngine(broker, [workflow], processes=1).work()
        assert broker.result(run) == 22
    wait_gone(broker.pid)


def test_a_directory_that_is_taken_away_in_the_middle_is_an_error_for_who_asks(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with LocalBroker(folder / "runs.db") as broker:
        run = broker.dispatch_workflow(adding().to_schema(), {"a": 1})
        shutil.rmtree(folder)
        with pytest.raises(StoreError, match="removed or replaced while it was in use"):
            broker.dispatch_workflow(adding().to_schema(), {"a": 2})
        with pytest.raises((StoreError, BrokerError), match="no directory"):
            broker.get_run(run)
    wait_gone(broker.pid)
    assert not folder.exists()

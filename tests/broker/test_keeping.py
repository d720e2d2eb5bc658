"""How long runs are kept, and how a broker and its store are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import fuseline
from fuseline import ProcessEngine
from fuseline.broker import LocalBroker
from fuseline.errors import BrokerError, UnknownRunError
from fuseline.states import State

from .conftest import wait_gone
from .workflows import adding


def work(broker: LocalBroker) -> None:
    ProcessEngine(broker, [adding()], processes=1, executor="inline").work()


def test_pruning_removes_the_oldest_runs_that_have_ended(stored: LocalBroker, store: Path) -> None:
    schema = adding().to_schema()
    runs = stored.dispatch_many(schema, [{"a": i} for i in range(1500)])
    work(stored)
    waiting = stored.dispatch_workflow(schema, {"a": 0})
    assert stored.prune(keep_runs=2000) == 0
    assert stored.prune(keep_for=3600) == 0
    before = os.path.getsize(store)
    assert stored.prune(keep_runs=10) == 1490
    assert os.path.getsize(store) < before / 4
    assert [run.instance_id for run in stored.list_runs()] == [*runs[-10:], waiting]
    assert stored.prune(keep_for=0.0) == 10
    assert stored.get_run(waiting).state is State.PENDING
    with pytest.raises(UnknownRunError):
        stored.story(runs[0])
    work(stored)
    assert stored.result(waiting) == 20


def test_a_broker_can_do_it_by_itself(store: Path) -> None:
    with LocalBroker(store) as broker:
        runs = broker.dispatch_many(adding().to_schema(), [{"a": i} for i in range(20)])
        work(broker)
    wait_gone(broker.pid)
    with LocalBroker(store, keep_runs=5) as broker:
        assert broker.find_runs("") != runs[::-1]
        assert {run.instance_id for run in broker.list_runs()} == set(runs[-5:])
        assert broker.status().keep_runs == 5


def test_a_broker_says_how_it_is(stored: LocalBroker, store: Path) -> None:
    schema = adding().to_schema()
    stored.dispatch_many(schema, [{"a": 1}, {"a": 2}])
    worker_id = stored.register_worker([schema])
    assert stored.get_step(worker_id) is not None
    status = stored.status()
    assert (status.pid, status.version, status.path) == (stored.pid, fuseline.__version__, str(store))
    assert status.counts == {"PENDING": 1, "RUNNING": 1}
    [worker] = status.workers
    assert (worker.worker_id, worker.workflows, worker.running) == (worker_id, [schema.workflow_id], 1)
    assert worker.pid == os.getpid()
    assert status.size_bytes > 0
    assert not status.stays
    assert stored.check() == []
    stored.unregister_worker(worker_id)
    assert stored.status().workers == []


def test_runs_are_found_by_the_beginning_of_their_ids(broker: LocalBroker) -> None:
    runs = broker.dispatch_many(adding().to_schema(), [{"a": i} for i in range(30)])
    assert broker.find_runs(runs[4]) == [runs[4]]
    assert broker.find_runs("", limit=3) == runs[:-4:-1]
    assert broker.find_runs("zz") == []
    assert set(broker.find_runs(runs[0][0], limit=30)) == {run for run in runs if run[0] == runs[0][0]}
    assert [record.instance_id for record in broker.records(limit=2)] == runs[-2:]


def test_without_a_store_there_is_nothing_to_prune() -> None:
    with LocalBroker() as broker:
        for ask in (broker.prune, broker.check):
            with pytest.raises(BrokerError, match="Give it a path"):
                ask()
    wait_gone(broker.pid)

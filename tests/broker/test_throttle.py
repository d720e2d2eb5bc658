"""A producer of runs that is faster than those who work on them, with a broker process between them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fuseline import LocalBroker, ProcessEngine, Step, Workflow
from fuseline.broker import local, throttle
from fuseline.states import State
from fuseline.testing.gate import HANG


class Count(Step):
    def run_step(self, number: int) -> int:
        return number


WORKFLOW = Workflow(outputs=[Count()], name="count", executor="inline")
SCHEMA = WORKFLOW.to_schema()


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few runs be many."""
    monkeypatch.setattr(throttle, "_MOST_STEPS", 0)
    monkeypatch.setattr(throttle, "_MOST_RUNS", 3)
    monkeypatch.setattr(local, "_AT_ONCE", 1)


def test_an_iterator_of_runs_is_read_as_fast_as_engines_take_them_away(tmp_path: Path) -> None:
    read: list[int] = []
    served = threading.Event()

    def inputs() -> Iterator[dict[str, Any]]:
        assert served.wait(HANG)
        for number in range(20):
            read.append(number)
            yield {"number": number}

    with LocalBroker(tmp_path / "runs.db") as broker, ThreadPoolExecutor(2) as pool:
        worker = broker.register_worker([SCHEMA])  # in this thread: one of the pool may be the one that dispatches
        served.set()
        dispatching = pool.submit(broker.dispatch_many, SCHEMA, inputs())
        while len(broker.list_runs(state=State.PENDING)) < 3:
            assert not dispatching.done()
        assert len(read) <= 4  # nothing has ended, and all that may wait is there
        engine = ProcessEngine(broker, [WORKFLOW])
        working = pool.submit(engine.work, block=True)
        runs = dispatching.result(HANG)
        assert [broker.result(run, HANG) for run in runs] == list(range(20))
        engine.stop()
        working.result(HANG)
        broker.unregister_worker(worker)


@pytest.mark.parametrize("who", ["nobody", "the same thread"])
def test_who_dispatches_does_not_wait_where_nobody_else_works(tmp_path: Path, who: str) -> None:
    with LocalBroker(tmp_path / "runs.db") as broker:
        if who == "the same thread":
            broker.register_worker([SCHEMA])
        assert len(broker.dispatch_many(SCHEMA, iter([{"number": 1}] * 10))) == 10

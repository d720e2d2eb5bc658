"""Where hostile steps meet good ones: brokers of both kinds, engines at work, and the ends of runs and processes."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuseline import MemoryBroker, ProcessEngine, RunFailed, Workflow
from fuseline.broker import Broker, LocalBroker
from fuseline.testing.gate import HANG

__all__ = ["BROKERS", "brokers", "end_of", "wait_for_end", "working"]

BROKERS = ["memory", "local"]


@contextmanager
def brokers(kind: str, store: Path | None = None) -> Iterator[Broker]:
    """A broker of one of the ``BROKERS``; its process has ended when the ``with`` statement ends."""
    if kind == "memory":
        yield MemoryBroker()
        return
    with LocalBroker(store) as broker:
        yield broker
    wait_for_end(broker.pid)


@contextmanager
def working(
    broker: Broker, workflows: list[Workflow], *, processes: int, executor: str = "loky"
) -> Iterator[ProcessEngine]:
    """An engine that serves in another thread; it drains when the ``with`` statement ends."""
    engine = ProcessEngine(broker, workflows, processes=processes, executor=executor)
    # A daemon: where a test fails in the middle, steps may be held that nobody lets go any more.
    thread = threading.Thread(target=engine.work, kwargs={"block": True}, daemon=True)
    thread.start()
    yield engine
    engine.stop()
    thread.join(HANG)
    assert not thread.is_alive()


def end_of(broker: Broker, instance_id: str) -> Any:
    """Wait until a run has ended; return its result, or the exception that it failed with."""
    try:
        return broker.result(instance_id, HANG)
    except RunFailed as failure:
        return failure.__cause__


def wait_for_end(pid: int) -> None:
    """Wait until a process has ended that is no child of ours."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], HANG)[0], f"process {pid} lives"
    finally:
        os.close(fd)

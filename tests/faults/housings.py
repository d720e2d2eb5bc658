"""Both brokers, for tests of what each of them must do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fuseline.broker import Broker, LocalBroker, MemoryBroker

from ..broker.conftest import wait_gone

__all__ = ["KINDS", "open_broker"]

KINDS = ["memory", "process", "process with a store"]


@contextmanager
def open_broker(kind: str, folder: Path) -> Iterator[Broker]:
    """Give a broker of one of the ``KINDS``; its process, if it has one, has ended afterwards."""
    if kind == "memory":
        yield MemoryBroker()
        return
    with LocalBroker(folder / "runs.db" if kind == "process with a store" else None) as broker:
        yield broker
    wait_gone(broker.pid)

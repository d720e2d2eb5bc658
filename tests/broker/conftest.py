"""Brokers to test, and the certainty that their processes have ended."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuseline.broker import LocalBroker
from fuseline.testing.gate import HANG


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture(params=["stored", "unstored"])
def broker(request: pytest.FixtureRequest, store: Path) -> Iterator[LocalBroker]:
    with LocalBroker(store if request.param == "stored" else None) as broker:
        yield broker
    wait_gone(broker.pid)


@pytest.fixture
def stored(store: Path) -> Iterator[LocalBroker]:
    """A broker with a store."""
    with LocalBroker(store) as broker:
        yield broker
    wait_gone(broker.pid)


def wait_gone(pid: int) -> None:
    """Wait until a process that is no child of ours has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([fd], [], [], HANG)[0]
    os.close(fd)

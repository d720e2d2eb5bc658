"""Fixtures of the tests of brokers."""

from __future__ import annotations

import pytest

from fuseline import MemoryBroker

from .brokers import Waits


@pytest.fixture
def broker():
    return MemoryBroker()


@pytest.fixture
def waits(broker, monkeypatch):
    return Waits(broker, monkeypatch)

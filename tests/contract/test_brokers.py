"""Every broker keeps the one contract."""

from __future__ import annotations

import os
import select
import tempfile
from typing import ClassVar

from fuseline.broker import LocalBroker, MemoryBroker
from fuseline.testing import BrokerContract, ManualClock
from fuseline.testing.gate import HANG


class TestMemory(BrokerContract):
    make_broker = MemoryBroker


class TestMemoryByHand(BrokerContract):
    def make_broker(self) -> MemoryBroker:
        self.clock = ManualClock(1000.0)
        return MemoryBroker(clock=self.clock)


class SharedBroker(BrokerContract):
    """One broker process serves all tests, because each start of one takes a quarter of a second."""

    broker: ClassVar[LocalBroker]

    def make_broker(self) -> LocalBroker:
        return self.broker

    def end_broker(self, broker: object) -> None:
        pass

    @classmethod
    def share(cls, broker: LocalBroker) -> None:
        cls.broker = broker
        assert broker.workplace  # which has a descriptor that the broker keeps from its first worker on

    @classmethod
    def teardown_class(cls) -> None:
        process = os.pidfd_open(cls.broker.pid)
        cls.broker.close()
        ended, _, _ = select.select([process], [], [], HANG)
        os.close(process)
        assert ended


class TestLocal(SharedBroker):
    @classmethod
    def setup_class(cls) -> None:
        cls.share(LocalBroker())


class TestLocalWithStore(SharedBroker):
    @classmethod
    def setup_class(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        cls.share(LocalBroker(os.path.join(cls.folder.name, "runs.db")))

    @classmethod
    def teardown_class(cls) -> None:
        super().teardown_class()
        cls.folder.cleanup()

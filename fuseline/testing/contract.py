"""ExecutorContract and BrokerContract: what every backend must do, as tests that any backend can run.

They need no plugin or fixture; pytest finds the ``test_`` methods of a subclass. What an executor says it cannot do
(``kills``, ``isolates_crashes``, …) is not asked of it: such a test is skipped.
"""

from __future__ import annotations

from fuseline.testing.bench import Bench, error_of, is_running, result_of
from fuseline.testing.broker_reports import ReportsContract
from fuseline.testing.broker_runs import RunsContract
from fuseline.testing.broker_work import WorkContract
from fuseline.testing.executor_chains import ChainContract
from fuseline.testing.executor_life import LifeContract
from fuseline.testing.executor_outcomes import OutcomeContract

__all__ = ["Bench", "BrokerContract", "ExecutorContract", "error_of", "is_running", "result_of"]


class ExecutorContract(OutcomeContract, LifeContract, ChainContract):
    """The contract of ``fuseline.executors.base.Executor`` as tests. Subclass it and set ``make_executor``.

    Attributes:
        make_executor: called without arguments, returns a new executor that is not started. It should have two slots,
            unless it can have only one.
        patience: seconds that one test may take; then it has failed, and says in which call.
    """


class BrokerContract(RunsContract, WorkContract, ReportsContract):
    """The contract of ``fuseline.broker.Broker`` as tests. Subclass it and set ``make_broker``.

    A broker that reads its time from a clock should run it twice: with a ``ManualClock``, so that the moment of a retry
    is known exactly, and with the clock that runs, because only then it can be asked to give up waiting.

    Attributes:
        make_broker: called without arguments, returns a broker. It may be the same one each time: the tests use
            workflows of their own, and leave other runs alone.
        clock: what the broker that was made last reads the time from, if a test may move that; else retries are waited
            for, which takes a twentieth of a second.
        patience: seconds that one test may take; then it has failed, and says in which call.
    """

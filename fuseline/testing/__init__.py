"""For writers of backends and policies: the contracts of executors and brokers as test suites, and what tests need.

A new backend is tested by one class; ``docs/backends.md`` is about writing one::

    from fuseline.testing import ExecutorContract

    class TestMine(ExecutorContract):
        make_executor = MyExecutor

``contract`` the two suites, made of ``executor_outcomes``, ``executor_life``, ``executor_chains``, ``broker_runs``,
``broker_work``, ``broker_reports`` ·
``promise`` how their tests fail · ``watchdog`` how a hang becomes a failure · ``bench`` drives an executor · ``office``
plays the workers of a broker · ``steps`` good and hostile ones · ``gate`` a barrier that works across processes ·
``census`` what a program holds: children, threads, descriptors · ``clock`` a clock that is moved by hand
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuseline.lazy import lazy_names

if TYPE_CHECKING:
    from fuseline.testing.census import Census
    from fuseline.testing.clock import ManualClock
    from fuseline.testing.contract import Bench, BrokerContract, ExecutorContract
    from fuseline.testing.gate import Gate
    from fuseline.testing.promise import BrokenPromise

__all__ = ["Bench", "BrokenPromise", "BrokerContract", "Census", "ExecutorContract", "Gate", "ManualClock"]

# Steps that enter a gate import this package, too, in each child.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Bench": "fuseline.testing.contract",
        "BrokenPromise": "fuseline.testing.promise",
        "BrokerContract": "fuseline.testing.contract",
        "Census": "fuseline.testing.census",
        "ExecutorContract": "fuseline.testing.contract",
        "Gate": "fuseline.testing.gate",
        "ManualClock": "fuseline.testing.clock",
    },
)

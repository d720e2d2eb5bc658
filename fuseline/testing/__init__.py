"""For writers of backends and policies: the contract of executors as a test suite, and what such tests need.

A new backend is tested by one class::

    from fuseline.testing import ExecutorContract

    class TestMine(ExecutorContract):
        make_executor = MyExecutor

``contract`` the suite · ``steps`` the steps it runs, good and hostile · ``gate`` a barrier that works across processes
· ``census`` what a program holds: children, threads, descriptors · ``clock`` a clock that is moved by hand
"""

from fuseline.testing.census import Census
from fuseline.testing.clock import ManualClock
from fuseline.testing.contract import Bench, ExecutorContract
from fuseline.testing.gate import Gate

__all__ = ["Bench", "Census", "ExecutorContract", "Gate", "ManualClock"]

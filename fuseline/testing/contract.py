"""ExecutorContract: what every backend must do, as tests that any backend can run.

Needs no plugin or fixture; pytest finds the ``test_`` methods of a subclass. What a backend says it cannot do
(``kills``, ``isolates_crashes``, …) is not asked of it: such a test is skipped.
"""

from __future__ import annotations

from fuseline.testing.bench import Bench, error_of, is_running, result_of
from fuseline.testing.executor_life import LifeContract
from fuseline.testing.executor_outcomes import OutcomeContract

__all__ = ["Bench", "ExecutorContract", "error_of", "is_running", "result_of"]


class ExecutorContract(OutcomeContract, LifeContract):
    """The contract of ``fuseline.executors.base.Executor`` as tests. Subclass it and set ``make_executor``.

    Attributes:
        make_executor: called without arguments, returns a new executor that is not started. It should have two slots,
            unless it can have only one.
        patience: seconds that one test may take; then it has failed, and says in which call.
    """

"""Every backend keeps the one contract."""

import pytest

from fuseline.executors import Executor, InlineExecutor, LokyExecutor, ThreadsExecutor
from fuseline.testing import ExecutorContract


class TestInline(ExecutorContract):
    make_executor = InlineExecutor


class TestThreads(ExecutorContract):
    def make_executor(self) -> ThreadsExecutor:
        return ThreadsExecutor(2)


class TestLoky(ExecutorContract):
    def make_executor(self) -> LokyExecutor:
        return LokyExecutor(2)


@pytest.mark.parametrize(
    "executor", [InlineExecutor(), ThreadsExecutor(1), LokyExecutor(1)], ids=["inline", "threads", "loky"]
)
def test_who_starts_one_of_ours_again_is_told_that_it_is_in_use(executor: Executor) -> None:
    executor.start({})
    try:
        with pytest.raises(RuntimeError, match="in use by another engine"):
            executor.start({})
    finally:
        executor.close()

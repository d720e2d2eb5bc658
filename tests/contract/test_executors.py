"""Every backend keeps the one contract."""

from fuseline.executors import InlineExecutor, LokyExecutor, ThreadsExecutor
from fuseline.testing import ExecutorContract


class TestInline(ExecutorContract):
    make_executor = InlineExecutor


class TestThreads(ExecutorContract):
    def make_executor(self) -> ThreadsExecutor:
        return ThreadsExecutor(2)


class TestLoky(ExecutorContract):
    def make_executor(self) -> LokyExecutor:
        return LokyExecutor(2)

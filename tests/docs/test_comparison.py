"""What README says of other pools when one step of many misbehaves, and of this one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import loky
import pytest

from fuseline import MemoryBroker, ProcessEngine, Step, Workflow
from fuseline.testing import Census, Gate
from fuseline.testing.steps import CannotLoadError

sys.path.insert(0, str(Path(__file__).parent))

SIBLINGS = 5


def die() -> None:
    os._exit(3)


def raise_what_cannot_be_unpickled() -> None:
    raise CannotLoadError("fit", "diverged")


def hold(gate: Gate) -> str:
    gate.enter()
    return "done"


class Run(Step):
    def run_step(self, call: Callable[..., Any], arguments: tuple[Any, ...] = ()) -> Any:
        return call(*arguments)


@pytest.fixture
def nothing_left_over() -> None:
    """Not asked of other pools."""


@pytest.mark.parametrize("bad", [die, raise_what_cannot_be_unpickled])
@pytest.mark.parametrize("pool", [ProcessPoolExecutor, loky.ProcessPoolExecutor])
@pytest.mark.filterwarnings("ignore")
def test_elsewhere_unfinished_siblings_fail_too(pool: type[Executor], bad: Callable[[], None], gate: Gate) -> None:
    executor = pool(2)
    sibling = executor.submit(hold, gate)
    gate.wait_entered()
    culprit = executor.submit(bad)
    assert culprit.exception(60) is not None
    assert sibling.exception(60) is not None
    executor.shutdown(wait=True)


@pytest.mark.parametrize("bad", [die, raise_what_cannot_be_unpickled])
def test_here_only_the_culprit_fails(bad: Callable[[], None]) -> None:
    census = Census()
    workflow = Workflow(outputs=[Run()])
    broker = MemoryBroker()
    schema = workflow.to_schema()
    culprit = broker.dispatch_workflow(schema, {"call": bad})
    siblings = [broker.dispatch_workflow(schema, {"call": abs, "arguments": (-i,)}) for i in range(SIBLINGS)]
    ProcessEngine(broker, [workflow], processes=2).work()
    assert [broker.result(run) for run in siblings] == list(range(SIBLINGS))
    assert broker.get_run(culprit).state == "FAILED"
    census.assert_nothing_left()

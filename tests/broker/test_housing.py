"""Requests that meet in one batch, or that change nothing: what the store has afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fuseline.broker.housing import Housing
from fuseline.broker.store import Store
from fuseline.encoding import decode, encode
from fuseline.errors import UnknownRunError
from fuseline.messages import StepAssignment
from fuseline.states import State

from ..core.helpers import dag, report_of

SCHEMA = dag("a>b")


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "runs.db")
    yield store
    store.close()


@pytest.fixture
def housing(kept: Store) -> Housing:
    housing = Housing(kept, kept.presence_folder)
    housing.register("w.1", [SCHEMA], [])
    housing.dispatch(SCHEMA, "r", {})
    housing.commit()
    return housing


def take(housing: Housing) -> StepAssignment:
    [assignment] = housing.get_steps("w.1", 1)
    housing.commit()
    return assignment


def succeed(housing: Housing, assignment: StepAssignment) -> None:
    housing.report("w.1", report_of(assignment, State.SUCCEEDED, result=encode(assignment.step_name)))
    housing.commit()


@pytest.mark.parametrize("when", ["before the run has ended", "after"])
def test_cancelling_a_step_that_has_succeeded_leaves_its_result(housing: Housing, kept: Store, when: str) -> None:
    succeed(housing, take(housing))
    last = take(housing)
    if when == "after":
        succeed(housing, last)
    assert not housing.cancel("r", "a")
    assert not housing.cancel("r", "b") or when != "after"
    housing.commit()
    loaded = kept.load("r")
    assert loaded is not None
    result = loaded[1].steps["b" if when == "after" else "a"].result
    assert result is not None
    assert decode(result) == ("b" if when == "after" else "a")


def test_a_run_may_be_forgotten_in_the_batch_in_which_it_ends(housing: Housing) -> None:
    housing.cancel("r", None)
    housing.forget("r")
    housing.commit()
    with pytest.raises(UnknownRunError):
        housing.ask.record("r")

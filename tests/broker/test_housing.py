"""Requests that meet in one batch, or that change nothing, and brokers that follow others: what the store has then."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fuseline import Workflow
from fuseline.broker.base import encode_inputs
from fuseline.broker.housing import Housing
from fuseline.broker.store import Store
from fuseline.encoding import decode, encode
from fuseline.errors import UnknownRunError, WorkflowError
from fuseline.messages import AttemptReport, FailureAction, FailureDecision, Outcome, StepAssignment, StepReport
from fuseline.policies import WorkflowTimeoutPolicy
from fuseline.presence import Presence
from fuseline.spool import Spool, remove_spools
from fuseline.states import State
from fuseline.values import Value
from fuseline.workplace import LARGE, Workplace

from ..core.helpers import dag, report_of
from .workflows import Add

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


# -- one broker after another -----------------------------------------------------------------------------------------

Reopen = Callable[[], Housing]


@pytest.fixture
def reopen(kept: Store) -> Iterator[Reopen]:
    """Ends a broker, and returns the next one of that store."""
    stores = [kept]

    def reopen() -> Housing:
        stores.pop().close()
        stores.append(Store(kept.path))
        housing = Housing(stores[0], kept.presence_folder)
        housing.recover()
        return housing

    yield reopen
    stores.pop().close()


def story(housing: Housing, run: str) -> list[tuple[str | None, str]]:
    return [(move.step_name, move.state.value) for move in housing.ask.story(run)]


def ids(housing: Housing, state: State | None = None, limit: int | None = None) -> list[str]:
    return [record.instance_id for record in housing.ask.records(None, state, limit)]


def test_what_happens_after_the_clock_was_set_back_comes_after_what_happened_before(
    housing: Housing, reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    first = take(housing)
    for hours in (1, 2, 3):
        monkeypatch.setattr("fuseline.broker.housing.time.time", lambda hours=hours: real() - 3600 * hours)
        housing = reopen()
        assert housing.register("w.1", [SCHEMA], [first.token] if hours == 1 else []) == []
        if hours == 1:
            succeed(housing, first)
            housing.dispatch(SCHEMA, "s", {})
            housing.commit()
        assert housing.ask.record("r").steps["a"].state is State.SUCCEEDED
        if hours == 2:
            for _ in range(3):
                succeed(housing, take(housing))
    in_order = ["READY", "RUNNING", "SUCCEEDED"]
    expected = [(step, state) for step in "ab" for state in in_order]
    for run in "rs":
        assert story(housing, run) == [expected[0], (None, "RUNNING"), *expected[1:], (None, "SUCCEEDED")]
    times = [move.at for move in housing.ask.story("r")]
    assert times[0] > times[3] + 3000 > times[-1] + 6000
    assert housing.ask.record("s").created < housing.ask.record("r").created
    assert ids(housing) == ids(housing, State.SUCCEEDED) == ["r", "s"]
    assert ids(housing, limit=1) == ["s"]
    assert housing.ask.find("", 2) == ["s", "r"]


class Left(NamedTuple):
    """What is left of a program that was killed when it had finished a step, and of one that nobody knows of."""

    presence: Presence  #: of what it had started, and is there still
    token: int
    result: Value
    file: Path  #: of the result
    leftover: Path  #: a file that nothing refers to


@pytest.fixture
def left(housing: Housing, kept: Store) -> Iterator[Left]:
    presence = Presence(kept.presence_folder / "w")
    place = Workplace(presence=presence.path, values=kept.values_folder, spools=kept.spools_folder)
    token = take(housing).token
    result = place.keep(encode(b"x" * (2 * LARGE)), "it")
    spool = Spool(kept.spools_folder, "w")
    spool.add(AttemptReport(token=token, outcome=Outcome.RETURNED, result=result, started=1.0))
    spool.close()
    file, leftover = Path(result.file), kept.values_folder / ("0" * 32)
    leftover.write_bytes(b"")
    for path in (file, leftover):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    yield Left(presence, token, result, file, leftover)
    presence.leave()


def test_files_are_swept_when_the_last_words_of_all_who_are_missing_were_heard(left: Left, reopen: Reopen) -> None:
    housing = reopen()
    soon = time.monotonic() + 1.0
    housing.on_time(soon)
    housing.prune(None, None)
    assert left.file.exists()
    assert left.leftover.exists()  # nothing was swept
    left.presence.leave()
    housing.on_time(soon + 1.0)
    assert not left.leftover.exists()
    assert left.file.exists()
    step = housing.ask.record("r").steps["a"]
    assert (step.state, step.result) == (State.SUCCEEDED, left.result)
    assert housing.ask.check() == []


def test_what_one_who_was_missing_has_just_said_is_stored_before_files_are_swept(left: Left, reopen: Reopen) -> None:
    housing = reopen()
    assert housing.register("w.1", [SCHEMA], [left.token]) == []
    report = StepReport(
        workflow_id=SCHEMA.workflow_id,
        instance_id="r",
        step_name="a",
        state=State.SUCCEEDED,
        result=left.result,
        token=left.token,
    )
    housing.report("w.1", report)
    housing.on_time(time.monotonic() + 1.0)
    assert not left.leftover.exists()
    assert left.file.exists()
    housing = reopen()
    assert housing.ask.record("r").steps["a"].result == left.result
    assert housing.ask.check() == []


def test_last_words_are_removed_when_they_are_stored(
    left: Left, reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Store | None = None
    removed = []

    def remove(folder: Path, program: str) -> None:
        assert store is not None, "too early"
        is_settled, loaded = store.has_settled(), store.load("r")
        assert loaded is not None
        removed.append((program, is_settled, loaded[1].steps["a"].state))
        remove_spools(folder, program)

    monkeypatch.setattr("fuseline.broker.absentees.remove_spools", remove)
    left.presence.leave()
    housing = reopen()
    store = housing._store
    assert store is not None
    housing.on_time(time.monotonic() + 1.0)
    assert removed == [("w", True, State.SUCCEEDED)]
    assert list(store.spools_folder.iterdir()) == []


def test_a_run_with_a_step_that_may_still_run_is_not_moved_to_a_changed_workflow(housing: Housing, kept: Store) -> None:
    take(housing)
    recovered = Housing(kept, kept.presence_folder)
    recovered.recover()
    with pytest.raises(WorkflowError, match="run r has a step whose worker may still be there"):
        recovered.migrate(dag("a>b>c"))
    recovered.worker_left("w.1")
    assert recovered.migrate(dag("a>b>c")) == ["r"]
    recovered.commit()
    loaded = kept.load("r")
    assert loaded is not None
    assert list(loaded[1].steps) == ["a", "b", "c"]
    assert loaded[1].steps["a"].attempts == 1


def test_a_start_that_nobody_could_tell_of_goes_with_the_next_assignment_however_often_the_broker_ends(
    housing: Housing, reopen: Reopen
) -> None:
    housing.dispatch(SCHEMA, "s", {})
    for _ in range(3):
        assert [each.payload.starts_run for each in housing.get_steps("w.1", 2)] == [True, True]
        housing.commit()
        housing = reopen()
        housing.register("w.1", [SCHEMA], [])  # it was never told of them
        housing.commit()
        housing = reopen()
        housing.register("w.1", [SCHEMA], [])
    first, other = housing.get_steps("w.1", 2)
    assert first.payload.starts_run
    assert other.payload.starts_run
    housing.commit()
    housing = reopen()
    housing.register("w.1", [SCHEMA], [first.token])
    assert housing.report("w.1", report_of(first, State.READY, told=True)).step_state is State.READY
    for _ in range(2):
        again, other = sorted(housing.get_steps("w.1", 2), key=lambda each: each.instance_id)
        assert (again.payload.starts_run, other.payload.starts_run) == (False, True)
        housing.commit()
        housing = reopen()
        housing.register("w.1", [SCHEMA], [])


def test_the_start_of_a_run_that_is_resumed_is_told_once_more_and_that_of_one_that_waits_is_not(
    housing: Housing, reopen: Reopen
) -> None:
    schema = dag("a b>c", name="other")
    housing.register("w.2", [schema], [])
    housing.dispatch(schema, "s", {})
    a, b = housing.get_steps("w.2", 2)
    housing.report("w.2", report_of(a, State.FAILED))
    housing.report("w.2", report_of(b, State.READY))
    assert housing.ask.record("s").state is State.FAILED
    assert housing.resume("s", None, changed=False)
    [first] = housing.get_steps("w.2", 1)
    assert first.payload.starts_run
    housing.commit()
    housing = reopen()
    housing.register("w.2", [schema], [first.token])
    [second] = housing.get_steps("w.2", 1)
    assert not second.payload.starts_run
    for each in (first, second):
        housing.report("w.2", report_of(each, State.SUCCEEDED, result=encode(1)))
    housing.worker_left("w.2")
    changed = dag("a b>c>d", name="other")
    assert housing.migrate(changed) == ["s"]
    housing.commit()
    housing = reopen()
    housing.register("w.2", [changed], [])
    [third] = housing.get_steps("w.2", 1)
    assert (third.step_name, third.payload.starts_run) == ("c", False)


def test_the_time_of_a_run_goes_on_from_the_start_of_each_later_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = 0.0
    for name in ("monotonic", "time"):
        clock = getattr(time, name)
        monkeypatch.setattr(time, name, lambda clock=clock: clock() + later)
    schema = Workflow(outputs=[Add()], name="timed", policies=[WorkflowTimeoutPolicy(1000.0)]).to_schema()

    def live(handed_out: list[StepAssignment]) -> tuple[Store, Housing]:
        opened = Store(tmp_path / "runs.db")
        housing = Housing(opened, opened.presence_folder)
        housing.recover()
        housing.register("w.1", [schema], [each.token for each in handed_out])
        return opened, housing

    def spent(opened: Store) -> float:
        found = opened.load("r")
        assert found is not None
        assert found[1].spent is not None
        return found[1].spent

    opened, housing = live([])
    housing.dispatch(schema, "r", encode_inputs({"a": 1}))
    later = 100.0  # in which nobody works on it
    [first] = housing.get_steps("w.1", 1)
    housing.commit()
    opened.close()
    opened, housing = live([first])
    later = 500.0  # in which the step runs
    housing.report("w.1", report_of(first, State.FAILED, decision=FailureDecision(FailureAction.RETRY)))
    housing.commit()
    opened.close()
    opened, housing = live([])
    assert spent(opened) == pytest.approx(400.0, abs=10.0)
    housing.on_time(time.monotonic())
    [second] = housing.get_steps("w.1", 1)
    later = 530.0
    housing.report("w.1", report_of(second, State.FAILED, decision=FailureDecision(FailureAction.RETRY)))
    housing.commit()
    assert spent(opened) == pytest.approx(430.0, abs=10.0)
    opened.close()

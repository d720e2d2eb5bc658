"""The broker process is killed at its first SQL statement, at its second, and so on; nobody but its log notices.

Each round has a store of its own, a broker process that dies at one statement, the one that ``LocalBroker`` starts in
its place, and a worker in this program, which goes on all the while. The last round is the one whose broker was not
killed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fuseline import ProcessEngine, Step, Workflow
from fuseline.broker import LocalBroker
from fuseline.errors import BrokerError
from fuseline.policies import RetryPolicy
from fuseline.states import State

from .conftest import wait_gone
from .workflows import values_of

pytestmark = pytest.mark.usefixtures("checked")

#: Statements that are all tried; of those after them, one of five.
ALL = 60
STRIDE = 5
#: A net against a loop that does not end.
MOST = 1000
RUNS = 2


class Note(Step):
    """Writes its start and end to a file, and passes a number on."""

    def run_step(self, log: str, number: int) -> int:
        write(log, f"start first {number}", f"end first {number}")
        return number


class FailOnce(Step):
    """Likewise, but fails at its first try."""

    def run_step(self, log: str, x: int) -> int:
        started = f"start second {x}"
        is_first = started not in Path(log).read_text().splitlines()
        write(log, started, f"end second {x}")
        if is_first:
            raise ConnectionError("not yet")
        return 10 * x


class Last(Step):
    def run_step(self, log: str, x: int) -> int:
        write(log, f"start third {x // 10}", f"end third {x // 10}")
        return x + 1


def write(log: str, *lines: str) -> None:
    with open(log, "a") as file:
        for line in lines:
            print(line, file=file, flush=True)


def workflow() -> Workflow:
    first, second, third = Note(name="first"), FailOnce(name="second", policies=[RetryPolicy(1)]), Last(name="third")
    first >> second >> third
    return Workflow(outputs=[third], name="noted")


class Round(NamedTuple):
    """What became of a broker that was to die at a statement."""

    was_killed: bool
    was_started: bool  #: whether it lived long enough for a program to get in


def statements() -> Iterator[int]:
    """Yield the numbers of the statements to die at: the first 60, and then one of five.

    It is another one of the five each time (61, 68, 75, 77, 84, 86 ...), because batches resemble each other and
    their length may well be a multiple of five.
    """
    yield from range(1, ALL + 1)
    for turn in range(MOST):
        yield ALL + 1 + STRIDE * turn + 2 * turn % STRIDE


def play(store: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> Round:
    """Let runs come to their end while the broker dies at a statement, and check that nothing else is to be seen."""
    was_started = True
    with monkeypatch.context() as patch:
        patch.setenv("FUSELINE_FAULT", f"sql:{number}")
        patch.setattr("fuseline.broker.process._STARTS", 1)  # or three would die
        try:
            broker = LocalBroker(store)
        except BrokerError:
            was_started = False
    if not was_started:
        broker = LocalBroker(store)
    first_pid = broker.pid
    log = store.parent / "log"
    noted = workflow()
    with broker:
        inputs = [{"log": str(log), "number": i} for i in range(RUNS)]
        runs = broker.dispatch_many(noted.to_schema(), inputs)
        ProcessEngine(broker, [noted], processes=1, executor="inline").work()
        for i, run in enumerate(runs):
            assert broker.result(run) == 10 * i + 1
        assert len(broker.list_runs()) == RUNS
        check_story(broker, runs, log)
        assert broker.check() == []
        assert broker.status().counts == {"SUCCEEDED": RUNS}
        last_pid = broker.pid
    wait_gone(last_pid)
    assert values_of(store) == []
    assert list(presence_of(store).iterdir()) == []
    return Round(not was_started or first_pid != last_pid, was_started)


def presence_of(store: Path) -> Path:
    return store.with_name(store.name + ".files") / "presence"


def check_story(broker: LocalBroker, runs: list[str], log: Path) -> None:
    """Check that each start is recorded, that none follows an outcome, and that no two overlap."""
    lines = [line.split() for line in log.read_text().splitlines()]
    for start, end in zip(lines[::2], lines[1::2], strict=True):
        assert (start[0], end[0], start[1:]) == ("start", "end", end[1:])
    started = Counter((name, int(number)) for _, name, number in lines[::2])
    for i, run in enumerate(runs):
        info, story = broker.get_run(run), broker.story(run)
        for name, step in info.steps.items():
            assert step.state is State.SUCCEEDED
            assert step.attempts == started[name, i] == (2 if name == "second" else 1)
            assert [move.state for move in story if move.step_name == name].count(State.SUCCEEDED) == 1
        assert [move.state for move in story if move.step_name is None].count(State.SUCCEEDED) == 1


@pytest.fixture(autouse=True)
def runtime_folder(monkeypatch: pytest.MonkeyPatch, short_folder: Path) -> None:
    """Where the killed brokers leave their doors behind."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))


@pytest.mark.timeout(300)
def test_the_broker_may_die_at_any_statement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[Round] = []
    for number in statements():
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            rounds.append(play(folder / "runs.db", number, monkeypatch))
        except BaseException as error:
            error.add_note(f"the broker was to die at statement {number}: {folder}")
            raise
        if not rounds[-1].was_killed:
            break
    assert not rounds[-1].was_killed
    assert len(rounds) > ALL, "it has hardly done anything"
    could_start = [each.was_started for each in rounds]
    assert could_start == sorted(could_start), "only a broker that is just starting may fail to"

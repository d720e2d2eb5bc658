"""Random work on a housing, what was told of it, and the check that a cut has undone none of that.

A moment is a length of the disk's log. What is *said* to the housing may be on the disk from then on, and what was
*told* after the commit must be. So for each moment and each run and step there is a set of what may be found, and
after a cut something of it has to be found.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from fuseline.broker.housing import Housing
from fuseline.broker.store import Changes, Durability, Store
from fuseline.encoding import encode
from fuseline.errors import RunNotFinished
from fuseline.messages import ReportStatus, StepAssignment, StepReport
from fuseline.policies import RetryPolicy
from fuseline.records import Move, RunRecord, StepRecord
from fuseline.schema import WorkflowSchema
from fuseline.states import State

from ..core.helpers import dag, error_info, report_of
from .forgetful import Disk

SCHEMAS: tuple[WorkflowSchema, ...] = (
    dag("a>b>d a>c>d e", policies={"b": [RetryPolicy(2)], "c": [RetryPolicy(1)]}, name="diamond"),
    dag("a>b>c a>d e>d", policies={"a": [RetryPolicy(1)]}, on_failure="continue", name="going on"),
    dag("only", name="single"),
)

Key = tuple[str, str | None]  #: a run, or a step of it


class Known(NamedTuple):
    """How a run or a step stands, as far as it cannot change unasked."""

    state: str  #: one of the ends, "open" or "gone"
    attempts: int | None = None  #: of a step that has ended
    detail: str | None = None  #: its error or the cause of its end; None if nobody was told
    result: bytes | None = None

    def fits(self, told: Known) -> bool:
        """Return whether this, which was found, is what was told.

        A result may be there no more; and of a step that nothing needs any more, the result was not told.
        """
        same_result = told.result is None or self.result in (None, told.result)
        return self[:2] == told[:2] and told.detail in (None, self.detail) and same_result


OPEN, GONE = Known("open"), Known("gone")


class _Fact(NamedTuple):
    known: Known
    said_at: int
    told_at: int | None


class Ledger:
    """What was said and told, and when."""

    def __init__(self) -> None:
        self._facts: dict[Key, list[_Fact]] = {}
        self._untold: list[Key] = []

    def __iter__(self) -> Iterator[Key]:
        return iter(self._facts)

    def after(self, at: int) -> Ledger:
        """Return what is known at the beginning of another log, if this one ended with a cut."""
        ledger = Ledger()
        for key in self:
            told, *said = self.possible(key, at)
            ledger._facts[key] = [_Fact(told, 0, 0), *(_Fact(known, 0, None) for known in said)]
            ledger._untold += [key] * bool(said)
        return ledger

    def last(self, key: Key) -> Known:
        """Return what was said last."""
        return self._facts[key][-1].known if key in self._facts else _unheard_of(key)

    def say(self, key: Key, known: Known, at: int) -> None:
        """Note what may be on the disk from now on."""
        if known != self.last(key):
            self._facts.setdefault(key, []).append(_Fact(known, at, None))
            self._untold.append(key)

    def tell(self, at: int) -> None:
        """Note that all that was said is on the disk from now on."""
        for key in self._untold:
            self._facts[key] = [
                fact if fact.told_at is not None else fact._replace(told_at=at) for fact in self._facts[key]
            ]
        self._untold.clear()

    def told(self, key: Key, at: int) -> Known | None:
        """Return what was told last before a moment, if anything was."""
        told = [fact.known for fact in self._facts.get(key, ()) if fact.told_at is not None and fact.told_at <= at]
        return told[-1] if told else None

    def possible(self, key: Key, at: int) -> list[Known]:
        """Return what may be found after a cut: what was told last, and all that was said after that."""
        found = [self.told(key, at) or _unheard_of(key)]
        facts = self._facts.get(key, ())
        untold = [fact for fact in facts if fact.said_at <= at and (fact.told_at is None or fact.told_at > at)]
        return found + [fact.known for fact in untold]


def _unheard_of(key: Key) -> Known:
    return GONE if key[1] is None else OPEN


class Commit(NamedTuple):
    """A state of the store, whole."""

    begun_at: int
    done_at: int
    synced: bool
    digest: str


class History:
    """A store on a forgetful disk, and who uses it.

    Args:
        ledger: what is known of the runs that the store has already.
    """

    def __init__(
        self, disk: Disk, path: Path, rng: Random, durability: Durability = "power", ledger: Ledger | None = None
    ) -> None:
        self._disk = disk
        self._rng = rng
        self.ledger = ledger or Ledger()
        self.epochs: list[tuple[int, int]] = []  #: (moment from which on somebody knows it, epoch)
        self.tokens: list[tuple[int, int]] = []  #: likewise
        self.commits: list[Commit] = []
        self.counts: dict[str, int] = {}  #: {what was done: how often}
        self._held: dict[int, tuple[str, StepAssignment]] = {}  #: {token: who has it}
        self._fresh: dict[int, tuple[str, StepAssignment]] = {}  #: those that were not told yet
        self._reports: list[tuple[str, StepReport, State]] = []  #: that were accepted, and what the step went to
        self._errors: dict[Key, str] = {}  #: of the last report
        self._results: dict[Key, bytes] = {}  #: likewise
        self._numbers = iter(range(1, 1 << 30))
        self._prefix = f"{rng.getrandbits(24):06x}"  #: of the ids here, since another history may have gone before
        self._store = Store(path, durability)
        self.syncs = self._store.syncs
        self.epochs.append((self.now, self._store.epoch))
        self.commits.append(Commit(0, self.now, True, digest(self._store)))
        self._commit_store, self._store.commit = self._store.commit, self._noted_commit  # type: ignore[method-assign]
        self._housing = Housing(self._store, self._store.presence_folder)
        self._housing.watched = True
        self._housing.recover()
        self._housing.on_time(time.monotonic())
        self._runs = [record.instance_id for record in self._housing.ask.records(None, None, None)]
        found = found_in(self._housing)
        for key in {**dict.fromkeys(self.ledger), **found}:  # whoever asks is told from now on
            self.ledger.say(key, found.get(key, _unheard_of(key)), 0)
        self.workers = [self._join(), self._join()]
        self.commit()

    @property
    def now(self) -> int:
        return len(self._disk.log)

    @staticmethod
    def actions() -> list[str]:
        """Return the names of what is done; ``counts`` says how often it was."""
        return [action.__name__ for action in _ACTIONS]

    def _noted_commit(self, changes: Changes, epoch: float, *, behind: bool = False) -> None:
        begun_at = self.now
        self._commit_store(changes, epoch, behind=behind)
        self._store.settle()
        if changes:
            synced = self._store.syncs and changes.matters
            self.commits.append(Commit(begun_at, self.now, synced, digest(self._store)))

    # -- what a server does -------------------------------------------------------------------------------------------

    def work(self, batches: int) -> None:
        """Do as many batches of random things, and commit after each."""
        actions = list(_ACTIONS)
        weights = list(_ACTIONS.values())
        for _ in range(batches):
            for action in self._rng.choices(actions, weights, k=self._rng.randint(1, 4)):
                said_at = self.now
                if action(self) is not False:
                    self.counts[action.__name__] = self.counts.get(action.__name__, 0) + 1
                self._listen(said_at)
            self.commit()

    def commit(self) -> None:
        """Commit, then tell."""
        self._listen(self.now)
        self._housing.commit(behind=bool(len(self.commits) % 4))
        self.ledger.tell(self.now)
        self._held.update(self._fresh)
        self.tokens += [(self.now, token) for token in self._fresh]
        self._fresh.clear()
        self._housing.stirred.clear()
        self._housing.notices.clear()

    def close(self) -> None:
        self._store.close()

    def _listen(self, said_at: int) -> None:
        for instance_id, move in self._housing.happened:
            key = (instance_id, move.step_name)
            self.ledger.say(key, self._known(key, move), said_at)
        self._housing.happened.clear()

    def _known(self, key: Key, move: Move) -> Known:
        if not move.state.is_settled:
            return OPEN
        if move.step_name is None:
            return Known(move.state.value)
        if move.state is State.SUCCEEDED:
            return Known(move.state.value, move.attempt, "", self._results[key])
        detail = self._errors.get(key) if move.state is State.FAILED else move.cause
        return Known(move.state.value, move.attempt, detail)

    # -- things to do; each returns False if there is nothing to do it with -------------------------------------------

    def dispatch(self) -> None:
        for _ in range(self._rng.randint(1, 3)):
            number = next(self._numbers)
            run = f"{self._prefix}-{number}"
            self._housing.dispatch(self._rng.choice(SCHEMAS), run, {})
            self._runs.append(run)
            self.ledger.say((run, None), OPEN, self.now)

    def get_steps(self) -> bool:
        worker = self._rng.choice(self.workers)
        assignments = self._housing.get_steps(worker, self._rng.randint(1, 4))
        for each in assignments:
            self._fresh[each.token] = (worker, each)
        return bool(assignments)

    def report(self, state: State = State.SUCCEEDED) -> bool:
        if not self._held:
            return False
        worker, assignment = self._held.pop(self._rng.choice(list(self._held)))
        fields: dict[str, Any] = {}
        key = (assignment.instance_id, assignment.step_name)
        if state is State.SUCCEEDED:
            fields["result"] = encode(f"{key} by {assignment.token}" + "." * self._rng.choice((0, 0, 9000)))
            self._results[key] = fields["result"].data
        elif state is State.FAILED:
            self._errors[key] = f"failed as {assignment.token}"
            fields["error"] = error_info(RuntimeError(self._errors[key]))
        self._report(worker, report_of(assignment, state, **fields))
        return True

    def report_failure(self) -> bool:
        return self.report(State.FAILED)

    def report_skip(self) -> bool:
        return self.report(State.SKIPPED)

    def hand_back(self) -> bool:
        return self.report(self._rng.choice((State.READY, State.CANCELLED)))

    def _report(self, worker: str, report: StepReport) -> None:
        answer = self._housing.report(worker, report)
        if answer.status is ReportStatus.ACCEPTED and answer.step_state is not None:
            self._reports.append((worker, report, answer.step_state))

    def report_again(self) -> bool:
        """Send a report that was accepted again: its answer was lost, and the worker is told what it was."""
        if not self._reports:
            return False
        worker, report, state = self._reports[-1]
        if worker not in self.workers or self.ledger.last((report.instance_id, None)) == GONE:
            return False
        answer = self._housing.report(worker, report, again=True)
        assert (answer.status, answer.step_state) == (ReportStatus.ACCEPTED, state)
        return True

    def cancel(self) -> bool:
        return self._with_run(lambda run: self._housing.cancel(run, None))

    def cancel_step(self) -> bool:
        return self._with_run(lambda run: self._housing.cancel(run, self._rng.choice(self._step_names(run))))

    def resume(self) -> bool:
        return self._with_run(lambda run: self._housing.resume(run, None, changed=False))

    def forget(self) -> bool:
        def forget(run: str) -> bool:
            try:
                self._housing.forget(run)
            except RunNotFinished:
                return False
            self._note_gone(run, self.now)
            return True

        return self._with_run(forget)

    def prune(self) -> bool:
        at = self.now
        if not self._housing.prune(None, self._rng.randint(2, 8)):
            return False
        there = set(self._housing.ask.find("", 1 << 30))
        for run in [run for run in self._runs if run not in there]:
            self._note_gone(run, at)
        return True

    def lose_worker(self) -> None:
        """Find a worker dead, and take in another."""
        lost = self.workers.pop(self._rng.randrange(2))
        self._housing.worker_left(lost)
        for tokens in (self._held, self._fresh):
            for token in [token for token, (worker, _) in tokens.items() if worker == lost]:
                del tokens[token]
        self.workers.append(self._join())

    def come_back(self) -> None:
        """Register a worker whose link was lost, and with it what it was about to be given."""
        worker = self._rng.choice(self.workers)
        held = [token for token, (holder, _) in self._held.items() if holder == worker]
        assert self._housing.register(worker, SCHEMAS, held) == []
        self._fresh = {token: it for token, it in self._fresh.items() if it[0] != worker}

    def _join(self) -> str:
        worker = f"{self._prefix}w{next(self._numbers)}.1"
        self._housing.register(worker, SCHEMAS, ())
        return worker

    def pass_time(self) -> None:
        self._housing.on_time(time.monotonic())

    def _with_run(self, action: Callable[[str], bool]) -> bool:
        return bool(self._runs) and action(self._rng.choice(self._runs))

    def _step_names(self, run: str) -> list[str]:
        return list(self._housing.ask.record(run).steps)

    def _note_gone(self, run: str, at: int) -> None:
        self._runs.remove(run)
        self.ledger.say((run, None), GONE, at)


#: And how often, in proportion.
_ACTIONS: dict[Callable[[History], bool | None], int] = {
    History.dispatch: 3,
    History.get_steps: 10,
    History.report: 10,
    History.report_failure: 4,
    History.report_skip: 1,
    History.hand_back: 1,
    History.report_again: 1,
    History.cancel: 1,
    History.cancel_step: 1,
    History.resume: 3,
    History.forget: 1,
    History.prune: 1,
    History.lose_worker: 1,
    History.come_back: 1,
    History.pass_time: 1,
}


# -- after a cut ------------------------------------------------------------------------------------------------------


def check_recovered(history: History, path: Path, at: int, *, lost_power: bool) -> None:
    """Check what another broker finds after a cut, and that it can bring all of it to an end.

    Args:
        path: the store as it was left.
        at: the moment of the cut.
        lost_power: whether the power went, or only the process.
    """
    store = Store(path, "process")
    try:
        assert store._db.one("PRAGMA integrity_check") == ("ok",)
        assert store.check() == []
        last_epoch = max((epoch for told_at, epoch in history.epochs if told_at <= at), default=0)
        assert store.epoch > last_epoch, f"at {at} the epoch is {store.epoch} again"
        _check_whole(history, digest(store), at, lost_power=lost_power)
        housing = Housing(store, store.presence_folder)
        housing.recover()
        if history.syncs or not lost_power:
            check_facts(history.ledger, found_in(housing), at)
        last_token = max((token for told_at, token in history.tokens if told_at <= at), default=0)
        _finish(housing, last_token)
    finally:
        store.close()


def check_facts(ledger: Ledger, found: dict[Key, Known], at: int) -> None:
    """Check that everything which was told is there, and nothing that was not said."""
    for key in {*ledger, *found}:
        if key[1] is not None and (key[0], None) not in found:
            continue  # a step of a run that is gone: it is the run that matters
        known = found.get(key, GONE)
        possible = ledger.possible(key, at)
        assert any(known.fits(each) for each in possible), f"{key} at {at}: {known} was found instead of {possible}"


def found_in(housing: Housing) -> dict[Key, Known]:
    """Return how the runs and their steps stand."""
    found: dict[Key, Known] = {}
    for record in housing.ask.records(None, None, None):
        found[record.instance_id, None] = _known_run(record)
        for name, step in record.steps.items():
            found[record.instance_id, name] = _known_step(step)
    return found


def _known_run(record: RunRecord) -> Known:
    return Known(record.state.value) if record.state.is_settled else OPEN


def _known_step(step: StepRecord) -> Known:
    if not step.state.is_settled:
        return OPEN
    detail = step.error.message if step.state is State.FAILED and step.error is not None else step.cause
    return Known(step.state.value, step.attempts, detail, None if step.result is None else step.result.data)


def _check_whole(history: History, found: str, at: int, *, lost_power: bool) -> None:
    """Check that the store is as it was after one commit: not before the last one that must be there."""
    done = [i for i, commit in enumerate(history.commits) if commit.done_at <= at]
    kept = [i for i in done if history.commits[i].synced or not lost_power]
    possible = [commit for commit in history.commits[max(kept, default=0) :] if commit.begun_at <= at]
    assert found in [commit.digest for commit in possible], f"at {at} the store is as it never was, or as it was before"


def _finish(housing: Housing, last_token: int) -> None:
    """Drive what is left to its end; those who worked before are gone, and nothing that has ended starts again."""
    housing.on_time(time.monotonic())
    assert not housing.missing
    housing.register("last.1", SCHEMAS, ())
    ended = {key for key, known in found_in(housing).items() if known != OPEN}
    while housing.unsettled("last.1"):
        housing.on_time(time.monotonic())
        assignments = housing.get_steps("last.1", 10)
        housing.commit()
        assert assignments, "not everything has ended, and nothing is left to do"
        for each in assignments:
            key = (each.instance_id, each.step_name)
            assert key not in ended, f"{key} starts again, and has ended"
            assert each.token > last_token, f"token {each.token} is given out again"
            answer = housing.report("last.1", report_of(each, State.SUCCEEDED, result=encode("the end")))
            assert answer.status is ReportStatus.ACCEPTED
            ended.add(key)
        housing.commit()
    for record in housing.ask.records(None, None, None):
        assert record.state.is_settled
        if record.state is State.SUCCEEDED:
            outputs = [record.steps[name] for name in record.outputs]
            assert all(step.result is not None for step in outputs if step.state is State.SUCCEEDED)


def digest(store: Store) -> str:
    """Return what tells one content of the store from another."""
    tables = ("workflows", "runs", "steps", "moves", "files")
    rows = [store._db.all(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]
    return hashlib.sha1(repr([list(map(tuple, table)) for table in rows]).encode()).hexdigest()

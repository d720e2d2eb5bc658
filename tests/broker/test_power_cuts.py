"""What a power cut leaves: everything that was told, nothing that was not said, and a store that works.

The store runs on a disk that forgets what was not synced. Afterwards the power is cut at moments of its log, and a
plain store on what is left is compared with what was told until then.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from fuseline.broker import housing as housing_module
from fuseline.broker.housing import Housing
from fuseline.broker.store import Durability, Store
from fuseline.broker.store import database as database_module
from fuseline.broker.store.database import Database
from fuseline.encoding import encode
from fuseline.errors import StoreError
from fuseline.states import State

from ..core.helpers import report_of
from .forgetful import POWER_CUTS, Disk, How
from .history import SCHEMAS, History, check_facts, check_recovered, found_in

SEEDS = range(6)
#: Moments of each history at which the power is cut, in every way.
MOMENTS = 16
#: Commits of each history, about.
BATCHES = 60

_folders = itertools.count()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory, where there is such a folder: the syncs of the stores that check are not what is tested."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuseline-cuts-", dir=memory) as folder:
        yield Path(folder)


@contextmanager
def forgetful(folder: Path, **options: Any) -> Iterator[Disk]:
    """Let stores work on a disk that forgets."""
    folder.mkdir(exist_ok=True)
    module: Any = database_module
    real: ModuleType = module.sqlite3
    with Disk(folder, **options) as disk:
        module.sqlite3 = disk.sqlite3
        try:
            yield disk
        finally:
            module.sqlite3 = real


def cut(disk: Disk, tmp_path: Path, how: How, rng: Random, at: int | None = None) -> Path:
    """Return a folder with what is left at a moment."""
    folder = tmp_path / f"after-{next(_folders)}"
    disk.cut(folder, how, rng, at)
    return folder


def moments(history: History, rng: Random, count: int) -> list[int]:
    """Return some moments: half of them right after a commit, when all has just been told."""
    commits = [commit.done_at for commit in history.commits]
    return sorted(rng.choice(commits) if i % 2 else rng.randint(0, history.now) for i in range(count))


def check_cuts(history: History, disk: Disk, tmp_path: Path, rng: Random, at: list[int], *ways: How) -> None:
    """Check what is left by a cut in each of these ways at each of these moments."""
    for moment in at:
        for how in ways:
            folder = cut(disk, tmp_path, how, rng, moment)
            try:
                check_recovered(history, folder / "runs.db", moment, lost_power=how != "everything")
            except BaseException as error:
                error.add_note(f"after a cut at {moment} of {history.now} that left {how}: {folder}")
                raise


def history_of(
    seed: int, tmp_path: Path, disk: Disk, durability: Durability = "power", batches: int = BATCHES
) -> History:
    history = History(disk, tmp_path / "disk" / "runs.db", Random(seed), durability)
    try:
        history.work(batches)
    finally:
        history.close()
    return history


# -- what was told is there -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_told_survives_a_power_cut(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    with forgetful(tmp_path / "disk") as disk:
        history = history_of(seed, tmp_path, disk)
    check_cuts(history, disk, tmp_path, rng, moments(history, rng, MOMENTS), *POWER_CUTS, "everything")


@pytest.mark.parametrize("seed", SEEDS)
def test_without_syncs_a_kill_loses_nothing_and_a_power_cut_leaves_an_earlier_state(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    with forgetful(tmp_path / "disk") as disk:
        history = history_of(seed, tmp_path, disk, "process")
    check_cuts(history, disk, tmp_path, rng, moments(history, rng, MOMENTS // 2), *POWER_CUTS, "everything")


def test_what_is_tested_happens(tmp_path: Path) -> None:
    """A thing that rarely happens in a history is not tested by it."""
    counts: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    checkpoints = 0
    for seed in SEEDS:
        with forgetful(tmp_path / f"{seed}") as disk:
            history = History(disk, tmp_path / f"{seed}" / "runs.db", Random(seed))
            history.work(BATCHES)
            history.close()
        counts += Counter(history.counts)
        ends += Counter(history.ledger.last(key).state for key in history.ledger)
        checkpoints += sum(op.kind == "sync" and op.file == 0 for op in disk.log)
    rare = {name: counts[name] for name in History.actions() if counts[name] < len(SEEDS)}
    assert not rare, counts
    assert all(ends[state] > 10 for state in ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELLED", "open", "gone")), ends
    assert checkpoints > 10 * len(SEEDS)


@pytest.mark.parametrize(
    ("what", "left"), [("forget", []), ("prune", []), ("lose the worker", [State.CANCELLED])], ids=str
)
def test_what_no_report_has_led_to_survives_too(tmp_path: Path, what: str, left: list[State]) -> None:
    with forgetful(tmp_path / "disk") as disk:
        store = Store(tmp_path / "disk" / "runs.db")
        housing = Housing(store, store.presence_folder)
        housing.register("w.1", [SCHEMAS[-1]], [])
        housing.dispatch(SCHEMAS[-1], "r", {})
        [assignment] = housing.get_steps("w.1", 1)
        housing.commit()
        if what == "lose the worker":
            housing.cancel("r", None)
            housing.commit()
            housing.worker_left("w.1")
        else:
            housing.report("w.1", report_of(assignment, State.SUCCEEDED, result=encode(1)))
            housing.commit()
            housing.forget("r") if what == "forget" else housing.prune(None, 0)
        housing.commit()
        at = len(disk.log)
        store.close()
    found = Store(cut(disk, tmp_path, "nothing", Random(0), at) / "runs.db")
    assert [found.load(run)[1].state for run in found.ids(None, None, None)] == left
    found.close()


# -- cuts where it hurts ----------------------------------------------------------------------------------------------


def open_and_close(path: Path) -> int:
    """Return the epoch of a store, which is closed again."""
    store = Store(path)
    store.close()
    return store.epoch


def test_a_cut_while_the_store_is_made_leaves_one_that_can_be_made(tmp_path: Path) -> None:
    rng = Random(0)
    with forgetful(tmp_path / "disk") as disk:
        store = Store(tmp_path / "disk" / "runs.db")
        made_at = len(disk.log)
        store.close()
    for at, how in itertools.product(range(len(disk.log) + 1), (*POWER_CUTS, "everything")):
        epoch = open_and_close(cut(disk, tmp_path, how, rng, at) / "runs.db")
        assert epoch >= 1 + (at >= made_at), (at, how)


def test_a_cut_during_recovery_undoes_nothing_however_often(tmp_path: Path) -> None:
    """The log of a store is being read, the epoch written, and all of it written into the file, when the power goes."""
    rng = Random(1)
    with forgetful(tmp_path / "disk") as disk:
        first = history_of(1, tmp_path, disk, batches=40)
    at = first.commits[-1].done_at
    folder = cut(disk, tmp_path, "some", rng, at)
    ledger, epoch = first.ledger.after(at), first.epochs[-1][1]
    for _ in range(3):
        with forgetful(folder) as disk:
            store = Store(folder / "runs.db")
            opened_at = len(disk.log)
            assert store.epoch > epoch
            check_facts(ledger, found_in(Housing(store, store.presence_folder)), 0)
            store.close()
        for moment, how in itertools.product(range(len(disk.log) + 1), POWER_CUTS):
            again = Store(cut(disk, tmp_path, how, rng, moment) / "runs.db", "process")
            assert again.epoch > epoch + (moment >= opened_at), (moment, how)
            check_facts(ledger, found_in(Housing(again, again.presence_folder)), 0)
            again.close()
        folder = cut(disk, tmp_path, "some", rng, rng.randint(0, len(disk.log)))


@pytest.mark.parametrize("how", [*POWER_CUTS, "everything"])
def test_a_cut_while_the_log_is_copied_into_the_file_does_no_damage(tmp_path: Path, how: How) -> None:
    """The file may then be shorter than it says, because the rest of it is still in the log."""
    rng = Random(0)
    with forgetful(tmp_path / "disk", checkpoint_at=10_000) as disk:
        history = History(disk, tmp_path / "disk" / "runs.db", Random(0))
        history.work(BATCHES)
        closing_at = history.now
        history.close()
    assert history.now > closing_at + 10
    check_cuts(history, disk, tmp_path, rng, list(range(closing_at, history.now + 1)), how)


@pytest.mark.parametrize("seed", SEEDS)
def test_who_goes_on_after_a_cut_can_be_cut_again(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    with forgetful(tmp_path / "disk") as disk:
        history = history_of(seed, tmp_path, disk, batches=20)
    for _ in range(3):
        at = rng.choice(history.commits).done_at
        folder = cut(disk, tmp_path, rng.choice(POWER_CUTS), rng, at)
        ledger, epochs, tokens = history.ledger.after(at), known_at(history.epochs, at), known_at(history.tokens, at)
        with forgetful(folder) as disk:
            history = History(disk, folder / "runs.db", rng, ledger=ledger)
            assert history.epochs[0][1] > max(epochs)
            history.work(15)
            history.close()
        assert min(known_at(history.tokens), default=1 << 60) > max(tokens, default=0)
        check_cuts(history, disk, tmp_path, rng, [0, *moments(history, rng, 3)], *POWER_CUTS)


def known_at(known: list[tuple[int, int]], at: int = 1 << 60) -> list[int]:
    return [number for told_at, number in known if told_at <= at]


# -- what cannot be kept, which the check must find --------------------------------------------------------------------


#: {what a store does: its ``PRAGMA synchronous``, by whether a commit matters}
BAD_SYNCS = {
    "never syncs": {True: 0, False: 0},
    "syncs at checkpoints only": {True: 1, False: 1},
    "syncs claims only": {True: 1, False: 2},
}


@pytest.mark.parametrize("since", ["always", "once it is open"])
@pytest.mark.parametrize("bad", BAD_SYNCS)
def test_a_store_that_syncs_too_little_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str, since: str
) -> None:
    sync = Database._sync

    def sync_badly(database: Database, wanted: bool) -> None:
        if since == "always" or database._files:
            database.run(f"PRAGMA synchronous = {BAD_SYNCS[bad][wanted]}")
        else:
            sync(database, wanted)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "_sync", sync_badly)
        assert_found_out(tmp_path)


def test_a_disk_that_lies_about_syncs_is_found_out(tmp_path: Path) -> None:
    assert_found_out(tmp_path, syncs=False)


def test_a_server_that_tells_first_and_commits_then_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = History.commit

    def tell_first(history: History) -> None:
        history.ledger.tell(history.now)
        commit(history)

    monkeypatch.setattr(History, "commit", tell_first)
    assert_found_out(tmp_path)


def test_a_housing_that_takes_outcomes_for_claims_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Housing._handle
    monkeypatch.setattr(Housing, "_handle", lambda self, event, matters=False: handle(self, event))
    assert_found_out(tmp_path)


def test_tokens_that_begin_anew_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = housing_module.Scheduler
    monkeypatch.setattr(housing_module, "Scheduler", lambda draw, first_token, **options: scheduler(draw, **options))
    assert_found_out(tmp_path)


def assert_found_out(tmp_path: Path, **options: Any) -> None:
    """Check that one of the cuts right before and after the commits shows what is wrong."""
    rng = Random(0)
    with forgetful(tmp_path / "disk", **options) as disk:
        history = history_of(0, tmp_path, disk, batches=20)
    with pytest.raises((AssertionError, StoreError)):  # noqa: PT012
        for commit in history.commits:
            check_cuts(history, disk, tmp_path, rng, [commit.begun_at, commit.done_at], "nothing", "some")

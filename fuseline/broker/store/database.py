"""The database: one SQLite file, opened by one process, with settings that are known to hold."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuseline import faults
from fuseline.broker.store.file import APPLICATION_ID, VERSION, check_application, check_version
from fuseline.errors import StoreDamaged, StoreError
from fuseline.wakeup import Wakeup

__all__ = ["Database"]

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('epoch', 0);
CREATE TABLE workflows (
    key INTEGER PRIMARY KEY, workflow_id TEXT NOT NULL, fingerprint TEXT NOT NULL, schema TEXT NOT NULL,
    UNIQUE (workflow_id, fingerprint));
CREATE TABLE runs (
    number INTEGER PRIMARY KEY, instance_id TEXT NOT NULL UNIQUE, workflow INTEGER NOT NULL REFERENCES workflows,
    state TEXT NOT NULL, cancelled INTEGER NOT NULL, started_by TEXT, start_token INTEGER, inputs BLOB NOT NULL,
    created REAL NOT NULL, started REAL, finished REAL);
CREATE INDEX open_runs ON runs (number) WHERE finished IS NULL;
CREATE INDEX ended_runs ON runs (finished) WHERE finished IS NOT NULL;
CREATE TABLE steps (
    place INTEGER PRIMARY KEY, state TEXT NOT NULL, attempts INTEGER NOT NULL, restarts INTEGER NOT NULL,
    failures BLOB, result, error BLOB, cause TEXT NOT NULL,
    started REAL, finished REAL, due REAL, unwanted INTEGER NOT NULL);
CREATE TABLE moves (
    run INTEGER NOT NULL, seq INTEGER NOT NULL, step TEXT, state TEXT NOT NULL, attempt INTEGER, cause TEXT NOT NULL,
    at REAL NOT NULL, token INTEGER, worker_id TEXT, PRIMARY KEY (run, seq)) WITHOUT ROWID;
CREATE TABLE files (name TEXT PRIMARY KEY, run INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX files_of_runs ON files (run);
"""
_OUTPUTS = """
CREATE TABLE outputs (
    run INTEGER NOT NULL, step TEXT NOT NULL, attempt INTEGER NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (run, step, attempt)) WITHOUT ROWID;
"""
#: {version of the tables: what makes them those of the next version}
_UPGRADES = {1: _OUTPUTS, 2: "ALTER TABLE runs ADD COLUMN start_token INTEGER"}

#: Of how many openings it is kept when they were.
_OPENINGS = 1000
#: KiB of the file that are kept in memory. Run ids are random, so their index is touched everywhere.
_CACHE_KIB = 32 * 1024


class Database:
    """A connection to the file. Every method raises ``StoreError`` where SQLite cannot do it.

    Each opening counts: ``meta`` has the number of this one as ``epoch``, and when it was as ``opened N``.

    A commit that syncs takes as long as the disk does. It can be left to a thread (``transaction(behind=True)``), which
    SQLite does not need Python for; whatever is asked of the database meanwhile waits until that is done.

    Args:
        path: the file; its tables are made if there are none. The right to open it must have been acquired.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._synced: bool | None = None  #: whether commits are synced right now
        self._files: dict[Path, tuple[int, int]] = {}  #: {path: what the file there is known by}
        with self._translated():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # for this user alone
            self._connection = sqlite3.connect(
                path, timeout=0, isolation_level=None, cached_statements=64, check_same_thread=False
            )
        self._committer = ThreadPoolExecutor(1, "fuseline-committer")
        self._commit: Future[Any] | None = None  #: the one that was left behind
        try:
            with self._translated():
                self.settled = Wakeup()  #: readable when a commit that was left behind may be done
                try:
                    self._committer.submit(int).result()  # its thread: if there can be none, then not in the middle
                except RuntimeError as error:
                    raise OSError(f"the system refuses a thread: {error}") from error
            self._prepare()
            with self.transaction(syncs=True):
                self.run("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
                (epoch,) = self.one("SELECT value FROM meta WHERE name = 'epoch'")
                self.run("INSERT INTO meta VALUES (?, ?)", (f"opened {epoch}", time.time()))
                self.run("DELETE FROM meta WHERE name = ?", (f"opened {epoch - _OPENINGS}",))
            for each in (path, path.with_name(path.name + "-wal")):
                self._files[each] = _identity(each)
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        self._set("locking_mode", "exclusive")
        (version,) = self.one("PRAGMA user_version")
        (tables,) = self.one("SELECT count(*) FROM sqlite_schema")
        if not tables:
            self._create()
        check_application(self._path, *self.one("PRAGMA application_id"))  # what was half made is undone now
        check_version(self._path, version)
        self._set("journal_mode", "wal")
        if sys.platform == "darwin":
            self._set("fullfsync", 1)  # else a sync there leaves it to the disk when to write
        self._set("cache_size", -_CACHE_KIB)
        if tables and version < VERSION:
            self._make(*(_UPGRADES[each] for each in range(version, VERSION)))

    def _create(self) -> None:
        """Make the tables, all or nothing."""
        self._set("auto_vacuum", 2)  # incremental: the file can shrink
        self._make(_TABLES, _OUTPUTS, f"PRAGMA application_id = {APPLICATION_ID}")

    def _make(self, *scripts: str) -> None:
        """Make tables those of this version, all or nothing."""
        with self.transaction(syncs=True):
            for statement in ";".join(scripts).split(";"):
                if statement.strip():
                    self.run(statement)
            self.run(f"PRAGMA user_version = {VERSION}")

    def _set(self, name: str, value: object) -> None:
        """Set a pragma, and make sure that it is set."""
        self.run(f"PRAGMA {name} = {value}")
        (actual,) = self.one(f"PRAGMA {name}")
        if actual != value:
            raise StoreError(f"the store {self._path} cannot be used: SQLite has {name}={actual}, not {value}.")

    def close(self) -> None:
        """Write everything into the one file, and close it. May be called twice."""
        try:
            self.settle()
        finally:
            self._committer.shutdown()
            if hasattr(self, "settled"):
                self.settled.close()
            with self._translated():
                self._connection.close()

    # -- statements ---------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *, syncs: bool, behind: bool = False) -> Iterator[None]:
        """Let what is done in the ``with`` statement happen as a whole, or not at all.

        Args:
            syncs: whether it survives a power cut when it is committed; if not, it does so with the next that syncs.
            behind: whether not to wait for the commit. ``settle`` does, and so does whatever comes next.
        """
        self.settle()
        self._check_files()
        self._sync(syncs)
        self.run("BEGIN IMMEDIATE")
        try:
            yield
            if behind:
                faults.point("sql")
                self._commit = self._committer.submit(self._connection.execute, "COMMIT")
                self._commit.add_done_callback(lambda _: self.settled.set())
            else:
                self.run("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    @property
    def is_committing(self) -> bool:
        """Whether ``settle`` would wait; how a commit has ended, only that says."""
        return self._commit is not None and not self._commit.done()

    def settle(self) -> None:
        """Wait for the commit that was left behind, if one was.

        Raises:
            StoreError: it has failed, and nothing of its transaction was written.
        """
        if self._commit is not None:
            commit, self._commit = self._commit, None
            try:
                with self._translated():
                    commit.result()
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        with self._translated():
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _sync(self, wanted: bool) -> None:
        if wanted is not self._synced:
            self._set("synchronous", 2 if wanted else 1)  # FULL, NORMAL
            self._synced = wanted

    def _check_files(self) -> None:
        """Make sure that what is written can be found again: SQLite does not notice that its files were removed."""
        for path, identity in self._files.items():
            if _identity(path) != identity:
                raise StoreError(f"the store {self._path} was removed or replaced while it was in use. Put it back.")

    def run(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Execute a statement; what is left of its rows is fetched as they are asked for."""
        self.settle()
        faults.point("sql")
        with self._translated():
            return self._connection.execute(sql, values)

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute a statement once for each row of values."""
        self.settle()
        faults.point("sql")
        with self._translated():
            self._connection.executemany(sql, rows)

    def insert(self, table: str, columns: str, rows: Sequence[Sequence[Any]], *, replace: bool = False) -> None:
        """Insert rows, if there are any.

        Args:
            replace: whether there may be some of the same keys, whose place they take.
        """
        if not rows:
            return
        marks = ", ".join("?" * len(rows[0]))
        verb = "REPLACE" if replace else "INSERT"
        self.run_many(f"{verb} INTO {table} ({columns}) VALUES ({marks})", rows)

    def all(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows that a query finds."""
        cursor = self.run(sql, values)
        with self._translated():
            return cursor.fetchall()

    def one(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """Return the first row that a query finds, or None."""
        cursor = self.run(sql, values)
        with self._translated():
            return cursor.fetchone()

    def texts(self, sql: str, values: Sequence[Any] = ()) -> list[str]:
        """Return the first column of all rows that a query finds."""
        return [row[0] for row in self.all(sql, values)]

    def shrink(self) -> None:
        """Give back to the file system what the file does not need."""
        self.settle()
        faults.point("sql")
        with self._translated():
            self._connection.executescript("PRAGMA incremental_vacuum")  # execute() would stop after the first page
        self.all("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what SQLite raises into what a user can act on."""
        try:
            yield
        except OSError as error:
            raise StoreError(f"the store {self._path} cannot be used: {error}. Choose another place.") from error
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                raise StoreDamaged(self._path, str(error)) from error
            if name.startswith("SQLITE_FULL"):
                advice = "Make room on its disk."
            elif name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                advice = "Another program has it open; close that first."
            else:
                advice = "See that its disk and directory are there and can be written."
            raise StoreError(f"the store {self._path} cannot be used: {error}. {advice}") from error


def _identity(path: Path) -> tuple[int, int]:
    """Return what tells the file at ``path`` from another; (0, 0) if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino

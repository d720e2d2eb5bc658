"""The store: runs in one SQLite file, written by one process.

::

    workflows   a schema, once for each of its versions
    runs        a row for each run
    steps       a row for each step of which an attempt has ended, or that was settled; one that waits needs none
    moves       the story: a row for each move of a run or step, never changed; that a step was handed out is only here
    files       a row for each value that is in a file beside the store

Everything that a batch of events has changed goes into one transaction, and nobody is told before it is committed. What
others rely on (outcomes, dispatches, cancellations) is synced to the disk with ``durability="power"``; claims, which
mean nothing after a power cut, ride along with the next sync.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from fuseline import faults
from fuseline.broker.store_file import APPLICATION_ID, VERSION, Ownership, check_file, check_version
from fuseline.errors import StoreDamaged, StoreError
from fuseline.messages import ReportAnswer, ReportStatus, StepReport
from fuseline.records import Move, RunRecord, StepRecord
from fuseline.scheduler.archive import record_step
from fuseline.scheduler.run import Run
from fuseline.schema import WorkflowSchema
from fuseline.states import State
from fuseline.values import ErrorInfo, Value

__all__ = ["Changes", "Durability", "Moment", "Store"]

Durability = Literal["power", "process"]

_CREATE = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('epoch', 0);
CREATE TABLE workflows (
    key INTEGER PRIMARY KEY, workflow_id TEXT NOT NULL, fingerprint TEXT NOT NULL, schema TEXT NOT NULL,
    UNIQUE (workflow_id, fingerprint));
CREATE TABLE runs (
    number INTEGER PRIMARY KEY, instance_id TEXT NOT NULL UNIQUE, workflow INTEGER NOT NULL REFERENCES workflows,
    state TEXT NOT NULL, cancelled INTEGER NOT NULL, failed BLOB NOT NULL, started_by TEXT, inputs BLOB NOT NULL,
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

#: A step's row is found by one number: that of its run, shifted, and its own.
_SHIFT = 24
_RUN_COLUMNS = "number, instance_id, workflow, state, cancelled, failed, started_by, inputs, created, started, finished"
_STEP_COLUMNS = "place, state, attempts, restarts, failures, result, error, cause, started, finished, due, unwanted"
#: Runs that ``prune`` removes in one transaction.
_PRUNED_AT_ONCE = 500
#: Seconds after which a file that nothing refers to is a leftover: whoever wrote it would have told us by then.
_LEFTOVER = 3600.0

_pack = msgspec.msgpack.encode
_unpack_inputs = msgspec.msgpack.Decoder(dict[str, Value]).decode
_unpack_error = msgspec.msgpack.Decoder(ErrorInfo).decode
_unpack_failures = msgspec.msgpack.Decoder(dict[int, int]).decode
_unpack_numbers = msgspec.msgpack.Decoder(list[int]).decode


class Moment(NamedTuple):
    """A move as it is written."""

    run: Run
    step_name: str | None
    state: State
    attempt: int | None
    cause: str
    at: float  #: monotonic seconds
    token: int | None  #: of the assignment, where a step is RUNNING
    worker_id: str | None  #: likewise


class Changes:
    """What a batch of events has changed, and the store has not been told yet."""

    def __init__(self) -> None:
        self.new_runs: list[Run] = []
        self.runs: dict[Run, None] = {}  #: others whose own state is new
        self.revived: list[Run] = []  #: those that go on after their end, of another version of their workflow perhaps
        self.steps: dict[tuple[Run, int], Value | None] = {}  #: and the result, of one that has succeeded
        self.moves: list[Moment] = []
        self.forgotten: list[str] = []  #: ids of runs
        self.matters = False  #: whether somebody relies on it after a power cut

    def __bool__(self) -> bool:
        return bool(self.new_runs or self.runs or self.steps or self.moves or self.forgotten)


class Store:
    """The runs of one file. Not thread-safe.

    Args:
        path: the file; it is made if there is none.
        durability: ``"power"``: what was committed survives a power cut; ``"process"``: it survives the end of any
            process, and a power cut may undo the last few commits.

    Raises:
        StoreInUse: another process has it open.
        StoreDamaged: it is no longer whole.
        StoreError: it cannot be used; the error says why.
    """

    def __init__(self, path: Path, durability: Durability = "power") -> None:
        if durability not in ("power", "process"):
            raise StoreError(f"durability={durability!r}: choose 'power' or 'process'.")
        self.path = path
        self.syncs = durability == "power"
        self._synced: bool | None = None  #: whether commits are synced right now
        self._keys: dict[tuple[str, str], int] = {}  #: {(workflow_id, fingerprint): key}
        self._schemas: dict[int, WorkflowSchema] = {}
        self._seq = 0
        check_file(path)
        self.ownership = Ownership(path)
        files = path.with_name(path.name + ".files")
        #: Where programs that work for this store show that they are alive.
        self.presence_folder = files / "presence"
        self.values_folder = files / "values"  #: of values that are too large for the store itself
        try:
            with self._translated():
                self._open()
                for folder in (files, self.presence_folder, self.values_folder):
                    folder.mkdir(mode=0o700, exist_ok=True)
                self._sweep()
        except BaseException:
            self.ownership.release()
            raise

    # -- opening ------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, timeout=0, isolation_level=None, cached_statements=64)
        try:
            self._set("locking_mode", "exclusive")
            (version,) = self._one("PRAGMA user_version")
            (tables,) = self._one("SELECT count(*) FROM sqlite_schema")
            if not tables:
                self._create()
            check_version(self.path, version)
            self._set("journal_mode", "wal")
            self._sync(True)
            self._run("BEGIN IMMEDIATE")
            self._run("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
            (self.epoch,) = self._one("SELECT value FROM meta WHERE name = 'epoch'")
            (self.last_number,) = self._one("SELECT coalesce(max(number), 0) FROM runs")
            self._run("COMMIT")
        except BaseException:
            self._db.close()
            raise

    def _create(self) -> None:
        """Make the tables, all or nothing."""
        self._set("auto_vacuum", 2)  # incremental: the file can shrink
        self._run("BEGIN IMMEDIATE")
        for statement in _CREATE.split(";"):
            if statement.strip():
                self._run(statement)
        self._run(f"PRAGMA application_id = {APPLICATION_ID}")
        self._run(f"PRAGMA user_version = {VERSION}")
        self._run("COMMIT")

    def _set(self, name: str, value: object) -> None:
        """Set a pragma, and make sure that it is set."""
        self._run(f"PRAGMA {name} = {value}")
        (actual,) = self._one(f"PRAGMA {name}")
        if actual != value:
            raise StoreError(f"the store {self.path} cannot be used: SQLite has {name}={actual}, not {value}.")

    def _sync(self, wanted: bool) -> None:
        if wanted is not self._synced:
            self._set("synchronous", 2 if wanted else 1)  # FULL, NORMAL
            self._synced = wanted

    def _run(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        faults.point("sql")
        return self._db.execute(sql, values)

    def _run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        faults.point("sql")
        self._db.executemany(sql, rows)

    def _one(self, sql: str, values: Sequence[Any] = ()) -> Any:
        return self._run(sql, values).fetchone()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what SQLite raises into what a user can act on."""
        try:
            yield
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"the store {self.path} cannot be used: {error}.") from error
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                raise StoreDamaged(self.path, str(error)) from error
            if name.startswith("SQLITE_FULL"):
                advice = "Make room on its disk."
            elif name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                advice = "Another program has it open; close that first."
            else:
                advice = "See that its disk and directory are there and can be written."
            raise StoreError(f"the store {self.path} cannot be used: {error}. {advice}") from error

    def close(self) -> None:
        """Write everything into the one file, and let go of it. May be called twice."""
        try:
            with self._translated():
                self._db.close()
        finally:
            self.ownership.release()

    # -- writing ------------------------------------------------------------------------------------------------------

    def commit(self, changes: Changes, epoch: float) -> None:
        """Write what has changed, in one transaction.

        Args:
            epoch: what to add to the seconds of runs to get seconds since the epoch.

        Raises:
            StoreError: nothing was written.
        """
        if not changes:
            return
        with self._translated():
            self._sync(self.syncs and changes.matters)
            self._run("BEGIN IMMEDIATE")
            try:
                unused = self._write(changes, epoch)
                self._run("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        self.remove_files(unused)

    def _write(self, changes: Changes, epoch: float) -> list[str]:
        """Write what has changed; return the names of files that nothing refers to once it is committed."""
        unused: list[str] = []
        if changes.new_runs:
            self._insert("runs", _RUN_COLUMNS, [self._run_row(run, epoch) for run in changes.new_runs])
            self._add_files((run, value) for run in changes.new_runs for value in run.inputs.values())
        changed = [run for run in changes.runs if run not in changes.new_runs] if changes.new_runs else changes.runs
        if changed:
            self._run_many(
                "UPDATE runs SET state = ?, cancelled = ?, failed = ?, started_by = ?, started = ?, finished = ? "
                "WHERE number = ?",
                [
                    (
                        run.state,
                        run.cancelled,
                        _pack(run.failed_steps),
                        run.started_by,
                        _shifted(run.started, epoch),
                        _shifted(run.finished, epoch),
                        run.number,
                    )
                    for run in changed
                ],
            )
        for run in changes.revived:
            self._revive(run)
        if changes.steps:
            rows = [_step_row(run, step, result, epoch) for (run, step), result in changes.steps.items()]
            self._insert("steps", _STEP_COLUMNS, rows)
            self._add_files((run, value) for (run, _), value in changes.steps.items() if value is not None)
        for run in changes.runs:
            if run.state is State.SUCCEEDED:
                unused += self._drop_results(run)
        if changes.moves:
            self._seq = max(self._seq + 1, time.time_ns())  # after all that were written before, by whomever
            rows = [
                (move.run.number, self._seq + i, *move[1:5], epoch + move.at, *move[6:])
                for i, move in enumerate(changes.moves)
            ]
            self._seq += len(rows)
            self._insert("moves", "run, seq, step, state, attempt, cause, at, token, worker_id", rows)
        for instance_id in changes.forgotten:
            unused += self._delete(instance_id)
        return unused

    def _insert(self, table: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
        marks = ", ".join("?" * len(rows[0]))
        self._run_many(f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({marks})", rows)

    def _add_files(self, values: Iterable[tuple[Run, Value]]) -> None:
        rows = [(os.path.basename(value.file), run.number) for run, value in values if value.file]
        if rows:
            self._insert("files", "name, run", rows)

    def _drop_results(self, run: Run) -> list[str]:
        """Keep the results of its outputs only; a run that was stopped keeps all, because it may be resumed.

        Returns:
            The names of files that are not needed any more.
        """
        outputs = set(run.plan.outputs)
        first, _ = _places(run.number)
        rows = [(first + step,) for step, uses in enumerate(run.bound.uses) if uses and step not in outputs]
        if not rows:
            return []
        files = self._names("SELECT name FROM files WHERE run = ?", (run.number,))
        self._run_many("UPDATE steps SET result = NULL WHERE place = ?", rows)
        if not files:
            return []
        kept = {os.path.basename(value.file) for value in (*run.inputs.values(), *run.results.values())}
        self._run_many("DELETE FROM files WHERE name = ?", [(name,) for name in files if name not in kept])
        return [name for name in files if name not in kept]

    def _names(self, sql: str, values: Sequence[Any]) -> list[str]:
        return [name for (name,) in self._run(sql, values)]

    def _revive(self, run: Run) -> None:
        """Write all of a run anew, of another version of its workflow perhaps."""
        self._run(
            "UPDATE runs SET workflow = ?, inputs = ? WHERE number = ?",
            (self._key(run.plan.schema), _packed_inputs(run), run.number),
        )
        self._run("DELETE FROM steps WHERE place BETWEEN ? AND ?", _places(run.number))

    def _run_row(self, run: Run, epoch: float) -> tuple[Any, ...]:
        return (
            run.number,
            run.instance_id,
            self._key(run.plan.schema),
            run.state,
            run.cancelled,
            _pack(run.failed_steps),
            run.started_by,
            _packed_inputs(run),
            run.created + epoch,
            _shifted(run.started, epoch),
            _shifted(run.finished, epoch),
        )

    def _key(self, schema: WorkflowSchema) -> int:
        """Return the key of a workflow, which is written if it is new."""
        identity = (schema.workflow_id, schema.fingerprint)
        key = self._keys.get(identity)
        if key is None:
            found = self._one("SELECT key FROM workflows WHERE workflow_id = ? AND fingerprint = ?", identity)
            if found is None:
                sql = "INSERT INTO workflows (workflow_id, fingerprint, schema) VALUES (?, ?, ?) RETURNING key"
                found = self._one(sql, (*identity, schema.to_json()))
            key = self._keys[identity] = found[0]
            self._schemas[key] = schema
        return key

    def _delete(self, instance_id: str) -> list[str]:
        """Remove a run, and return the names of its files."""
        found = self._one("DELETE FROM runs WHERE instance_id = ? RETURNING number", (instance_id,))
        if found is None:
            return []
        files = self._names("DELETE FROM files WHERE run = ? RETURNING name", found)
        self._run("DELETE FROM steps WHERE place BETWEEN ? AND ?", _places(found[0]))
        self._run("DELETE FROM moves WHERE run = ?", found)
        return files

    # -- cleaning up --------------------------------------------------------------------------------------------------

    def prune(self, ended_before: float | None, most: int | None) -> int:
        """Remove runs that have ended, the oldest first: those before a moment, and those that are too many.

        Args:
            ended_before: seconds since the epoch; None for no limit.
            most: of ended runs that may stay; None for any number.

        Returns:
            How many were removed. Some are left for the next call if it was a full 500.
        """
        ended = "FROM runs WHERE finished IS NOT NULL"
        with self._translated():
            spare = 0 if most is None else max(0, self._one(f"SELECT count(*) {ended}")[0] - most)
            old = self._names(
                f"SELECT instance_id {ended} AND finished < ? ORDER BY finished LIMIT ?",
                (-1.0 if ended_before is None else ended_before, _PRUNED_AT_ONCE),
            )
            if len(old) < min(spare, _PRUNED_AT_ONCE):
                old = self._names(
                    f"SELECT instance_id {ended} ORDER BY finished LIMIT ?", (min(spare, _PRUNED_AT_ONCE),)
                )
        if old:
            changes = Changes()
            changes.forgotten = old
            self.commit(changes, 0.0)
        return len(old)

    def shrink(self) -> None:
        """Give back to the file system what the file does not need."""
        with self._translated():
            faults.point("sql")
            self._db.executescript("PRAGMA incremental_vacuum")  # execute() would stop after the first page
            self._run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def remove_files(self, names: Iterable[str]) -> None:
        """Remove files that nothing refers to."""
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(self.values_folder / name)

    def refers_to(self, file: str) -> bool:
        """Return whether a run has this file."""
        with self._translated():
            return self._one("SELECT 1 FROM files WHERE name = ?", (os.path.basename(file),)) is not None

    def leftovers(self, now: float) -> list[str]:
        """Return the names of files that nothing refers to, and whose writers are not about to tell of them.

        Args:
            now: seconds since the epoch.
        """
        found = []
        with self._translated():
            for entry in os.scandir(self.values_folder):
                with contextlib.suppress(FileNotFoundError):
                    if now - entry.stat().st_mtime > _LEFTOVER and not self.refers_to(entry.name):
                        found.append(entry.name)
        return found

    def _sweep(self) -> None:
        self.remove_files(self.leftovers(time.time()))

    def size_bytes(self) -> int:
        """Return what the file, its log and the values beside it take on the disk."""
        beside = [entry.stat().st_size for entry in os.scandir(self.values_folder)]
        parts = [self.path, self.path.with_name(self.path.name + "-wal")]
        return sum(part.stat().st_size for part in parts if part.exists()) + sum(beside)

    def check(self) -> list[str]:
        """Return what is wrong with the file, one sentence each; nothing if it is whole. Reads all of it."""
        with self._translated():
            found = [str(text) for (text,) in self._run("PRAGMA quick_check(20)") if text != "ok"]
            lost = [
                name
                for (name,) in self._run("SELECT name FROM files ORDER BY run LIMIT 100000")
                if not (self.values_folder / name).exists()
            ]
        if lost:
            found.append(f"{len(lost)} files of values are gone from {self.values_folder}, the first is {lost[0]}")
        return found

    # -- reading ------------------------------------------------------------------------------------------------------

    def has(self, instance_id: str) -> bool:
        """Return whether there is a run of this id."""
        with self._translated():
            return self._one("SELECT 1 FROM runs WHERE instance_id = ?", (instance_id,)) is not None

    def find(self, prefix: str, limit: int) -> list[str]:
        """Return the ids of runs that begin like this, ``limit`` at most, the newest first."""
        with self._translated():
            return self._names(
                "SELECT instance_id FROM runs WHERE instance_id >= ?1 AND instance_id < ?1 || char(0x10FFFF) "
                "ORDER BY number DESC LIMIT ?2",
                (prefix, limit),
            )

    def counts(self) -> dict[str, int]:
        """Return how many runs there are, by state."""
        with self._translated():
            return dict(self._run("SELECT state, count(*) FROM runs GROUP BY state").fetchall())

    def load(self, instance_id: str) -> tuple[WorkflowSchema, RunRecord] | None:
        """Return a run and its workflow, or None if there is no such run."""
        return next(self._load("WHERE instance_id = ?", (instance_id,)), None)

    def load_open(self) -> Iterator[tuple[WorkflowSchema, RunRecord]]:
        """Yield the runs that have not ended, oldest first."""
        return self._load("WHERE finished IS NULL ORDER BY number", ())

    def load_all(
        self, workflow_id: str | None, state: State | None, limit: int | None
    ) -> list[tuple[WorkflowSchema, RunRecord]]:
        """Return the runs, oldest first; only those of a workflow, or in a state, or so many of the newest."""
        which = (
            "WHERE (?1 IS NULL OR workflow IN (SELECT key FROM workflows WHERE workflow_id = ?1)) "
            "AND (?2 IS NULL OR state = ?2) ORDER BY number DESC LIMIT ?3"
        )
        return list(self._load(which, (workflow_id, state, -1 if limit is None else limit)))[::-1]

    def story(self, instance_id: str) -> list[Move]:
        """Return all moves of a run and its steps, in their order; none if there is no such run."""
        with self._translated():
            sql = (
                "SELECT step, state, attempt, cause, worker_id, at FROM moves "
                "WHERE run = (SELECT number FROM runs WHERE instance_id = ?) ORDER BY seq"
            )
            return [
                Move(step_name=step, state=State(state), attempt=attempt, cause=cause, worker_id=worker_id, at=at)
                for step, state, attempt, cause, worker_id, at in self._run(sql, (instance_id,))
            ]

    def outcome(self, worker_id: str, report: StepReport) -> ReportAnswer | None:
        """Return what was made of a report that was accepted before, or None if it was not."""
        with self._translated():
            claim = self._one(
                "SELECT run, seq FROM moves WHERE run = (SELECT number FROM runs WHERE instance_id = ?) "
                "AND step = ? AND token = ? AND worker_id = ?",
                (report.instance_id, report.step_name, report.token, worker_id),
            )
            if claim is None:
                return None
            sql = "SELECT state, at FROM moves WHERE run = ? AND seq > ? AND step = ? ORDER BY seq LIMIT 1"
            end = self._one(sql, (*claim, report.step_name))
            if end is None:
                return None
            run_end = self._one(
                "SELECT state FROM moves WHERE run = ? AND seq > ? AND step IS NULL AND at = ?", (*claim, end[1])
            )
        return ReportAnswer(
            status=ReportStatus.ACCEPTED,
            step_state=State(end[0]),
            run_state=None if run_end is None else State(run_end[0]),
        )

    def _load(self, which: str, values: Sequence[Any]) -> Iterator[tuple[WorkflowSchema, RunRecord]]:
        with self._translated():
            for row in self._run(f"SELECT {_RUN_COLUMNS} FROM runs {which}", values).fetchall():
                schema = self._schema(row[2])
                yield schema, self._record(row, schema)

    def _record(self, row: Sequence[Any], schema: WorkflowSchema) -> RunRecord:
        number, instance_id, _, state, cancelled, failed, started_by, inputs, created, started, finished = row
        names = [step.name for step in schema.steps]
        steps = dict.fromkeys(names, StepRecord(state=State.PENDING))
        sql = f"SELECT {_STEP_COLUMNS} FROM steps WHERE place BETWEEN ? AND ?"
        for step_row in self._run(sql, _places(number)):
            steps[names[step_row[0] & ((1 << _SHIFT) - 1)]] = self._step_record(step_row)
        if finished is None:
            self._add_claims(number, steps)
        return RunRecord(
            instance_id=instance_id,
            number=number,
            workflow_id=schema.workflow_id,
            workflow=schema.name,
            outputs=schema.outputs,
            state=State(state),
            cancelled=bool(cancelled),
            inputs={name: self._value(value) for name, value in _unpack_inputs(inputs).items()},
            steps=steps,
            failed=tuple(names[step] for step in _unpack_numbers(failed)),
            started_by=started_by,
            created=created,
            started=started,
            finished=finished,
        )

    def _add_claims(self, number: int, steps: dict[str, StepRecord]) -> None:
        """Complete the records of steps whose last move, and nothing else, says that they were handed out."""
        sql = (
            "SELECT step, attempt, token, worker_id, at, max(seq) FROM moves WHERE run = ? AND step IS NOT NULL "
            "GROUP BY step HAVING token IS NOT NULL"
        )
        for name, attempt, token, worker_id, at, _ in self._run(sql, (number,)):
            steps[name] = msgspec.structs.replace(
                steps[name], state=State.RUNNING, attempts=attempt, token=token, worker_id=worker_id, started=at
            )

    def _value(self, value: Value) -> Value:
        """Return a value as others know it: the store has names of files, the others have paths."""
        return Value(file=str(self.values_folder / value.file)) if value.file else value

    def _step_record(self, row: Sequence[Any]) -> StepRecord:
        _, state, attempts, restarts, failures, result, error, cause, started, finished, due, unwanted = row
        if isinstance(result, str):
            result = self._value(Value(file=result))
        return StepRecord(
            state=State(state),
            attempts=attempts,
            restarts=restarts,
            failures={} if failures is None else _unpack_failures(failures),
            result=Value(result) if isinstance(result, bytes) else result,
            error=None if error is None else _unpack_error(error),
            cause=cause,
            started=started,
            finished=finished,
            due=due,
            unwanted=bool(unwanted),
        )

    def _schema(self, key: int) -> WorkflowSchema:
        schema = self._schemas.get(key)
        if schema is None:
            (text,) = self._one("SELECT schema FROM workflows WHERE key = ?", (key,))
            schema = self._schemas[key] = WorkflowSchema.from_json(text)
            self._keys[schema.workflow_id, schema.fingerprint] = key
        return schema


def _places(number: int) -> tuple[int, int]:
    return number << _SHIFT, ((number + 1) << _SHIFT) - 1


def _step_row(run: Run, step: int, result: Value | None, epoch: float) -> tuple[Any, ...]:
    record = record_step(run, step, epoch)
    return (
        (run.number << _SHIFT) + step,
        record.state,
        record.attempts,
        record.restarts,
        _pack(record.failures) if record.failures else None,
        None if result is None else (os.path.basename(result.file) or result.data),
        None if record.error is None else _pack(record.error),
        record.cause,
        record.started,
        record.finished,
        record.due,
        record.unwanted,
    )


def _packed_inputs(run: Run) -> bytes:
    """Return the inputs of a run as the store knows them: with names of files, where others have paths."""
    return _pack(
        {name: Value(file=os.path.basename(value.file)) if value.file else value for name, value in run.inputs.items()}
    )


def _shifted(moment: float | None, by: float) -> float | None:
    return None if moment is None else moment + by

"""The store: runs in one SQLite file, written by one process.

::

    workflows   a schema, once for each of its versions
    runs        a row for each run
    steps       a row for each step that was ever handed out or settled; one that waits needs none
    moves       the story: a row for each move of a run or step, never changed

Everything that a batch of events has changed goes into one transaction, and nobody is told before it is committed. What
others rely on (outcomes, dispatches, cancellations) is synced to the disk with ``durability="power"``; claims, which
mean nothing after a power cut, ride along with the next sync.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from fuseline import faults
from fuseline.broker.store_file import APPLICATION_ID, VERSION, Ownership, check_file, check_version
from fuseline.errors import StoreDamaged, StoreError
from fuseline.records import Move, RunRecord, StepRecord
from fuseline.scheduler.archive import record_step
from fuseline.scheduler.run import Run
from fuseline.schema import WorkflowSchema
from fuseline.states import State
from fuseline.values import ErrorInfo, Value

__all__ = ["Changes", "Durability", "Store"]

Durability = Literal["power", "process"]

_CREATE = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('epoch', 0);
CREATE TABLE workflows (
    key INTEGER PRIMARY KEY, workflow_id TEXT NOT NULL, fingerprint TEXT NOT NULL, schema TEXT NOT NULL,
    UNIQUE (workflow_id, fingerprint));
CREATE TABLE runs (
    number INTEGER PRIMARY KEY, instance_id TEXT NOT NULL UNIQUE, workflow INTEGER NOT NULL REFERENCES workflows,
    state TEXT NOT NULL, cancelled INTEGER NOT NULL, failed BLOB NOT NULL, inputs BLOB NOT NULL,
    created REAL NOT NULL, started REAL, finished REAL);
CREATE INDEX open_runs ON runs (number) WHERE finished IS NULL;
CREATE INDEX ended_runs ON runs (finished) WHERE finished IS NOT NULL;
CREATE TABLE steps (
    place INTEGER PRIMARY KEY, state TEXT NOT NULL, attempts INTEGER NOT NULL, restarts INTEGER NOT NULL,
    failures BLOB, token INTEGER, worker_id TEXT, result BLOB, error BLOB, cause TEXT NOT NULL,
    started REAL, finished REAL, due REAL);
CREATE TABLE moves (
    run INTEGER NOT NULL, seq INTEGER NOT NULL, step INTEGER, state TEXT NOT NULL, attempt INTEGER, cause TEXT NOT NULL,
    at REAL NOT NULL, PRIMARY KEY (run, seq)) WITHOUT ROWID;
"""

#: A step's row is found by one number: that of its run, shifted, and its own.
_SHIFT = 24
_RUN_COLUMNS = "number, instance_id, workflow, state, cancelled, failed, inputs, created, started, finished"
_STEP_COLUMNS = (
    "place, state, attempts, restarts, failures, token, worker_id, result, error, cause, started, finished, due"
)

_pack = msgspec.msgpack.encode
_unpack_inputs = msgspec.msgpack.Decoder(dict[str, Value]).decode
_unpack_error = msgspec.msgpack.Decoder(ErrorInfo).decode
_unpack_failures = msgspec.msgpack.Decoder(dict[int, int]).decode
_unpack_numbers = msgspec.msgpack.Decoder(list[int]).decode


class Changes:
    """What a batch of events has changed, and the store has not been told yet."""

    def __init__(self) -> None:
        self.runs: dict[Run, None] = {}  #: those whose own state, or whose very existence, is new
        self.steps: dict[tuple[Run, int], Value | None] = {}  #: and the result, of one that has succeeded
        self.moves: list[tuple[Run, int | None, State, int | None, str, float]] = []
        self.forgotten: list[str] = []  #: ids of runs
        self.matters = False  #: whether somebody relies on it after a power cut

    def __bool__(self) -> bool:
        return bool(self.runs or self.steps or self.moves or self.forgotten)


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
        self._syncs = durability == "power"
        self._synced: bool | None = None  #: whether commits are synced right now
        self._keys: dict[tuple[str, str], int] = {}  #: {(workflow_id, fingerprint): key}
        self._schemas: dict[int, WorkflowSchema] = {}
        self._seq = 0
        check_file(path)
        self.ownership = Ownership(path)
        #: Where programs that work for this store show that they are alive.
        self.presence_folder = path.with_name(path.name + ".files") / "presence"
        try:
            with self._translated():
                self._open()
            self.presence_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
            self._sync(self._syncs and changes.matters)
            self._run("BEGIN IMMEDIATE")
            try:
                self._write(changes, epoch)
                self._run("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _write(self, changes: Changes, epoch: float) -> None:
        if changes.runs:
            marks = ", ".join("?" * 10)
            self._run_many(
                f"INSERT INTO runs ({_RUN_COLUMNS}) VALUES ({marks}) ON CONFLICT (number) DO UPDATE SET "
                "state = excluded.state, cancelled = excluded.cancelled, failed = excluded.failed, "
                "started = excluded.started, finished = excluded.finished",
                [self._run_row(run, epoch) for run in changes.runs],
            )
        if changes.steps:
            marks = ", ".join("?" * 13)
            self._run_many(
                f"INSERT OR REPLACE INTO steps ({_STEP_COLUMNS}) VALUES ({marks})",
                [_step_row(run, step, result, epoch) for (run, step), result in changes.steps.items()],
            )
        for run in changes.runs:
            if run.state is State.SUCCEEDED:
                self._drop_results(run)
        if changes.moves:
            first = time.time_ns()  # after all that were written before, by whomever
            self._seq = max(self._seq + 1, first)
            rows = [
                (run.number, self._seq + i, step, state, attempt, cause, epoch + at)
                for i, (run, step, state, attempt, cause, at) in enumerate(changes.moves)
            ]
            self._seq += len(rows)
            self._run_many("INSERT INTO moves VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        for instance_id in changes.forgotten:
            self._delete(instance_id)

    def _drop_results(self, run: Run) -> None:
        """Keep the results of its outputs only; a run that was stopped keeps all, because it may be resumed."""
        outputs = set(run.plan.outputs)
        first, _ = _places(run.number)
        rows = [(first + step,) for step, uses in enumerate(run.bound.uses) if uses and step not in outputs]
        if rows:
            self._run_many("UPDATE steps SET result = NULL WHERE place = ?", rows)

    def _run_row(self, run: Run, epoch: float) -> tuple[Any, ...]:
        return (
            run.number,
            run.instance_id,
            self._key(run.plan.schema),
            run.state,
            run.cancelled,
            _pack(run.failed_steps),
            _pack(run.inputs),
            run.created + epoch,
            None if run.started is None else run.started + epoch,
            None if run.finished is None else run.finished + epoch,
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

    def _delete(self, instance_id: str) -> None:
        found = self._one("DELETE FROM runs WHERE instance_id = ? RETURNING number", (instance_id,))
        if found is not None:
            self._run("DELETE FROM steps WHERE place BETWEEN ? AND ?", _places(found[0]))
            self._run("DELETE FROM moves WHERE run = ?", found)

    # -- reading ------------------------------------------------------------------------------------------------------

    def has(self, instance_id: str) -> bool:
        """Return whether there is a run of this id."""
        with self._translated():
            return self._one("SELECT 1 FROM runs WHERE instance_id = ?", (instance_id,)) is not None

    def load(self, instance_id: str) -> tuple[WorkflowSchema, RunRecord] | None:
        """Return a run and its workflow, or None if there is no such run."""
        return next(self._load("WHERE instance_id = ?", (instance_id,)), None)

    def load_open(self) -> Iterator[tuple[WorkflowSchema, RunRecord]]:
        """Yield the runs that have not ended, oldest first."""
        return self._load("WHERE finished IS NULL ORDER BY number", ())

    def load_all(self, workflow_id: str | None, state: State | None) -> Iterator[tuple[WorkflowSchema, RunRecord]]:
        """Yield the runs, oldest first; only those of a workflow, or in a state, if one is named."""
        which = "WHERE (?1 IS NULL OR workflow IN (SELECT key FROM workflows WHERE workflow_id = ?1))"
        return self._load(f"{which} AND (?2 IS NULL OR state = ?2) ORDER BY number", (workflow_id, state))

    def story(self, instance_id: str) -> list[Move]:
        """Return all moves of a run and its steps, in their order; none if there is no such run."""
        with self._translated():
            found = self._one("SELECT number, workflow FROM runs WHERE instance_id = ?", (instance_id,))
            if found is None:
                return []
            names = [step.name for step in self._schema(found[1]).steps]
            sql = "SELECT step, state, attempt, cause, at FROM moves WHERE run = ? ORDER BY seq"
            return [
                Move(
                    step_name=None if step is None else names[step],
                    state=State(state),
                    attempt=attempt,
                    cause=cause,
                    at=at,
                )
                for step, state, attempt, cause, at in self._run(sql, found[:1])
            ]

    def _load(self, which: str, values: Sequence[Any]) -> Iterator[tuple[WorkflowSchema, RunRecord]]:
        with self._translated():
            for row in self._run(f"SELECT {_RUN_COLUMNS} FROM runs {which}", values).fetchall():
                schema = self._schema(row[2])
                yield schema, self._record(row, schema)

    def _record(self, row: Sequence[Any], schema: WorkflowSchema) -> RunRecord:
        number, instance_id, _, state, cancelled, failed, inputs, created, started, finished = row
        names = [step.name for step in schema.steps]
        steps = dict.fromkeys(names, StepRecord(state=State.PENDING))
        sql = f"SELECT {_STEP_COLUMNS} FROM steps WHERE place BETWEEN ? AND ?"
        for step_row in self._run(sql, _places(number)):
            steps[names[step_row[0] & ((1 << _SHIFT) - 1)]] = _step_record(step_row)
        return RunRecord(
            instance_id=instance_id,
            number=number,
            workflow_id=schema.workflow_id,
            workflow=schema.name,
            outputs=schema.outputs,
            state=State(state),
            cancelled=bool(cancelled),
            inputs=_unpack_inputs(inputs),
            steps=steps,
            failed=tuple(names[step] for step in _unpack_numbers(failed)),
            created=created,
            started=started,
            finished=finished,
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
        record.token,
        record.worker_id,
        None if result is None else result.data,
        None if record.error is None else _pack(record.error),
        record.cause,
        record.started,
        record.finished,
        record.due,
    )


def _step_record(row: Sequence[Any]) -> StepRecord:
    _, state, attempts, restarts, failures, token, worker_id, result, error, cause, started, finished, due = row
    return StepRecord(
        state=State(state),
        attempts=attempts,
        restarts=restarts,
        failures={} if failures is None else _unpack_failures(failures),
        token=token,
        worker_id=worker_id,
        result=None if result is None else Value(result),
        error=None if error is None else _unpack_error(error),
        cause=cause,
        started=started,
        finished=finished,
        due=due,
    )

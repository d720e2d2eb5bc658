"""Store: what a broker process knows of its runs, in a file."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuseline.broker.store.changes import Changes
from fuseline.broker.store.database import Database
from fuseline.broker.store.file import Durability, Ownership, check_file, check_owner
from fuseline.broker.store.rows import (
    OUTPUT_COLUMNS,
    RUN_COLUMNS,
    STEP_COLUMNS,
    Claims,
    changed_run_row,
    end_cause,
    move_tables,
    packed_inputs,
    place_of,
    places_of,
    run_record,
    run_row,
    step_tables,
)
from fuseline.errors import StoreError
from fuseline.messages import ReportAnswer, ReportStatus, StepReport
from fuseline.records import Move, RunRecord
from fuseline.scheduler.run import Run
from fuseline.schema import WorkflowSchema
from fuseline.states import State
from fuseline.values import Value
from fuseline.wakeup import Wakeup

__all__ = ["Store"]


#: Runs that ``prune`` removes in one transaction.
_PRUNED_AT_ONCE = 500
#: Seconds after which a file that nothing refers to is a leftover: whoever wrote it would have told us by then.
_LEFTOVER = 3600.0


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
        self._keys: dict[tuple[str, str], int] = {}  #: {(workflow_id, fingerprint): key}
        self._schemas: dict[int, WorkflowSchema] = {}
        self._unused: list[str] = []  #: names of files that nothing refers to once the commit under way is done
        check_file(path)
        self.ownership = Ownership(path)
        files = path.with_name(path.name + ".files")
        #: Where programs that work for this store show that they are alive.
        self.presence_folder = files / "presence"
        self.values_folder = files / "values"  #: of values that are too large for the store itself
        self.spools_folder = files / "spools"  #: of reports that may be on their way
        folders = (files, self.presence_folder, self.values_folder, self.spools_folder)
        try:
            with _files_of(path):
                for folder in folders:
                    folder.mkdir(mode=0o700, exist_ok=True)
            check_owner(*folders)
            self._db = Database(path)
            (self.epoch,) = self._db.one("SELECT value FROM meta WHERE name = 'epoch'")
            (self.last_number,) = self._db.one("SELECT coalesce(max(number), 0) FROM runs")
            self._seq = self.epoch << 40  # moves are in their order, whatever the clock on the wall does
        except BaseException:
            self.ownership.release()
            raise

    def close(self) -> None:
        """Write everything into the one file, and let go of it. May be called twice."""
        try:
            self._db.close()
        finally:
            self.ownership.release()

    # -- writing ------------------------------------------------------------------------------------------------------

    def commit(self, changes: Changes, epoch: float, *, behind: bool = False) -> None:
        """Write what has changed, in one transaction.

        Args:
            epoch: what to add to the seconds of runs to get seconds since the epoch.
            behind: whether not to wait for the disk, if there is a need to. ``settle`` does, and so does whatever comes
                next.

        Raises:
            StoreError: nothing was written.
        """
        self.settle()
        if changes:
            syncs = self.syncs and changes.matters
            with self._db.transaction(syncs=syncs, behind=behind and syncs):
                unused = self._write(changes, epoch)
            self._unused = unused
            self.has_settled()

    def has_settled(self) -> bool:
        """Return whether no commit is under way; ``settle`` would not wait. Raises like ``settle``."""
        if self._db.is_committing:
            return False
        self.settle()
        return True

    @property
    def settled(self) -> Wakeup:
        """Readable when a commit that was left behind may be done."""
        return self._db.settled

    def settle(self) -> None:
        """Wait for the commit that was left behind, if one was.

        Raises:
            StoreError: it has failed, and nothing of it was written.
        """
        unused, self._unused = self._unused, []
        self._db.settle()
        self.remove_files(unused)  # not if it has failed: there are rows that refer to them

    def _write(self, changes: Changes, epoch: float) -> list[str]:
        """Write what has changed; return the names of files that nothing refers to once it is committed."""
        unused: list[str] = []
        if changes.new_runs:
            new = [run_row(run, self._key(run.plan.schema), epoch) for run in changes.new_runs]
            self._db.insert("runs", RUN_COLUMNS, new)
            self._add_files((run, value) for run in changes.new_runs for value in run.inputs.values())
        if changes.runs:
            self._db.run_many(
                "UPDATE runs SET state = ?, cancelled = ?, started_by = ?, start_token = ?, started = ?, finished = ? "
                "WHERE number = ?",
                [changed_run_row(run, epoch) for run in changes.runs],
            )
        for run in changes.revived:
            self._revive(run)
        if changes.steps:
            for columns, rows in step_tables(changes.steps, epoch).items():
                self._db.insert("steps", columns, rows, replace=True)
            self._add_files((run, value) for (run, _), value in changes.steps.items() if value is not None)
        for run in changes.runs:
            if run.state is State.SUCCEEDED:
                unused += self._drop_results(run)
        if changes.moves:
            for columns, rows in move_tables(changes.moves, self._seq, epoch).items():
                self._db.insert("moves", columns, rows)
            self._seq += len(changes.moves)
        if changes.outputs:
            texts = [(run.number, *rest) for run, *rest in changes.outputs]
            self._db.insert("outputs", OUTPUT_COLUMNS, texts, replace=True)
        for instance_id in changes.forgotten:
            unused += self._delete(instance_id)
        return unused

    def _add_files(self, values: Iterable[tuple[Run, Value]]) -> None:
        rows = [(os.path.basename(value.file), run.number) for run, value in values if value.file]
        if rows:
            self._db.insert("files", "name, run", rows, replace=True)

    def _drop_results(self, run: Run) -> list[str]:
        """Keep the results of its outputs only; a run that was stopped keeps all, because it may be resumed.

        Returns:
            The names of files that are not needed any more.
        """
        outputs = set(run.plan.outputs)
        rows = [(place_of(run, step),) for step, uses in enumerate(run.bound.uses) if uses and step not in outputs]
        if not rows:
            return []
        files = self._db.texts("SELECT name FROM files WHERE run = ?", (run.number,))
        self._db.run_many("UPDATE steps SET result = NULL WHERE place = ?", rows)
        if not files:
            return []
        kept = {os.path.basename(value.file) for value in (*run.inputs.values(), *run.results.values())}
        self._db.run_many("DELETE FROM files WHERE name = ?", [(name,) for name in files if name not in kept])
        return [name for name in files if name not in kept]

    def _revive(self, run: Run) -> None:
        """Write all of a run anew, of another version of its workflow perhaps."""
        self._db.run(
            "UPDATE runs SET workflow = ?, inputs = ? WHERE number = ?",
            (self._key(run.plan.schema), packed_inputs(run), run.number),
        )
        self._db.run("DELETE FROM steps WHERE place BETWEEN ? AND ?", places_of(run.number))

    def _key(self, schema: WorkflowSchema) -> int:
        """Return the key of a workflow, which is written if it is new."""
        identity = (schema.workflow_id, schema.fingerprint)
        key = self._keys.get(identity)
        if key is None:
            found = self._db.one("SELECT key FROM workflows WHERE workflow_id = ? AND fingerprint = ?", identity)
            if found is None:
                sql = "INSERT INTO workflows (workflow_id, fingerprint, schema) VALUES (?, ?, ?) RETURNING key"
                found = self._db.one(sql, (*identity, schema.to_json()))
            key = self._keys[identity] = found[0]
            self._schemas[key] = schema
        return key

    def _delete(self, instance_id: str) -> list[str]:
        """Remove a run, and return the names of its files."""
        found = self._db.one("DELETE FROM runs WHERE instance_id = ? RETURNING number", (instance_id,))
        if found is None:
            return []
        files = self._db.texts("DELETE FROM files WHERE run = ? RETURNING name", found)
        self._db.run("DELETE FROM steps WHERE place BETWEEN ? AND ?", places_of(found[0]))
        self._db.run("DELETE FROM moves WHERE run = ?", found)
        self._db.run("DELETE FROM outputs WHERE run = ?", found)
        return files

    # -- cleaning up --------------------------------------------------------------------------------------------------

    def prune(self, ended_before: float | None, most: int | None) -> int:
        """Remove runs that have ended, the oldest first: those before a moment, and those that are too many.

        Args:
            ended_before: seconds since the epoch; None for no limit.
            most: of ended runs that may stay; None for any number.

        Returns:
            How many were removed: some hundreds at most. Call again until there are none.
        """
        ended = "FROM runs WHERE finished IS NOT NULL"
        excess = 0 if most is None else max(0, self._db.one(f"SELECT count(*) {ended}")[0] - most)
        oldest = f"SELECT instance_id {ended} AND finished < ? ORDER BY finished LIMIT ?"
        before = -math.inf if ended_before is None else ended_before
        removed = max(
            self._db.texts(oldest, (before, _PRUNED_AT_ONCE)),
            self._db.texts(oldest, (math.inf, min(excess, _PRUNED_AT_ONCE))),
            key=len,
        )
        changes = Changes()
        changes.forgotten = removed
        changes.matters = True  # or a power cut may bring them back without their files
        self.commit(changes, 0.0)
        return len(removed)

    def sweep(self) -> None:
        """Remove what ``leftovers`` finds. Where it cannot look now, it does nothing."""
        with contextlib.suppress(OSError):
            self.remove_files(self.leftovers(time.time()))

    def shrink(self) -> None:
        """Give back to the file system what the file does not need."""
        self._db.shrink()

    def leftovers(self, now: float) -> list[str]:
        """Return the names of files that nothing refers to, and whose writers are not about to tell of them.

        Args:
            now: seconds since the epoch.

        Raises:
            OSError: their folder cannot be read.
        """
        entries = list(os.scandir(self.values_folder))
        found = []
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if now - entry.stat().st_mtime > _LEFTOVER and not self.refers_to(entry.name):
                    found.append(entry.name)
        return found

    def refers_to(self, file: str) -> bool:
        """Return whether a run has this file."""
        return self._db.one("SELECT 1 FROM files WHERE name = ?", (os.path.basename(file),)) is not None

    def remove_files(self, names: Iterable[str]) -> None:
        """Remove files of values."""
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(self.values_folder / name)

    def size_bytes(self) -> int:
        """Return what the file, its log and the values beside it take on the disk."""
        beside = 0
        with contextlib.suppress(OSError):  # no descriptor left, say: nobody must suffer for a mere number
            beside = sum(entry.stat().st_size for entry in os.scandir(self.values_folder))
        parts = [self.path, self.path.with_name(self.path.name + "-wal")]
        return beside + sum(part.stat().st_size for part in parts if part.exists())

    def check(self) -> list[str]:
        """Return what is wrong with the store, one sentence each; nothing if it is whole. Reads all of it."""
        found = [text for text in self._db.texts("PRAGMA quick_check(20)") if text != "ok"]
        names = self._db.texts("SELECT name FROM files ORDER BY run")
        lost = [name for name in names if not (self.values_folder / name).exists()]
        if lost:
            found.append(f"{len(lost)} files of values are gone from {self.values_folder}, the first is {lost[0]}.")
        return found

    # -- reading ------------------------------------------------------------------------------------------------------

    def has(self, instance_id: str) -> bool:
        """Return whether there is a run of this id."""
        return self._db.one("SELECT 1 FROM runs WHERE instance_id = ?", (instance_id,)) is not None

    def find(self, prefix: str, limit: int) -> list[str]:
        """Return the ids of runs that begin like this, ``limit`` at most, the newest first."""
        return self._db.texts(
            "SELECT instance_id FROM runs WHERE instance_id >= ? AND instance_id < ? || char(0x10FFFF) "
            "ORDER BY number DESC LIMIT ?",
            (prefix, prefix, limit),
        )

    def counts(self) -> dict[str, int]:
        """Return how many runs have ended, by state."""
        sql = "SELECT state, count(*) FROM runs WHERE finished IS NOT NULL GROUP BY state"
        return dict(self._db.all(sql))

    def load(self, instance_id: str) -> tuple[WorkflowSchema, RunRecord] | None:
        """Return a run and its workflow, or None if there is no such run."""
        return next(self._load("WHERE instance_id = ?", (instance_id,)), None)

    def load_open(self) -> Iterator[tuple[WorkflowSchema, RunRecord]]:
        """Yield the runs that have not ended, oldest first."""
        return self._load("WHERE finished IS NULL ORDER BY number", ())

    def ids(self, workflow_id: str | None, state: State | None, limit: int | None) -> list[str]:
        """Return the ids of runs, oldest first: those of a workflow, that ended in a state, so many of the newest."""
        found = self._db.texts(
            "SELECT instance_id FROM runs "
            "WHERE (? IS NULL OR workflow IN (SELECT key FROM workflows WHERE workflow_id = ?)) "
            "AND (? IS NULL OR (state = ? AND finished IS NOT NULL)) ORDER BY number DESC LIMIT ?",
            (workflow_id, workflow_id, state, state, -1 if limit is None else limit),
        )
        return found[::-1]

    def story(self, instance_id: str) -> list[Move]:
        """Return all moves of a run and its steps, in their order; none if there is no such run."""
        sql = "SELECT number, workflow, state, cancelled, created, finished FROM runs WHERE instance_id = ?"
        run = self._db.one(sql, (instance_id,))
        if run is None:
            return []
        number, workflow, state, cancelled, created, finished = run
        schema = self._schema(workflow)
        rows = self._db.all(
            "SELECT step, state, attempt, cause, worker_id, at FROM moves WHERE run = ? ORDER BY seq", (number,)
        )
        # Moves that follow from others have no rows.
        roots = [step.name for step in schema.steps if not step.predecessors]
        first = [(name, State.READY, 0, "", None, created) for name in roots]
        begin = [(None, State.RUNNING, None, "", None, row[5]) for row in rows if row[1] == State.RUNNING][:1]
        end = [] if finished is None else [(None, state, None, end_cause(cancelled, schema), None, finished)]
        return [
            Move(step_name=step, state=State(state), attempt=attempt, cause=cause, worker_id=worker_id, at=at)
            for step, state, attempt, cause, worker_id, at in [*first, *begin, *rows, *end]
        ]

    def output(self, instance_id: str, step_name: str, attempt: int) -> str:
        """Return what an attempt has printed; empty if that is nothing."""
        sql = "SELECT text FROM outputs WHERE run = (SELECT number FROM runs WHERE instance_id = ?) "
        found = self._db.one(sql + "AND step = ? AND attempt = ?", (instance_id, step_name, attempt))
        return "" if found is None else str(found[0])

    def outcome(self, worker_id: str, report: StepReport) -> ReportAnswer | None:
        """Return what was made of a report that was accepted before, or None if it was not."""
        claim = self._db.one(
            "SELECT run, seq FROM moves WHERE run = (SELECT number FROM runs WHERE instance_id = ?) "
            "AND step = ? AND token = ? AND worker_id = ?",
            (report.instance_id, report.step_name, report.token, worker_id),
        )
        if claim is None:
            return None
        sql = "SELECT state, at FROM moves WHERE run = ? AND seq > ? AND step = ? ORDER BY seq LIMIT 1"
        end = self._db.one(sql, (*claim, report.step_name))
        if end is None:
            return None
        # A run that ends does so in the same moment as the step that ended it.
        run_end = self._db.one(
            "SELECT state FROM runs WHERE number = ? AND finished = ? "
            "UNION ALL SELECT state FROM moves WHERE run = ? AND step IS NULL AND at = ?",
            (claim[0], end[1]) * 2,
        )
        return ReportAnswer(
            status=ReportStatus.ACCEPTED,
            step_state=State(end[0]),
            run_state=None if run_end is None else State(run_end[0]),
        )

    def _load(self, which: str, values: Sequence[Any]) -> Iterator[tuple[WorkflowSchema, RunRecord]]:
        for row in self._db.all(f"SELECT {RUN_COLUMNS} FROM runs {which}", values):
            number, schema, is_open = row[0], self._schema(row[2]), row[-1] is None
            sql = f"SELECT {STEP_COLUMNS} FROM steps WHERE place BETWEEN ? AND ?"
            step_rows = self._db.all(sql, places_of(number))
            claims = self._claims(number) if is_open else Claims()
            yield schema, run_record(row, step_rows, claims, schema, self.values_folder)

    def _claims(self, number: int) -> Claims:
        """Return what the moves of a run that has not ended say, and nothing else does."""
        live = self._db.all(
            "SELECT step, attempt, token, worker_id, at, max(seq) FROM moves WHERE run = ? AND step IS NOT NULL "
            "GROUP BY step HAVING token IS NOT NULL",
            (number,),
        )
        first = self._db.one(
            "SELECT at, worker_id, token, seq FROM moves WHERE run = ? AND token IS NOT NULL AND seq > "
            "(SELECT coalesce(max(seq), 0) FROM moves WHERE run = ? AND step IS NULL) ORDER BY seq LIMIT 1",
            (number, number),
        )
        if first is None:
            return Claims([row[:5] for row in live])
        # Within the life of one broker, which is in the high bits of ``seq``, times come from one monotonic clock. In
        # the first life the time of the run began with its first step, in the others with the broker's own start.
        at, worker_id, token, seq = first
        (spent,) = self._db.one(
            "SELECT sum(max(0.0, last - CASE WHEN life = ? THEN began ELSE coalesce(value, began) END)) FROM "
            "(SELECT seq >> 40 AS life, min(at) AS began, max(at) AS last FROM moves WHERE run = ? AND seq >= ? "
            "GROUP BY seq >> 40) LEFT JOIN meta ON name = 'opened ' || life",
            (seq >> 40, number, seq),
        )
        return Claims([row[:5] for row in live], at, worker_id, token, spent)

    def _schema(self, key: int) -> WorkflowSchema:
        schema = self._schemas.get(key)
        if schema is None:
            (text,) = self._db.one("SELECT schema FROM workflows WHERE key = ?", (key,))
            schema = self._schemas[key] = WorkflowSchema.from_json(text)
            self._keys[schema.workflow_id, schema.fingerprint] = key
        return schema


@contextmanager
def _files_of(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the folders beside a store into what a user can act on."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the files beside the store {path} cannot be used: {error}. See that their directory can be written."
        ) from error

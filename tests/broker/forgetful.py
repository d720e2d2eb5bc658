"""A disk that forgets at a power cut what was not synced, and SQLite on it.

::

    Store ── Connection ── apsw ── _Vfs, _File ── the real files
                                       └────────── Disk.log: every write, truncation, sync, creation and deletion

The log can be replayed to any moment. What is on the disk after a power cut then is all that was synced, and of the
rest what the test wants: nothing, a beginning, some of it, or everything, as if only the process had been killed.

What is promised to SQLite here is what POSIX promises and no more: the sync of a file says nothing about its name. A
name is safe once its folder is synced, which SQLite does with the first sync of a new journal or log. A write may be
torn between sectors of 512 bytes; outside of a write nothing changes (``SQLITE_IOCAP_POWERSAFE_OVERWRITE``, the
default). The SQLite is that of apsw, which is newer than the one of ``sqlite3``; what is left is read by the latter.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace, TracebackType
from typing import Any, Literal, NamedTuple, Self

import apsw

#: What is left of what was not synced. The last is no power cut, but the end of a process.
How = Literal["nothing", "a beginning", "some", "everything"]
POWER_CUTS: tuple[How, ...] = ("nothing", "a beginning", "some")

_SECTOR = 512
_names = itertools.count()


class Op(NamedTuple):
    """Something that was done to a file; files are numbered, because a name may be used again."""

    kind: Literal["write", "truncate", "sync", "create", "delete", "sync names"]
    file: int = 0
    offset: int = 0  #: or the size, of a truncation
    data: bytes = b""
    name: str = ""


class Disk:
    """The files of one folder, as SQLite writes them; what the folder has at first counts as synced.

    Args:
        checkpoint_at: pages in the log of SQLite at which it writes them into the file; few, so that it happens.
        syncs: whether a sync does anything.
    """

    def __init__(self, folder: Path, *, checkpoint_at: int = 20, syncs: bool = True) -> None:
        self.log: list[Op] = []
        self._checkpoint_at = checkpoint_at
        self._syncs = syncs
        self._numbers = itertools.count()
        self._files: dict[str, int] = {}
        self._first: dict[int, bytes] = {}
        for path in filter(Path.is_file, folder.iterdir()):
            self._files[path.name] = file = next(self._numbers)
            self._first[file] = path.read_bytes()
        self._first_names = dict(self._files)
        self._vfs = _Vfs(self, f"forgetful-{next(_names)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._vfs.unregister()

    @property
    def sqlite3(self) -> Any:
        """What a module may have in the place of ``sqlite3`` to work on this disk."""
        return SimpleNamespace(connect=self.connect, Error=sqlite3.Error, Cursor=Cursor)

    def connect(
        self, path: Path, *, timeout: float, isolation_level: None, cached_statements: int, check_same_thread: bool
    ) -> Connection:
        """Open a database, like ``sqlite3.connect``."""
        assert (timeout, isolation_level) == (0, None), "there is nothing else on this disk"
        with _translated():
            inner = apsw.Connection(str(path), vfs=self._vfs.name, statementcachesize=cached_statements)
            inner.execute(f"PRAGMA wal_autocheckpoint = {self._checkpoint_at}").fetchall()
        return Connection(inner)

    # -- what SQLite does ---------------------------------------------------------------------------------------------

    def open(self, name: str, *, is_new: bool) -> int:
        """Return the number of a file."""
        if is_new or name not in self._files:  # an empty one may have been made before, with the right mode
            self._files[name] = next(self._numbers)
            self.log.append(Op("create", self._files[name], name=name))
        return self._files[name]

    def sync(self, file: int, *, name_too: bool) -> None:
        """Sync a file, and the names of all."""
        if self._syncs:
            self.log.append(Op("sync", file))
            if name_too:
                self.log.append(Op("sync names"))

    def delete(self, name: str, *, and_sync: bool) -> None:
        """Remove a name, and sync those that are left."""
        self.log.append(Op("delete", self._files.pop(name), name=name))
        if and_sync and self._syncs:
            self.log.append(Op("sync names"))

    # -- what is left -------------------------------------------------------------------------------------------------

    def cut(self, folder: Path, how: How, rng: Random, at: int | None = None) -> None:
        """Write into a new folder what is on the disk after a power cut.

        Args:
            how: what is left of what was not synced.
            at: how much of the log had happened; default is all.
        """
        contents = {file: bytearray(data) for file, data in self._first.items()}
        unsynced: dict[int, list[Op]] = {file: [] for file in contents}
        names = dict(self._first_names)
        unsynced_names: list[Op] = []
        for op in self.log[:at]:
            if op.kind == "create":
                contents[op.file], unsynced[op.file] = bytearray(), []
            if op.kind in ("create", "delete"):
                unsynced_names.append(op)
            elif op.kind == "sync names":
                _rename(names, unsynced_names)
                unsynced_names = []
            elif op.kind == "sync":
                _apply(contents[op.file], unsynced[op.file])
                unsynced[op.file] = []
            else:
                unsynced[op.file].append(op)
        _rename(names, _left_of_names(unsynced_names, how, rng))
        folder.mkdir(parents=True)
        for name, file in names.items():
            _apply(contents[file], _left_of(unsynced[file], how, rng))
            (folder / name).write_bytes(contents[file])


def _left_of(ops: list[Op], how: How, rng: Random) -> list[Op]:
    """Return what is left of writes and truncations of one file."""
    if how == "some":
        often = rng.random()
        return [part for op in ops for part in _some_of(op, often, rng)]
    return ops[: _count_left(ops, how, rng)]


def _left_of_names(ops: list[Op], how: How, rng: Random) -> list[Op]:
    """Return what is left of creations and deletions; those of one name keep their order, and none is left out."""
    if how != "some":
        return ops[: _count_left(ops, how, rng)]
    left: list[Op] = []
    for name in sorted({op.name for op in ops}):
        history = [op for op in ops if op.name == name]
        left += history[: rng.randint(0, len(history))]
    return left


def _count_left(ops: Sequence[Op], how: How, rng: Random) -> int:
    return {"nothing": 0, "a beginning": rng.randint(0, len(ops)), "everything": len(ops)}[how]


def _some_of(op: Op, often: float, rng: Random) -> Iterable[Op]:
    """Yield a write, or nothing, or some of its sectors."""
    if op.kind != "write" or rng.random() < 0.7:
        if rng.random() < often:
            yield op
        return
    start, end = op.offset, op.offset + len(op.data)
    while start < end:
        stop = min(end, start - start % _SECTOR + _SECTOR)
        if rng.random() < often:
            yield op._replace(offset=start, data=op.data[start - op.offset : stop - op.offset])
        start = stop


def _apply(content: bytearray, ops: Iterable[Op]) -> None:
    for op in ops:
        if op.kind == "truncate":
            del content[op.offset :]
            continue
        content.extend(bytes(max(0, op.offset - len(content))))  # a hole
        content[op.offset : op.offset + len(op.data)] = op.data


def _rename(names: dict[str, int], ops: Iterable[Op]) -> None:
    for op in ops:
        if op.kind == "create":
            names[op.name] = op.file
        else:
            names.pop(op.name, None)


# -- for SQLite -------------------------------------------------------------------------------------------------------


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk, name: str) -> None:
        self.name = name
        self._disk = disk
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        if name is None:  # a temporary file
            return super().xOpen(name, flags)
        return _File(self._disk, name, flags)

    def xDelete(self, path: str, and_sync: bool) -> None:  # noqa: N802
        super().xDelete(path, and_sync)
        self._disk.delete(os.path.basename(path), and_sync=and_sync)


class _File(apsw.VFSFile):
    """A file that writes through, and tells the disk of it."""

    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        path = name if isinstance(name, str) else name.filename()
        is_new = not os.path.exists(path)
        super().__init__("", name, flags)
        self._disk = disk
        self._file = disk.open(os.path.basename(path), is_new=is_new)
        # Like SQLite's own VFS: the folder is synced with the first sync of a new journal or log, with no other one.
        self._sync_name = is_new and bool(flags[0] & (apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL))

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.log.append(Op("write", self._file, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._disk.log.append(Op("truncate", self._file, size))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.sync(self._file, name_too=self._sync_name)  # the real one would only cost time
        self._sync_name = False


# -- for Store --------------------------------------------------------------------------------------------------------


class Connection:
    """As much of ``sqlite3.Connection`` as a store uses."""

    def __init__(self, inner: apsw.Connection) -> None:
        self._inner = inner

    @property
    def in_transaction(self) -> bool:
        return bool(self._inner.in_transaction)

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Cursor:
        with _translated():
            return Cursor(self._inner.execute(sql, values))

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with _translated():
            self._inner.executemany(sql, rows)

    def executescript(self, sql: str) -> None:
        with _translated():
            self._inner.execute(sql).fetchall()

    def close(self) -> None:
        with _translated():
            self._inner.close()


class Cursor:
    """As much of ``sqlite3.Cursor`` as a store uses."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def fetchone(self) -> Any:
        with _translated():
            return self._inner.fetchone()

    def fetchall(self) -> list[Any]:
        with _translated():
            return list(self._inner.fetchall())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what ``sqlite3`` would."""
    try:
        yield
    except apsw.Error as error:
        kind = sqlite3.IntegrityError if isinstance(error, apsw.ConstraintError) else sqlite3.OperationalError
        translated = kind(str(error))
        number = getattr(error, "extendedresult", apsw.SQLITE_ERROR)
        translated.sqlite_errorcode = number
        translated.sqlite_errorname = str(
            apsw.mapping_extended_result_codes.get(number) or apsw.mapping_result_codes.get(number & 0xFF, "")
        )
        raise translated from error

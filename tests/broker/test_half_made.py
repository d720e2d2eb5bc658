"""Files that are there before the store is, and are not what they seem."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fuseline.broker.store import Store
from fuseline.broker.store.database import Database
from fuseline.errors import StoreError


def test_a_store_that_could_not_be_made_can_be_made_later(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Database.run

    def fail(self: Database, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        if "CREATE TABLE runs" in sql:
            raise StoreError("the disk is full")
        return run(self, sql, values)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "run", fail)
        with pytest.raises(StoreError, match="full"):
            Store(store)
    assert store.stat().st_size > 0
    Store(store).close()


def test_the_file_of_another_program_is_refused_even_if_a_journal_is_beside_it(store: Path) -> None:
    other = sqlite3.connect(store)
    other.execute("CREATE TABLE theirs (a)")
    other.commit()
    other.close()
    before = store.read_bytes()
    store.with_name(store.name + "-journal").touch()
    with pytest.raises(StoreError, match="of another program"):
        Store(store)
    assert store.read_bytes() == before

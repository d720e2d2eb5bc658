"""Every test leaves no process, thread or descriptor behind, and every scheduler in it checks itself."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuseline.testing import Census, Gate

os.environ["FUSELINE_CHECKED"] = "1"


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test with so many steps that checking all of them after each event would take minutes."""
    monkeypatch.delenv("FUSELINE_CHECKED")


@pytest.fixture(autouse=True)
def nothing_left_over() -> Iterator[None]:
    census = Census()
    yield
    census.assert_nothing_left()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a path that is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="fl-") as folder:
        yield Path(folder)


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate

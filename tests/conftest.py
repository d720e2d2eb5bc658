"""Every test leaves no process, thread or descriptor behind."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuseline.testing import Census, Gate


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have schedulers check all invariants after each event, also in other processes. For few runs of few steps."""
    monkeypatch.setenv("FUSELINE_CHECKED", "1")


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

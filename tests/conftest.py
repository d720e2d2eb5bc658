"""Every test leaves no process, thread or descriptor behind."""

import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuseline.testing import Census, Gate

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell that starts the tests in the background wants it so
    signal.signal(signal.SIGINT, signal.default_int_handler)  # but the programs that they start shall heed Ctrl-C


def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are CPUs: a third of the time, tests wait for other processes."""
    return max(2, (os.cpu_count() or 1) * 3 // 2)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over thousands of tests, which are no garbage."""
    gc.collect()
    gc.freeze()


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

"""Every test leaves no process, thread or descriptor behind."""

from collections.abc import Iterator

import pytest

from fuseline.testing import Census, Gate


@pytest.fixture(autouse=True)
def nothing_left_over() -> Iterator[None]:
    census = Census()
    yield
    census.assert_nothing_left()


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate

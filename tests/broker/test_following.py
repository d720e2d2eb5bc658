"""The stream of events from a broker process, with a broker that says things at the worst moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from fuseline.broker.link import ClientLink
from fuseline.broker.local_stream import LocalStream
from fuseline.broker.wire import Done, Happened
from fuseline.records import Move
from fuseline.states import State

END = Happened("r", Move(step_name=None, state=State.SUCCEEDED, attempt=None, cause="", at=1.0))


class Link:
    """A link over which nothing comes any more, but for what its broker said together with its first answer."""

    def __init__(self, fd: int, say: Callable[[], None]) -> None:
        self._fd = fd
        self._say = say

    def fileno(self) -> int:
        return self._fd

    def call(self, *_: Any) -> Done:
        self._say()
        return Done()

    def close(self) -> None:
        pass


@pytest.fixture
def silent_fd() -> Iterator[int]:
    ends = os.pipe()
    yield ends[0]
    for fd in ends:
        os.close(fd)


def test_a_run_may_end_together_with_the_answer_that_it_is_followed(silent_fd: int) -> None:
    def connect(on_push: Callable[[Any], None]) -> ClientLink:
        return cast(ClientLink, Link(silent_fd, lambda: on_push(END)))

    with LocalStream(connect, "r") as stream:
        assert [event.state for event in stream] == [State.SUCCEEDED]

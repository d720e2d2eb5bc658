"""The stream of events from a broker process, with a broker that says things at the worst moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from fuseline.broker.link import ClientLink, LinkLost
from fuseline.broker.local_stream import LocalStream
from fuseline.broker.wire import Done, Happened
from fuseline.errors import BrokerError
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


class LostLink(Link):
    """A link that ends when it is first used for something."""

    def __init__(self, fd: int, *, takes_call: bool) -> None:
        super().__init__(fd, lambda: None)
        self._takes_call = takes_call
        self.is_closed = False

    def call(self, *arguments: Any) -> Done:
        if not self._takes_call:
            raise LinkLost("the broker has closed the link")
        return super().call(*arguments)

    def take_pushed(self) -> None:
        raise LinkLost("the broker has closed the link")

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def readable_fd() -> Iterator[int]:
    ends = os.pipe()
    os.write(ends[1], b"x")
    yield ends[0]
    for fd in ends:
        os.close(fd)


def test_a_run_is_followed_over_other_links_when_one_ends(silent_fd: int, readable_fd: int) -> None:
    lost = [LostLink(readable_fd, takes_call=True), LostLink(readable_fd, takes_call=False)]
    left: list[Link] = list(lost)

    def connect(on_push: Callable[[Any], None]) -> ClientLink:
        return cast(ClientLink, left.pop(0) if left else Link(silent_fd, lambda: on_push(END)))

    with LocalStream(connect, "r") as stream:
        assert [event.state for event in stream] == [State.SUCCEEDED]
    assert [link.is_closed for link in lost] == [True, True]


def test_a_stream_ends_with_the_reason_when_there_is_no_other_link(readable_fd: int) -> None:
    lost = LostLink(readable_fd, takes_call=True)
    left = [lost]

    def connect(on_push: Callable[[Any], None]) -> ClientLink:
        if not left:
            raise BrokerError("the broker process cannot be reached any more")
        return cast(ClientLink, left.pop())

    with LocalStream(connect, "r") as stream:
        with pytest.raises(BrokerError, match="cannot be reached any more"):
            stream.next_event()
        assert stream.next_event() is None
    with pytest.raises(BrokerError, match="cannot be reached any more"):
        LocalStream(connect, "r")

"""The events of a broker process, as a stream in this program."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from fuseline.broker.base import EventStream, RunEvent
from fuseline.broker.link import ClientLink, LinkLost
from fuseline.broker.local_worker import OnPush
from fuseline.broker.wire import Done, Happened, News, Watch
from fuseline.wakeup import Wakeup, wait_readable

__all__ = ["LocalStream"]


class LocalStream(EventStream):
    """Follows a broker process over a link of its own, which is made anew if the process is.

    What happens between the end of a link and the next one is missed, but for the end of a run that is followed. A
    stream that nobody reads is cut off when it is 100,000 events behind.
    """

    def __init__(self, connect: Callable[[OnPush], ClientLink], instance_id: str | None) -> None:
        self._connect = connect
        self._instance_id = instance_id
        self._events: deque[RunEvent] = deque()
        self._ended = False
        self._reading = threading.Lock()
        self._stop = Wakeup()
        try:
            self._link = self._watch()
        except BaseException:
            self._stop.close()
            raise

    def _watch(self) -> ClientLink:
        while True:
            link = self._connect(self._on_push)
            try:
                if not link.call(Watch(self._instance_id), Done).had_effect:  # the end may also come with the answer
                    self._ended = True
            except LinkLost:
                link.close()
                continue
            except BaseException:
                link.close()
                raise
            return link

    def _on_push(self, message: News | Happened) -> None:
        assert isinstance(message, Happened)
        move = message.move
        self._events.append(
            RunEvent(
                instance_id=message.instance_id,
                step_name=move.step_name,
                state=move.state,
                attempt=move.attempt,
                cause=move.cause,
                at=move.at,
            )
        )
        if self._instance_id is not None and move.step_name is None and move.state.is_settled:
            self._ended = True

    def next_event(self, timeout: float | None = None) -> RunEvent | None:
        give_up = math.inf if timeout is None else time.monotonic() + timeout
        with self._reading:
            while not self._events and not self._ended:
                left = give_up - time.monotonic()
                fds = [self._link.fileno(), self._stop.fileno()]
                readable = wait_readable(fds, None if left == math.inf else left)
                if not readable:
                    return None
                if not self._ended and self._link.fileno() in readable:
                    self._take()
            return self._events.popleft() if self._events else None

    def _take(self) -> None:
        try:
            self._link.take_pushed()
        except LinkLost:
            self._link.close()
            if not self._ended:
                try:
                    self._link = self._watch()
                except BaseException:
                    self._ended = True
                    raise

    def forget(self) -> None:
        """Have no part in it any more: what a fork of the program does."""
        self._reading = threading.Lock()
        self._stop = Wakeup()
        self._events.clear()
        self._ended = True

    def close(self) -> None:
        self._ended = True
        self._stop.set()
        with self._reading:  # nobody waits on these descriptors any more, whose numbers may be used again
            self._link.close()
            self._stop.close()

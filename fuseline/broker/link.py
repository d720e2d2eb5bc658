"""A link: one connection between a broker process and a program, as each of the two sees it."""

from __future__ import annotations

import os
import socket
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

from fuseline.broker.door import peer_of
from fuseline.broker.wire import FROM_BROKER, TO_BROKER, FromBroker, Happened, Hello, News, Refused, ToBroker, Welcome
from fuseline.channel import Channel, EncodingError, ProtocolError
from fuseline.errors import BrokerError
from fuseline.messages import ReportAnswer, StepAssignment
from fuseline.wakeup import wait_readable

__all__ = ["ClientLink", "LinkLost", "ServerLink"]

#: Longest frame from somebody who has not shown the key, in bytes.
_STRANGER_LIMIT = 1 << 12
#: Seconds in which a broker must greet a program: it may be writing to a slow disk.
_PATIENCE = 30.0
#: Longest frame from anybody else: the largest value fits.
_LIMIT = 5 << 30

R = TypeVar("R", bound=FromBroker)


class LinkLost(Exception):
    """The other end is gone, or what came from it was no message."""


class ServerLink:
    """The broker's end. It never blocks; what it is told to say goes with ``flush``."""

    def __init__(self, connection: socket.socket, enter_by: float) -> None:
        connection.setblocking(False)
        self._connection = connection
        self.channel: Channel[ToBroker, FromBroker] = Channel(connection.fileno(), TO_BROKER, _STRANGER_LIMIT)
        self.enter_by: float | None = enter_by  #: when the key must have come, in monotonic seconds; None if it has
        self.worker_id: str | None = None
        self.watches = False
        self.watched: str | None = None  #: the run it watches; None for all
        self.room = 0  #: how many more assignments its worker has asked for
        self.given = 0  #: how many were given to it because of that
        self.answers: list[ReportAnswer] = []  #: to the reports that its worker has traded, not told yet
        self.assignments: list[StepAssignment] = []  #: likewise
        self.events = 0  #: what the selector waits for

    def fileno(self) -> int:
        return self._connection.fileno()

    def peer_pid(self) -> int | None:
        """Return the process at the other end, or None where the system does not say."""
        peer = peer_of(self._connection)
        return None if peer is None else peer[0]

    def let_in(self) -> None:
        """Take the other end for a program of this user."""
        self.enter_by = None
        self.channel.limit = _LIMIT

    def close(self) -> None:
        self._connection.close()


class ClientLink:
    """The program's end. Requests block until they are answered, and may come from any thread.

    Args:
        connection: it is closed with the link.
        key: None for a link that the broker has made itself.
        on_push: called with what comes unasked, in the thread that happens to read it.

    Raises:
        LinkLost: the broker does not let it in.
    """

    def __init__(
        self, connection: socket.socket, key: str | None, on_push: Callable[[News | Happened], None] | None = None
    ) -> None:
        self._connection = connection
        self._channel: Channel[FromBroker, ToBroker] = Channel(connection.fileno(), FROM_BROKER, _LIMIT)
        self._on_push = on_push
        self._lock = threading.Lock()
        self._answers: list[FromBroker] = []
        self.told: set[tuple[str, str]] = set()  #: workflows that the broker was told of here
        try:
            self.welcome = self.call(Hello(key or ""), Welcome, timeout=_PATIENCE)
        except BaseException:
            connection.close()
            raise
        _links.add(self)

    def fileno(self) -> int:
        return self._connection.fileno()

    def call(self, request: ToBroker, kind: type[R], timeout: float | None = None) -> R:
        """Send a request and return its reply, which may take ``timeout`` seconds (None: any number).

        Raises:
            FuselineError: the broker refuses, or does not answer in time; or the request has no form that travels.
            LinkLost: the link ended before the reply came.
        """
        with self._lock:
            self._check_open()
            try:
                self._channel.send(request)
                while not self._answers:
                    self._read(timeout)
            except EncodingError as error:  # nothing of it is on its way
                raise _cannot_be_sent(request, error) from error
            except BaseException:  # Ctrl-C, say: the next call would take this one's answer for its own
                self._shut_down()
                raise
            answer = self._answers.pop(0)
        if isinstance(answer, Refused):
            raise answer.error()
        if not isinstance(answer, kind):
            raise BrokerError(f"the broker answers {type(request).__name__} with {answer!r:.200}.")
        return answer

    def post(self, request: ToBroker) -> None:
        """Send a request that has no reply.

        Raises:
            LinkLost: the link is closed. That it was lost is found out by the next who reads.
            BrokerError: it has no form that travels.
        """
        with self._lock:
            self._check_open()
            try:
                self._channel.send(request)
            except EncodingError as error:
                raise _cannot_be_sent(request, error) from error

    def take_pushed(self) -> None:
        """Read what has come unasked, if there is something; if that is half a message, wait for the rest.

        Raises:
            LinkLost: the link has ended.
            FuselineError: the broker refuses what was posted.
        """
        with self._lock:
            self._check_open()
            if wait_readable([self.fileno()], 0):
                self._read()
            if self._answers and isinstance(refused := self._answers.pop(0), Refused):
                raise refused.error()

    def _read(self, timeout: float | None = None) -> None:
        """Wait for something, up to so many seconds (None: for ever), and take it in."""
        if timeout is not None and not wait_readable([self.fileno()], timeout):
            raise BrokerError(f"the broker process has not answered for {timeout:g} s. See whether it was stopped.")
        try:
            messages = list(self._channel.receive())
        except (ProtocolError, OSError, ValueError) as error:
            raise LinkLost(str(error)) from error
        for message in messages:
            if isinstance(message, News | Happened):
                if self._on_push is not None:
                    self._on_push(message)
            else:
                self._answers.append(message)
        if self._channel.has_ended and not messages:
            raise LinkLost("the broker has closed the link")

    def close(self) -> None:
        """Close the link; who waits on it in another thread gets ``LinkLost``. May be called twice."""
        self._shut_down()
        with self._lock:  # nobody reads or writes any more: the number of the descriptor may be used again
            self._connection.close()

    def _shut_down(self) -> None:
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is closed
            pass

    def _check_open(self) -> None:
        if self._connection.fileno() < 0:
            raise LinkLost("the link is closed")


def _cannot_be_sent(request: ToBroker, error: EncodingError) -> BrokerError:
    return BrokerError(
        f"{type(request).__name__} cannot be sent to the broker: {error}. Give ids and names that have a form in UTF-8."
    )


_links: weakref.WeakSet[ClientLink] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # A fork must not keep the links open: the broker would think that the program still lives.
    for link in list(_links):
        if link.fileno() >= 0:
            os.close(link._connection.detach())
        link._lock = threading.Lock()  # the thread that may have had it is not here


os.register_at_fork(after_in_child=_after_fork_in_child)

"""The process of a broker, as programs see it: found or started, and found or started again when its link is lost."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from fuseline.broker.door import knock
from fuseline.broker.link import ClientLink, LinkLost
from fuseline.broker.local_worker import OnPush
from fuseline.broker.startup import Start, log_of
from fuseline.broker.store.file import Durability, read_owner
from fuseline.broker.wire import (
    Dispatch,
    Done,
    FindUnknown,
    Found,
    FromBroker,
    Hello,
    Know,
    Leave,
    ToBroker,
    Welcome,
)
from fuseline.errors import BrokerError, FuselineError, StoreInUse
from fuseline.schema import WorkflowSchema

__all__ = ["BrokerProcess"]

#: Seconds in which a broker process must be there, started or found.
_PATIENCE = 20.0
#: Seconds in which it must have closed its store when the last program leaves: it may be writing to a slow disk.
_FAREWELL = 30.0
#: Seconds between two tries to reach one that is starting or ending.
_PAUSE = 0.02
#: So often one is started that ends before it can say why: a signal hits one of them, what is broken hits all.
_STARTS = 3

R = TypeVar("R", bound=FromBroker)


class BrokerProcess:
    """A process that serves a broker. Thread-safe.

    Args:
        path: of its store; None for one without, which only this program knows of and nobody can start again.
        durability: see ``LocalBroker``.
        keep: for how long a run stays after its end, and how many of them.

    Raises:
        StoreError: the store cannot be used; the error says why.
        BrokerError: the process cannot be started or reached.
    """

    def __init__(self, path: Path | None, durability: Durability, keep: tuple[float | None, int | None]) -> None:
        self.path = path
        self._durability = durability
        self._keep = keep
        self.is_closed = False  #: whether whoever asks for something gets an error
        self._has_left = False
        self.begin()
        self._anchor: ClientLink | None = None  #: keeps one without a store alive when the main link is lost
        self._main = self._join()
        if path is None:
            self._anchor = self._find()

    def begin(self) -> None:
        """Forget who was waiting for whom; for a fork of the program, too, in which there are no other threads."""
        self._lock = threading.RLock()

    @property
    def welcome(self) -> Welcome:
        """What it has said of itself, as far as this program knows."""
        return self._main.welcome

    def _join(self) -> ClientLink:
        """Return a link to the broker process, which is started if there is none."""
        give_up = time.monotonic() + _PATIENCE
        starts = 0
        while True:
            if (link := self._find()) is not None:
                return link
            try:
                return self._start()
            except StoreInUse:  # somebody else was faster, or is just ending
                if time.monotonic() >= give_up:
                    raise
            except LinkLost as error:
                starts += 1
                if starts == _STARTS:
                    raise BrokerError(
                        f"the broker process was started {starts} times and ended at once each time: {error}. "
                        f"{self._advice()}"
                    ) from error
            time.sleep(_PAUSE)

    def _advice(self) -> str:
        return "See what it printed." if self.path is None else f"See {log_of(self.path)}."

    def _find(self, on_push: OnPush | None = None) -> ClientLink | None:
        """Return a link to the broker process that is there, if there is one."""
        if self.path is None:
            door = self._main.welcome.door if hasattr(self, "_main") else ""
        else:
            _, door = read_owner(self.path)
        if not door:
            return None
        try:
            return ClientLink(*knock(Path(door)), on_push)
        except (OSError, LinkLost):
            return None

    def _start(self) -> ClientLink:
        ours, theirs = socket.socketpair()
        with theirs:
            path = None if self.path is None else str(self.path)
            start = Start(theirs.fileno(), path, self._durability, *self._keep)
            command = [sys.executable, "-P", "-m", "fuseline.broker.server_main", msgspec.json.encode(start).decode()]
            try:
                subprocess.run(
                    command,
                    pass_fds=[theirs.fileno()],
                    check=False,
                    stdin=subprocess.DEVNULL,
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C is for the program
                )
            except OSError as error:
                ours.close()
                raise BrokerError(f"the system refuses a process for the broker: {error}.") from error
        return ClientLink(ours, None)

    def link(self, on_push: OnPush) -> ClientLink:
        """Return another link to the broker, which is started again if it has gone.

        Raises:
            BrokerError: there is none, and nothing to start one with.
        """
        self.check_open()
        give_up = time.monotonic() + _PATIENCE
        while (link := self._find(on_push)) is None:
            if time.monotonic() >= give_up:
                raise BrokerError(f"the broker process cannot be reached any more. {self._advice()}")
            self.call(Hello(""), Welcome)  # so that there is one
            time.sleep(_PAUSE)
        return link

    def call(self, request: ToBroker, kind: type[R], schema: WorkflowSchema | None = None) -> R:
        """Send a request over the main link, over a new one if that has gone, and return its reply.

        Args:
            schema: of the workflow that the request names.
        """
        give_up = time.monotonic() + _PATIENCE
        while True:
            with self._lock:
                self.check_open()
                link = self._main
            try:
                if schema is not None and (named := (schema.workflow_id, schema.fingerprint)) not in link.told:
                    if link.call(FindUnknown([named]), Found).texts:
                        link.call(Know(schema.to_json()), Done)
                    link.told.add(named)
                return link.call(request, kind)
            except LinkLost as error:
                if time.monotonic() >= give_up:
                    raise BrokerError(f"the broker process ends again and again. {self._advice()}") from error
                self._replace(link)
                if isinstance(request, Dispatch):
                    request = msgspec.structs.replace(request, again=True)

    def check_open(self) -> None:
        if self.is_closed:
            raise BrokerError("this LocalBroker is closed. Make another one.")

    def _replace(self, lost: ClientLink) -> None:
        with self._lock:
            self.check_open()
            if self._main is not lost:
                return  # another thread was faster
            lost.close()
            if self.path is not None:
                self._main = self._join()
            elif (found := self._find()) is not None:
                self._main = found
            else:
                raise BrokerError("the broker process has ended, and its runs with it. Give it a path to keep them.")
            if self._has_left:  # a handler of a signal has closed it meanwhile, in this very thread
                self._main.close()
                self.check_open()

    def leave(self) -> None:
        """Leave the process. If this was the last program, blocks until its store is closed, half a minute at most."""
        self.is_closed = True
        with self._lock:  # another thread that is reaching it again has done so by then
            main = self._main
            self._has_left = True
        if self._anchor is not None:
            self._anchor.close()
        try:
            with contextlib.suppress(LinkLost, FuselineError):  # what was acknowledged is stored, whatever it says now
                main.call(Leave(), Done, timeout=_FAREWELL)
        finally:
            main.close()


def _environment() -> dict[str, str]:
    """Return the environment of the process: it finds this very package, wherever this program has found it."""
    here = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}

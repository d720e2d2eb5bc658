"""The broker process: the scheduling core between links, a clock and a store.

::

    ┌─▶ wait for links, time, signals, the end of a commit
    │     read what has come, until it is 256 messages, or took 2 ms
    │     let the core handle each; note what changed, and what to tell to whom
    │     if a commit has ended, tell what it was for
    └──── if none is under way, write what changed in one transaction, and begin to commit it

So one batch is made up while the disk is busy with the one before.

Nobody is told what is not committed. If it cannot be committed, all who wait get the reason and the process ends; what
the store has is what has happened.
"""

from __future__ import annotations

import contextlib
import logging
import math
import resource
import selectors
import time

from fuseline.broker.door import Door
from fuseline.broker.housing import Housing
from fuseline.broker.link import ServerLink
from fuseline.broker.requests import Requests
from fuseline.broker.store import KEEP_ALL, Retention, Store
from fuseline.broker.wire import FromBroker, Happened, Hello, News, Refused, ToBroker
from fuseline.channel import ProtocolError
from fuseline.errors import BrokerError, FuselineError, InternalError, StoreError
from fuseline.wakeup import Wakeup

__all__ = ["Server"]

_log = logging.getLogger("fuseline")

#: Messages, and seconds, that go into one transaction.
_BATCH = 256
_GATHERING = 0.002
#: Seconds in which a link must have shown the key.
_PATIENCE = 5.0
#: Links that may be without the key at a time; of more, the oldest is closed.
_STRANGERS = 64
#: Seconds between two looks whether the door is still there.
_DOOR_CHECKING = 5.0
#: Seconds between two looks for runs that need not be kept.
_PRUNING = 60.0
#: Events that a watcher may be behind.
_MOST_BEHIND = 100_000


#: What to tell to whom, in this order; None says goodbye.
_Told = list[tuple[ServerLink, FromBroker | None]]


class Server:
    """Serves the programs of one user until the last of them has left.

    Args:
        store: where runs are kept; None keeps them in this process only.
        door: where programs come in.
        stays: whether to go on when the last program has left.
        keep: which of the runs that have ended stay in the store.
    """

    def __init__(self, store: Store | None, door: Door, *, stays: bool = False, keep: Retention = KEEP_ALL) -> None:
        self._store = store
        self._door = door
        self._stays = stays
        self._keep = keep
        self._prune_at = 0.0 if store is not None and keep else math.inf  #: monotonic seconds
        self._look_for_door_at = 0.0  #: likewise
        self._housing = Housing(store, door.folder if store is None else store.presence_folder)
        self._selector = selectors.DefaultSelector()
        self._links: dict[ServerLink, None] = {}
        self._leaving: dict[ServerLink, None] = {}
        self._batch: _Told = []  #: what to tell of what is not committed yet
        self._committing: _Told = []  #: what to tell when the commit has ended
        self._gathered = 0  #: messages that were read since the last commit began
        self._had_links = False
        self._stopped = False
        self._wakeup = Wakeup()
        self._requests = Requests(self._housing, store, door, keep, stays=stays, links=self._links, leave=self._leave)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask ``serve`` to commit what it has and return. From a signal handler or any thread."""
        self._stopped = True
        self._wakeup.set()

    def welcome(self, link: ServerLink) -> None:
        """Take in a link that needs no key, because this process was started with it."""
        link.let_in()
        self._add(link)

    def serve(self) -> None:
        """Serve until the last program has left, or ``stop``. Blocks.

        Raises:
            StoreError: something could not be stored. All who wait were told so.
            BrokerError, InternalError: a bug. Nothing is stored of what it may have spoilt.
        """
        raise_file_limit()
        self._selector.register(self._door.fileno(), selectors.EVENT_READ, self._door)
        self._selector.register(self._wakeup.fileno(), selectors.EVENT_READ, self._wakeup)
        if self._store is not None:
            self._selector.register(self._store.settled.fileno(), selectors.EVENT_READ, self._store.settled)
        try:
            self._housing.recover()
            while not self._is_done():
                self._turn()
            self._bid_farewell()
        except StoreError as error:
            for link in self._waiting():  # what they have asked for has not happened
                link.channel.replace(Refused.because(error))
                link.channel.flush()
            raise
        except InternalError:  # time alone has shown it, and nobody is told but the log
            _log.exception("the broker has failed")
            raise
        finally:
            for link in list(self._links):
                self._drop(link)
            self._selector.close()
            self._wakeup.close()

    def _waiting(self) -> list[ServerLink]:
        """Return the links that wait for what is not stored yet. Others would take a refusal for the answer to what
        they ask next, hours later perhaps; they find their link closed, and come back to the process after this one."""
        told = dict.fromkeys(link for link, message in self._committing + self._batch if message is not None)
        return [link for link in told if link in self._links]

    def _is_done(self) -> bool:
        staying = [link for link in self._links if link not in self._leaving]
        return self._stopped or (self._had_links and not staying and not self._stays)

    def _turn(self) -> None:
        ready = self._selector.select(self._wait())
        gather_until = time.monotonic() + _GATHERING
        while ready and self._gathered < _BATCH:
            for key, events in ready:
                self._gathered += self._on_ready(key.data, events)
            if time.monotonic() >= gather_until:
                break
            ready = self._selector.select(0)
        self._on_time(time.monotonic())
        if self._housing.has_settled() or self._gathered >= _BATCH:
            self._housing.settle()
            self._tell()
            self._hand_out()
            self._note_news()
            self._housing.commit(behind=True)
            self._committing, self._batch, self._gathered = self._batch, [], 0
            if self._housing.has_settled():
                self._tell()

    def _wait(self) -> float:
        """Return for how many seconds nothing has to be done unasked."""
        times = [link.enter_by for link in self._links if link.enter_by is not None]
        if (look := self._housing.missing.next_look()) is not None:
            times.append(look)
        if (due := self._housing.next_due()) is not None:
            times.append(due)
        times += [self._prune_at, self._look_for_door_at]
        return max(0.0, min(times) - time.monotonic())

    def _on_ready(self, what: ServerLink | Door | Wakeup, events: int) -> int:
        """Act on a descriptor; return how many messages came from it."""
        if isinstance(what, Door):
            if (connection := what.accept()) is not None:
                self._add(ServerLink(connection, time.monotonic() + _PATIENCE))
            return 0
        if isinstance(what, Wakeup):
            what.clear()
            return _BATCH if self._stopped else 0  # no more for this turn: it is to be the last one
        if what not in self._links:
            return 0
        if events & selectors.EVENT_WRITE:
            self._flush(what)
        return self._read(what) if events & selectors.EVENT_READ else 0

    def _on_time(self, now: float) -> None:
        for link in [link for link in self._links if link.enter_by is not None and now >= link.enter_by]:
            _log.warning("a program connected and did not show the key in time")
            self._drop(link)
        self._housing.on_time(now)
        if now >= self._look_for_door_at:
            self._look_for_door_at = now + _DOOR_CHECKING
            if not self._door.is_there:
                _log.warning("the folder of the socket is gone; it is made again")
                self._selector.unregister(self._door.fileno())
                self._door.make_again()
                self._selector.register(self._door.fileno(), selectors.EVENT_READ, self._door)
        if now >= self._prune_at:
            removed = self._housing.prune(self._keep.seconds, self._keep.runs)
            self._prune_at = now + (0.0 if removed else _PRUNING)  # a part of them at a time: others want to be served

    # -- links --------------------------------------------------------------------------------------------------------

    def _add(self, link: ServerLink) -> None:
        self._links[link] = None
        self._had_links = True
        self._selector.register(link.fileno(), selectors.EVENT_READ, link)
        link.events = selectors.EVENT_READ
        strangers = [each for each in self._links if each.enter_by is not None]
        if len(strangers) > _STRANGERS:
            self._drop(strangers[0])

    def _drop(self, link: ServerLink) -> None:
        if link not in self._links:
            return
        del self._links[link]
        self._selector.unregister(link.fileno())
        link.close()
        self._leaving.pop(link, None)
        self._requests.lose(link)

    def _read(self, link: ServerLink) -> int:
        count = 0
        try:
            for message in link.channel.receive():
                count += 1
                self._heed(link, message)
        except ProtocolError as error:
            _log.warning("a link is closed, because what came over it is no message: %s", error)
            self._drop(link)
        else:
            if link.channel.has_ended:
                self._drop(link)
        return count

    def _heed(self, link: ServerLink, message: ToBroker) -> None:
        if link.enter_by is not None:
            if not isinstance(message, Hello) or not self._door.fits(message.key):
                _log.warning("a program connected with a wrong key")
                raise ProtocolError("it is not the key")
            link.let_in()
        try:
            answer = self._requests.handle(link, message)
        except StoreError:
            raise
        except Exception as error:
            if not isinstance(error, FuselineError) or isinstance(error, InternalError):
                raise self._give_up(link, message, error) from error
            answer = Refused.because(error)
        if answer is not None:
            self._batch.append((link, answer))

    @staticmethod
    def _give_up(link: ServerLink, message: ToBroker, error: Exception) -> BrokerError:
        """Tell who has asked that its message is more than this process can bear; return what this process ends with.

        What is held here may be half changed, and must not be stored. Who has asked does not ask again; all others come
        back to the process after this one, which begins with what is stored.
        """
        kind = type(message).__name__
        _log.exception("%s has failed", kind)
        problem = BrokerError(f"the broker has failed at {kind}: {error!r:.300}. Please report this as a bug.")
        link.channel.replace(Refused.because(problem))
        link.channel.flush()
        return problem

    def _flush(self, link: ServerLink) -> None:
        is_done = link.channel.flush()
        events = selectors.EVENT_READ | (0 if is_done else selectors.EVENT_WRITE)
        if events != link.events:
            link.events = events
            self._selector.modify(link.fileno(), events, link)

    # -- telling ------------------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Give steps to the workers that have room for them and may find some."""
        looked: set[str] = set()
        while fresh := self._housing.stirred - looked:  # what is given to one may stir another
            for worker_id in fresh:
                if (link := self._requests.workers.get(worker_id)) is not None and link.room > 0:
                    assignments = self._housing.get_steps(worker_id, link.room)
                    link.assignments += assignments
                    link.room -= len(assignments)
                    link.given += len(assignments)
            looked |= fresh

    def _note_news(self) -> None:
        """Make up what is to be told unasked once all that has happened is stored."""
        housing = self._housing
        for worker_id in housing.stirred:
            if (link := self._requests.workers.get(worker_id)) is not None:
                notices = housing.notices.pop(worker_id, [])
                self._batch.append((link, News(notices, housing.unsettled(worker_id), link.answers, link.assignments)))
                link.answers, link.assignments = [], []
        housing.stirred.clear()
        watching = [link for link in self._links if link.watches]
        for instance_id, move in housing.happened:
            self._batch += [
                (link, Happened(instance_id, move)) for link in watching if link.watched in (None, instance_id)
            ]
        housing.happened.clear()
        housing.watched = bool(watching)

    def _tell(self) -> None:
        """Tell what is stored now."""
        told, self._committing = self._committing, []
        self._put(told)
        for link in dict.fromkeys(link for link, _ in told):
            if link in self._links and link not in self._leaving:
                self._flush(link)
                if link.watches and link.channel.backlog > _MOST_BEHIND:
                    _log.warning("a watcher that does not keep up is cut off")
                    self._drop(link)
        if not self._is_done():  # else they hear of it when the store is closed
            for link, message in told:
                if message is None and link in self._links:
                    self._flush(link)
                    self._drop(link)

    def _put(self, told: _Told) -> None:
        for link, message in told:
            if message is not None:
                link.channel.put(message)

    def _bid_farewell(self) -> None:
        """Close the store, and only then let those know who wait for it."""
        self._housing.commit()
        self._door.close()
        if self._store is not None:
            self._store.close()
        self._put(self._committing + self._batch)
        for link in self._links:
            link.channel.flush()

    def _leave(self, link: ServerLink) -> None:
        """Let a program go once all that it has asked for is stored."""
        self._leaving[link] = None
        self._batch.append((link, None))


def raise_file_limit() -> None:
    """Let this process have as many descriptors as the system allows: each program needs a few of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

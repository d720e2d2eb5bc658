"""The server of a store makes up a batch while another is committed, and tells of none before it is stored."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fuseline.broker.door import Door, knock
from fuseline.broker.housing import Housing
from fuseline.broker.link import ClientLink
from fuseline.broker.server import Server
from fuseline.broker.store import Store
from fuseline.broker.store import database as database_module
from fuseline.broker.wire import Dispatch, Done, GetRun, Know, ListRuns, Refused, Runs
from fuseline.encoding import encode
from fuseline.errors import BrokerError, IllegalMove, StoreError
from fuseline.testing.gate import HANG
from fuseline.values import Value
from fuseline.wakeup import wait_readable

from .workflows import adding

SCHEMA = adding().to_schema()


class Commits(ThreadPoolExecutor):
    """Where commits are left behind. They wait until they are let go, once they are held."""

    def __init__(self) -> None:
        super().__init__(1)
        self.begun: queue.Queue[None] = queue.Queue()
        self.are_held = False
        self.fail = False
        self._permits = threading.Semaphore(0)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def held() -> Any:
            if self.are_held:
                self.begun.put(None)
                assert self._permits.acquire(timeout=HANG)
            if self.fail:
                raise sqlite3.OperationalError("disk I/O error")
            return fn(*args, **kwargs)

        return super().submit(held)

    def wait_begun(self) -> None:
        self.begun.get(timeout=HANG)

    def let_go(self) -> None:
        self._permits.release()


class Watched(Server):
    """A server that says what it has done."""

    def __init__(self, store: Store, door: Door) -> None:
        super().__init__(store, door, stays=True)
        self.store = store
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self._changed = threading.Condition()
        self._turns = self._runs = 0
        dispatch = self._housing.dispatch

        def counted(*args: Any, **options: Any) -> None:
            dispatch(*args, **options)
            self._runs += 1

        self._housing.dispatch = counted  # type: ignore[method-assign]

    def _turn(self) -> None:
        super()._turn()
        with self._changed:
            self._turns += 1
            self._dispatched = self._runs  # by turns that are over
            self._changed.notify_all()

    def wait_dispatched(self, runs: int) -> None:
        """Wait until so many runs were dispatched, in turns that are over."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._dispatched >= runs, HANG)

    def serve(self) -> None:
        try:
            super().serve()
        except (StoreError, BrokerError) as error:
            self.error = error
        finally:
            self.ended.set()


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Commits:
    commits = Commits()
    monkeypatch.setattr(database_module, "ThreadPoolExecutor", lambda *_: commits)
    return commits


@pytest.fixture
def server(commits: Commits, tmp_path: Path) -> Iterator[Watched]:
    store = Store(tmp_path / "runs.db")
    door = Door(tmp_path / "door")
    server = Watched(store, door)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        for _ in range(9):
            commits.let_go()
        thread.join(HANG)
        door.close()
        store.close()


@pytest.fixture
def links(server: Watched, tmp_path: Path, commits: Commits) -> Iterator[list[ClientLink]]:
    """Two programs; commits are held from now on."""
    links = [ClientLink(*knock(tmp_path / "door")) for _ in range(2)]
    for link in links:
        link.call(Know(SCHEMA.to_json()), Done)
    commits.are_held = True
    yield links
    for link in links:
        link.close()


def dispatch(link: ClientLink, name: str) -> None:
    link.post(Dispatch(SCHEMA.workflow_id, SCHEMA.fingerprint, [(name, {"a": encode(1)})]))


def two_batches(server: Watched, links: list[ClientLink], commits: Commits) -> list[ClientLink]:
    """Have the run of one program on its way to the disk, and that of another taken in meanwhile."""
    dispatch(links[0], "one")
    commits.wait_begun()
    dispatch(links[1], "two")
    server.wait_dispatched(2)
    return links


def answer(link: ClientLink) -> Any:
    """Wait for the next answer on a link."""
    while not link._answers:
        link._read(HANG)
    return link._answers.pop(0)


def has_heard(link: ClientLink) -> bool:
    return bool(wait_readable([link.fileno()], 0))


def test_nobody_is_told_before_the_commit_has_ended(server: Watched, links: list[ClientLink], commits: Commits) -> None:
    one, two = two_batches(server, links, commits)
    assert not has_heard(one)
    assert not has_heard(two)
    commits.let_go()
    assert isinstance(answer(one), Done)
    commits.wait_begun()
    assert not has_heard(two)
    commits.let_go()
    assert isinstance(answer(two), Done)


def test_a_question_waits_until_what_it_is_about_is_stored(
    server: Watched, links: list[ClientLink], commits: Commits
) -> None:
    one, two = links
    dispatch(one, "one")
    commits.wait_begun()
    two.post(GetRun("one"))
    two.post(ListRuns(None, None, None))
    assert not has_heard(two)
    commits.let_go()
    assert isinstance(answer(one), Done)
    for _ in range(2):
        found = answer(two)
        assert isinstance(found, Runs)
        assert [record.instance_id for record in found.records] == ["one"]


def test_a_commit_that_fails_is_an_error_for_all_who_wait_and_leaves_nothing(
    server: Watched, links: list[ClientLink], commits: Commits
) -> None:
    two_batches(server, links, commits)
    commits.fail = True
    commits.let_go()
    for link in links:
        refused = answer(link)
        assert isinstance(refused, Refused)
        assert isinstance(refused.error(), StoreError)
        assert "disk I/O error" in refused.message
    assert server.ended.wait(HANG)
    assert isinstance(server.error, StoreError)
    assert not server.store.has("one")
    assert not server.store.has("two")


def test_a_commit_that_fails_just_after_it_has_begun_is_not_told_as_done(
    server: Watched, links: list[ClientLink], commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = server._housing.commit

    def commit_until_it_has_failed(*, behind: bool = False) -> None:
        commit(behind=behind)
        if (begun := server.store._db._commit) is not None:
            commits.let_go()
            assert begun.exception(HANG) is not None

    monkeypatch.setattr(server._housing, "commit", commit_until_it_has_failed)
    commits.fail = True
    dispatch(links[0], "one")
    refused = answer(links[0])
    assert isinstance(refused, Refused)
    assert "disk I/O error" in refused.message
    assert server.ended.wait(HANG)
    assert not server.store.has("one")


@pytest.mark.parametrize("bug", [IllegalMove("run two", "FAILED", "READY", "its history"), ZeroDivisionError("a typo")])
def test_a_bug_ends_the_broker_before_anything_that_it_may_have_spoilt_is_stored(
    server: Watched, links: list[ClientLink], commits: Commits, monkeypatch: pytest.MonkeyPatch, bug: Exception
) -> None:
    commits.are_held = False
    dispatch(links[0], "one")
    assert isinstance(answer(links[0]), Done)
    handle = server._housing._core.handle

    def fail_behind(*event: Any) -> Any:
        handle(*event)
        raise bug

    monkeypatch.setattr(server._housing._core, "handle", fail_behind)
    dispatch(links[1], "two")
    refused = answer(links[1])
    assert isinstance(refused, Refused)
    assert str(bug) in refused.message
    assert "report this as a bug" in refused.message
    assert server.ended.wait(HANG)
    assert isinstance(server.error, BrokerError)
    assert server.store.has("one")
    assert not server.store.has("two")


def test_files_stay_if_the_commit_fails_that_drops_them(tmp_path: Path, commits: Commits) -> None:
    store = Store(tmp_path / "runs.db")
    housing = Housing(store, store.presence_folder)
    file = store.values_folder / "large"
    file.write_bytes(b"x")
    housing.dispatch(SCHEMA, "one", {"a": Value(file=str(file))})
    housing.cancel("one", None)
    housing.commit()
    housing.forget("one")
    commits.fail = True
    housing.commit(behind=True)
    with pytest.raises(StoreError):
        housing.settle()
    assert store.has("one")
    store.settle()
    assert file.exists()
    commits.fail = False
    store.close()


def test_who_was_served_hears_of_it_when_the_server_stops_meanwhile(
    server: Watched, links: list[ClientLink], commits: Commits
) -> None:
    one, two = two_batches(server, links, commits)
    server.stop()
    commits.are_held = False
    commits.let_go()
    assert isinstance(answer(one), Done)
    assert isinstance(answer(two), Done)

"""Stores that cannot be used, from the start or from some moment on: a typed error, and nothing is done that is not
stored."""

from __future__ import annotations

import os
import re
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fuseline import ProcessEngine, faults
from fuseline.broker import LocalBroker
from fuseline.broker.housing import Housing
from fuseline.broker.store import Store
from fuseline.broker.store.file import read_owner
from fuseline.errors import FuselineError, StoreDamaged, StoreError, StoreInUse
from fuseline.states import State
from fuseline.testing.gate import HANG

from .conftest import wait_gone
from .workflows import adding

# -- from the start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"hello", "is no store of fuseline"),
        (b"SQLite format 3\0" + bytes(84), "of another program"),
        (b"x" * 5000, "is no store of fuseline"),
    ],
)
def test_a_file_that_is_no_store_is_refused_and_stays_as_it_is(store: Path, content: bytes, complaint: str) -> None:
    store.write_bytes(content)
    with pytest.raises(StoreError, match=complaint):
        LocalBroker(store)
    assert store.read_bytes() == content


def test_what_is_no_regular_file_is_refused_before_anything_is_written(store: Path) -> None:
    os.mkfifo(store)
    before = sorted(store.parent.iterdir())
    with pytest.raises(StoreError, match="no regular file at all"):
        LocalBroker(store)
    assert sorted(store.parent.iterdir()) == before


def test_the_database_of_another_program_is_refused_and_stays_as_it_is(store: Path) -> None:
    with sqlite3.connect(store) as other:
        other.execute("CREATE TABLE things (name)")
    other.close()
    before = store.read_bytes()
    with pytest.raises(StoreError, match="of another program"):
        LocalBroker(store)
    assert store.read_bytes() == before


@pytest.fixture
def closed(store: Path) -> Path:
    """A store with a run in it, that nobody has open."""
    with LocalBroker(store) as broker:
        broker.dispatch_workflow(adding().to_schema(), {"a": 1})
    wait_gone(broker.pid)
    return store


def test_a_store_that_was_cut_is_refused(closed: Path) -> None:
    whole = closed.read_bytes()
    closed.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreDamaged, match="is damaged"):
        LocalBroker(closed)
    assert closed.read_bytes() == whole[: len(whole) // 2]


def test_a_store_with_garbage_in_it_is_refused_or_found_by_its_check(closed: Path) -> None:
    data = bytearray(closed.read_bytes())
    data[4096:] = bytes(255 - byte for byte in data[4096:])
    closed.write_bytes(data)
    with pytest.raises(StoreDamaged, match="is damaged"):
        LocalBroker(closed)


def test_a_store_of_a_newer_version_is_refused_and_stays_as_it_is(closed: Path) -> None:
    data = bytearray(closed.read_bytes())
    data[60:64] = (99).to_bytes(4, "big")
    closed.write_bytes(data)
    with pytest.raises(StoreError, match="newer fuseline"):
        LocalBroker(closed)
    assert closed.read_bytes() == data


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no directory"):
        LocalBroker(tmp_path / "nowhere" / "runs.db")


def test_a_directory_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no regular file at all"):
        LocalBroker(tmp_path)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_cannot_be_written_is_refused(closed: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    blamed = closed if what == "file" else closed.parent

    def access(path: Path, mode: int) -> bool:  # root may write what nobody may
        return False if path == blamed and mode & os.W_OK else real(path, mode)

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(StoreError, match="read-only"):
        Store(closed)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "9p", "fuse.sshfs"])
def test_a_network_file_system_is_refused_by_name(store: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuseline.broker.store.file.file_system", lambda path: kind)
    with pytest.raises(StoreError, match=rf"network file system \({kind}\)"):
        Store(store)
    assert not store.exists()


#: Names of what belongs to a store.
PARTS = ["", ".lock", ".files", "-wal", "-shm", "-journal"]


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Paths that seem to belong to somebody else, since only root can give files away."""
    paths: set[Path] = set()

    def disowned(look: Callable[[Path], os.stat_result]) -> Callable[[Path], Any]:
        def see(path: Path) -> Any:
            status = look(path)
            return SimpleNamespace(st_uid=os.getuid() + 1) if path in paths else status

        return see

    monkeypatch.setattr("fuseline.broker.store.file.os.lstat", disowned(os.lstat))
    return paths


@pytest.mark.parametrize("part", PARTS)
def test_what_another_user_has_put_in_the_place_of_a_store_is_refused(
    store: Path, part: str, foreign: set[Path]
) -> None:
    planted = store.with_name(store.name + part)
    planted.mkdir() if part == ".files" else planted.touch()
    foreign.add(planted)
    before = sorted(store.parent.iterdir())
    with pytest.raises(StoreError, match=f"{planted} belongs to another user"):
        Store(store)
    assert sorted(store.parent.iterdir()) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("part", PARTS)
def test_a_file_or_a_link_of_another_user_is_refused_by_a_whole_broker(store: Path, tmp_path: Path, part: str) -> None:
    planted = store.with_name(store.name + part)
    mine = tmp_path / "mine"
    mine.write_text("precious")
    planted.symlink_to(mine)
    os.lchown(planted, 65534, 65534)
    with pytest.raises(StoreError, match="belongs to another user" if part else "is no store"):
        LocalBroker(store)  # a link in the place of the store itself is what it leads to
    assert mine.read_text() == "precious"


def test_a_lock_that_is_a_link_is_not_followed(store: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    store.with_name("runs.db.lock").symlink_to(mine)
    with pytest.raises(StoreError, match="cannot be locked"):
        LocalBroker(store)
    assert mine.read_text() == "precious"


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"7\nnowhere\n", b"\0" * 9])
def test_a_lock_that_says_nothing_of_use_keeps_nobody_waiting(store: Path, content: bytes | None) -> None:
    lock = store.with_name("runs.db.lock")
    if content is None:
        os.mkfifo(lock)
    else:
        lock.write_bytes(content)
    _, door = read_owner(store)
    assert not os.path.isabs(door)


def test_the_files_of_a_store_are_for_its_user_alone(store: Path) -> None:
    before = os.umask(0)  # nothing of it may depend on this
    try:
        broker = LocalBroker(store)
    finally:
        os.umask(before)
    with broker:
        run = broker.dispatch_workflow(adding().to_schema(), {"a": b"x" * 100_000})
        with ProcessEngine(broker, [adding()], processes=1) as engine:
            engine.work()
            files = store.with_name("runs.db.files")
            assert {path.parent.name for path in files.rglob("*") if path.is_file()} > {"values", "presence", "spools"}
            assert {stat.S_IMODE(path.stat().st_mode) for path in (files, *files.iterdir()) if path.is_dir()} == {0o700}
            for path in (*store.parent.glob("runs.db*"), *files.glob("*"), *files.glob("[ps]*/*")):
                assert path.is_dir() or stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert broker.get_run(run).state is State.FAILED  # bytes are not added to numbers
    wait_gone(broker.pid)


@pytest.mark.parametrize(
    "name", ["a\n+x/b\n=c", "'; DROP TABLE runs; --?mode=memory&x=%00", "<b>\x1b[31m", "..runs", "-rf", "x" * 200]
)
def test_a_path_may_have_any_characters(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    with LocalBroker(folder / "runs.db") as broker:
        run = broker.dispatch_workflow(adding().to_schema(), {"a": 1})
        ProcessEngine(broker, [adding()], processes=1).work()
        assert broker.result(run) == 22
        assert broker.check() == []
    wait_gone(broker.pid)
    assert capfd.readouterr() == ("", "")
    assert {path.name.removeprefix("runs.db") for path in folder.iterdir()} == {"", ".lock", ".files"}


@pytest.mark.parametrize("name", ["a\0b", "a\udcff", "/", "x" * 300])
def test_a_path_that_cannot_be_used_is_a_store_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match=r"cannot be (used|locked|read)"):
        LocalBroker(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_second_broker_on_a_store_is_refused_with_the_pid_of_the_first(closed: Path) -> None:
    with LocalBroker(closed) as broker:
        with pytest.raises(StoreInUse, match=f"process {broker.pid}") as caught:
            Store(closed)
        assert caught.value.pid == broker.pid


def test_a_durability_that_does_not_exist_is_refused(store: Path) -> None:
    with pytest.raises(StoreError, match="'power' or 'process'"):
        Store(store, "maybe")  # type: ignore[arg-type]


# -- from some moment on ----------------------------------------------------------------------------------------------


@contextmanager
def no_more_than(size_bytes: int) -> Iterator[None]:
    """Let this process, and those it starts, write no larger files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(broker: LocalBroker) -> list[str]:
    """Dispatch runs until it is refused; return those that were acknowledged."""
    runs: list[str] = []

    def dispatch() -> None:
        while len(runs) < 10_000:
            runs.append(broker.dispatch_workflow(adding().to_schema(), {"a": 1, "b": 2**400}))

    with pytest.raises(StoreError, match="cannot be used"):
        dispatch()
    return runs


def test_a_full_disk_is_an_error_for_who_dispatches_and_nothing_that_was_acknowledged_is_lost(store: Path) -> None:
    with no_more_than(200_000):
        broker = LocalBroker(store)
    with broker:
        runs = fill(broker)
    wait_gone(broker.pid)
    with LocalBroker(store) as broker:
        assert [run.instance_id for run in broker.list_runs()][: len(runs)] == runs
        assert broker.check() == []
    log = store.with_name("runs.db.files") / "broker.log"
    assert re.search(r"ERROR the broker ends: .*cannot be used", log.read_text())
    assert "Traceback" not in log.read_text()


def test_a_full_disk_is_no_error_for_who_asks_when_there_is_room_again(store: Path) -> None:
    with no_more_than(200_000):
        broker = LocalBroker(store)
    with LocalBroker(store) as idle, broker:
        runs = fill(broker)
        wait_gone(idle.pid)
        assert [run.instance_id for run in idle.list_runs()][: len(runs)] == runs
    wait_gone(idle.pid)


def test_a_full_disk_is_an_error_for_an_engine_at_work(store: Path) -> None:
    workflow = adding()
    with no_more_than(400_000):
        broker = LocalBroker(store)
    with broker:
        runs = broker.dispatch_many(workflow.to_schema(), [{"a": i} for i in range(1000)])
        with pytest.raises(StoreError, match="cannot be used"):
            ProcessEngine(broker, [workflow], processes=2, executor="inline").work()
    wait_gone(broker.pid)
    with LocalBroker(store) as broker:
        done = [broker.get_run(run) for run in runs]
        assert any(info.state is State.SUCCEEDED for info in done)
        ProcessEngine(broker, [workflow], processes=2, executor="inline").work()
        assert [broker.result(run) for run in runs] == [2 * (i + 10) for i in range(1000)]


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_a_store_that_is_removed_while_it_is_in_use_is_an_error(store: Path, suffix: str) -> None:
    with LocalBroker(store) as broker:
        broker.dispatch_workflow(adding().to_schema(), {"a": 1})
        store.with_name(store.name + suffix).unlink()
        with pytest.raises(StoreError, match="removed or replaced"):
            broker.dispatch_workflow(adding().to_schema(), {"a": 2})


# -- a broker that ends again and again -------------------------------------------------------------------------------


def recover(path: Path, statement: int) -> int:
    """Open a store in a process that dies at its n-th SQL statement; return how it ended."""
    pid = os.fork()
    if not pid:
        try:
            faults._arm(f"sql:{statement}")
            opened = Store(path)
            Housing(opened, opened.presence_folder).recover()
            opened.close()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_recovery_can_itself_be_killed(closed: Path) -> None:
    """Each time at a later statement than before, until it gets through."""
    ends = []
    while not ends or ends[-1] == -signal.SIGKILL:
        ends.append(recover(closed, len(ends) + 1))
    assert len(ends) > 10
    with LocalBroker(closed) as broker:
        [run] = broker.list_runs()
        ProcessEngine(broker, [adding()], processes=1, executor="inline").work()
        assert broker.result(run.instance_id) == 22


def test_the_making_of_a_store_can_be_killed(store: Path) -> None:
    ends = []
    while not ends or ends[-1] == -signal.SIGKILL:
        ends.append(recover(store, len(ends) + 1))
        if len(ends) % 2:  # on what is left of the one before, and anew
            for path in store.parent.glob(f"{store.name}*"):
                if path.is_file():
                    path.unlink()
    assert len(ends) > 20
    with LocalBroker(store) as broker:
        assert broker.list_runs() == []
        assert broker.check() == []


def test_an_engine_with_a_broker_that_cannot_live_gets_an_error(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuseline.broker.process._PATIENCE", 0.5)
    with LocalBroker(store) as broker:
        broker.dispatch_workflow(adding().to_schema(), {"a": 1})
        monkeypatch.setenv("FUSELINE_FAULT", "sql:3")
        engine = ProcessEngine(broker, [adding()], processes=1, executor="inline")
        os.kill(broker.pid, signal.SIGKILL)
        wait_gone(broker.pid)
        failures: list[BaseException] = []

        def work() -> None:
            try:
                engine.work()
            except FuselineError as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(HANG)
        assert len(failures) == 1
        monkeypatch.delenv("FUSELINE_FAULT")


# -- what a broker process does not do --------------------------------------------------------------------------------


def test_a_broker_process_cannot_make_objects_of_values() -> None:
    code = """
import sys
import fuseline.broker.server_main
print([name for name in ("fuseline.encoding", "fuseline.attempt", "fuseline.workflow", "cloudpickle", "loky")
       if name in sys.modules])
for name, module in list(sys.modules.items()):
    if name.startswith("fuseline"):
        text = open(module.__file__).read()
        for word in ("pickle.load", "Unpickler", "cloudpickle", "eval(", "exec("):
            assert word not in text, (name, word)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"

"""Who may talk to a broker process, and that nobody who may not keeps the others waiting."""

from __future__ import annotations

import itertools
import os
import random
import resource
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fuseline.broker import LocalBroker
from fuseline.broker.base import encode_inputs
from fuseline.broker.door import Door, knock, runtime_folder, sweep_doors
from fuseline.broker.link import ClientLink, LinkLost
from fuseline.broker.server import Server
from fuseline.broker.wire import (
    FROM_BROKER,
    BrokerStatus,
    Dispatch,
    Done,
    FindRuns,
    Found,
    GetStatus,
    Hello,
    Know,
    ListRuns,
    Refused,
    Watch,
    Welcome,
)
from fuseline.channel import Channel
from fuseline.errors import BrokerError, StoreError
from fuseline.testing.gate import HANG

from .conftest import wait_gone
from .workflows import adding


@pytest.fixture
def folder(stored: LocalBroker) -> Path:
    """The folder of the door of a broker."""
    return Path(stored._process.welcome.door)


def connect(folder: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(folder / "socket"))
    connection.settimeout(HANG)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Wait until the other end has closed the connection."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def serves(broker: LocalBroker) -> bool:
    run = broker.dispatch_workflow(adding().to_schema(), {"a": 1})
    return broker.get_run(run).instance_id == run


def log_of(broker: LocalBroker) -> str:
    assert broker.path is not None
    return (broker.path.with_name("runs.db.files") / "broker.log").read_text()


def test_socket_and_key_are_for_this_user_alone(store: Path) -> None:
    before = os.umask(0)  # nothing of it may depend on this
    try:
        broker = LocalBroker(store)
    finally:
        os.umask(before)
    with broker:
        folder = Path(broker._process.welcome.door)
        modes = {folder.parent.parent: 0o700, folder: 0o700, folder / "key": 0o600, folder / "socket": 0o600}
        for path, mode in modes.items():
            assert stat.S_IMODE(path.lstat().st_mode) == mode
            assert path.lstat().st_uid == os.getuid()
        assert len((folder / "key").read_text()) == 64
    wait_gone(broker.pid)


@pytest.mark.parametrize("key", ["", "x", "0" * 64, "é" * 64, "0" * 4000])
def test_a_wrong_key_is_refused_and_logged(stored: LocalBroker, folder: Path, key: str) -> None:
    with connect(folder) as connection:
        channel: Channel[Any, Any] = Channel(connection.fileno(), FROM_BROKER)
        channel.send(Hello(key))
        assert is_closed(connection)
    assert serves(stored)
    assert "wrong key" in log_of(stored)


def test_a_request_before_the_key_is_refused(stored: LocalBroker, folder: Path) -> None:
    with connect(folder) as connection:
        Channel[Any, Any](connection.fileno(), FROM_BROKER).send(ListRuns(None, None, None))
        assert is_closed(connection)
    assert serves(stored)


@pytest.mark.parametrize("seed", range(10))
def test_garbage_is_refused(stored: LocalBroker, folder: Path, seed: int) -> None:
    noise = random.Random(seed).randbytes(5000)
    with connect(folder) as connection:
        connection.sendall(noise)
        assert is_closed(connection)
    with connect(folder) as connection:  # the start of a frame, and then noise
        connection.sendall(struct.pack("!2sQ", b"FL", 1000) + noise[:1000])
        assert is_closed(connection)
    assert serves(stored)


def test_a_frame_that_is_too_long_is_refused_before_it_is_read(stored: LocalBroker, folder: Path) -> None:
    with connect(folder) as connection:
        connection.sendall(struct.pack("!2sQ", b"FL", 1 << 40))
        assert is_closed(connection)
    assert serves(stored)


def test_garbage_after_the_key_ends_that_link_only(stored: LocalBroker, folder: Path) -> None:
    connection, key = knock(folder)
    with connection:
        channel: Channel[Any, Any] = Channel(connection.fileno(), FROM_BROKER)
        channel.send(Hello(key))
        [welcome] = channel.receive()
        assert isinstance(welcome, Welcome)
        connection.sendall(b"garbage" * 100)
        connection.settimeout(HANG)
        assert is_closed(connection)
    assert serves(stored)
    assert "no message" in log_of(stored)


def test_half_a_frame_keeps_nobody_waiting(stored: LocalBroker, folder: Path) -> None:
    with connect(folder) as connection:
        connection.sendall(b"FL\0\0")
        assert serves(stored)


def test_a_thousand_silent_connections_keep_nobody_waiting(stored: LocalBroker, folder: Path) -> None:
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(connect(folder))
        assert serves(stored)
        assert stored.status().programs <= 100  # the oldest were closed


@contextmanager
def without_descriptors(pid: int, spare: int) -> Iterator[None]:
    """Leave a process so many descriptors that are not in use."""
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = (number for number in itertools.count() if number not in used)
    limit = next(itertools.islice(free, spare, None))  # the first that it cannot have
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process has no say in the limits of another")
def test_without_descriptors_nobody_new_is_let_in_until_there_are_some(stored: LocalBroker, folder: Path) -> None:
    with ExitStack() as stack:

        def come_in() -> ClientLink:
            link = ClientLink(*knock(folder))
            stack.callback(link.close)
            return link

        with without_descriptors(stored.pid, 3):
            links = [come_in() for _ in range(3)]
            turned_away = [stack.enter_context(connect(folder)) for _ in range(20)]
            assert all(map(is_closed, turned_away))
            assert serves(stored)
            assert [len(link.call(FindRuns("", 9), Found).texts) for link in links] == [1, 1, 1]
            links.pop().close()
            stored.find_runs("")  # after that, the broker has noticed
            links.append(come_in())
            assert is_closed(stack.enter_context(connect(folder)))
        links.append(come_in())
        assert [link.call(GetStatus(), BrokerStatus).programs for link in links] == [5, 5, 5, 5]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process has no say in the limits of another")
def test_without_descriptors_a_broker_that_is_asked_how_it_is_goes_on(stored: LocalBroker) -> None:
    pid = stored.pid
    with without_descriptors(pid, 0):
        with suppress(StoreError):
            stored.status()
        assert serves(stored)
    assert stored.status().pid == pid


def test_another_version_is_told_so(folder: Path) -> None:
    connection, key = knock(folder)
    with connection:
        channel: Channel[Any, Any] = Channel(connection.fileno(), FROM_BROKER)
        channel.send(Hello(key, protocol=99))
        [answer] = channel.receive()
        assert isinstance(answer, Refused)
        assert "another version" in answer.message


def test_messages_for_the_broker_alone_are_not_taken_from_it(folder: Path) -> None:
    connection, key = knock(folder)
    link = ClientLink(connection, key)
    with pytest.raises(BrokerError, match="answers GetStatus"):
        link.call(GetStatus(), Welcome)
    link.close()
    with pytest.raises(LinkLost):
        link.call(GetStatus(), Welcome)


# -- the door alone, with a clock that is not waited for --------------------------------------------------------------


@contextmanager
def serving(door: Path) -> Iterator[Server]:
    """A server without a store in a thread of this process."""
    server = Server(None, Door(door), stays=True)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(HANG)
        assert not door.exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "door") as server:
        yield server


def test_a_silent_connection_is_closed_after_a_while(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuseline.broker.server._PATIENCE", 0.0)
    with connect(tmp_path / "door") as connection:
        assert is_closed(connection)


def test_a_door_that_was_cleaned_away_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuseline.broker.server._DOOR_CHECKING", 0.0)
    with serving(tmp_path / "door"):
        link = ClientLink(*knock(tmp_path / "door"))
        (tmp_path / "door").rename(tmp_path / "cleaned")
        link.call(GetStatus(), BrokerStatus)
        ClientLink(*knock(tmp_path / "door")).close()
        link.close()


def test_a_door_of_another_user_is_not_knocked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path / "door"):
        real = os.getuid
        monkeypatch.setattr(os, "getuid", lambda: real() + 1)
        with pytest.raises(PermissionError):
            knock(tmp_path / "door")
        monkeypatch.undo()


def test_another_user_is_not_let_in(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuseline.broker.door.peer_of", lambda connection: (1, os.getuid() + 1))
    with connect(tmp_path / "door") as connection:
        assert is_closed(connection)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_process_of_another_user_is_not_let_in() -> None:
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "door"):
        for path in (Path(folder), Path(folder) / "door", Path(folder) / "door" / "socket"):
            path.chmod(0o777)  # so that it is stopped by who it is, not by where it may go
        code = f"""
import os, socket
os.setuid(65534)
connection = socket.socket(socket.AF_UNIX)
connection.connect({str(Path(folder) / "door" / "socket")!r})
try:
    print(connection.recv(10))
except ConnectionResetError:
    print(b"")
"""
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG, check=True)
        assert out.stdout == "b''\n"


def test_a_folder_that_others_can_reach_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_folder() == tmp_path / "fuseline"
    (tmp_path / "fuseline").chmod(0o777)
    with pytest.raises(BrokerError, match="others can reach it"):
        runtime_folder()
    (tmp_path / "fuseline").rmdir()
    (tmp_path / "fuseline").symlink_to(tmp_path)
    with pytest.raises(BrokerError, match="others can reach it"):
        runtime_folder()


def test_a_broker_that_is_stopped_keeps_no_other_from_its_start(
    short_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start knocks at all doors that there are, and a door that nobody opens has room for so many."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    monkeypatch.setattr("fuseline.broker.door._MAKING", -1.0)
    (runtime_folder() / "broker-stopped").mkdir()
    door = Door(runtime_folder() / "broker-stopped" / "door")
    sweeping = threading.Thread(target=lambda: [sweep_doors() for _ in range(300)], daemon=True)
    sweeping.start()
    sweeping.join(HANG)
    try:
        assert not sweeping.is_alive()
        assert door.is_there
    finally:
        door.close()


def test_a_watcher_that_does_not_read_is_cut_off(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuseline.broker.server._MOST_BEHIND", 10)
    watcher, worker = (ClientLink(*knock(tmp_path / "door")) for _ in range(2))
    watcher.call(Watch(None), Done)
    schema = adding().to_schema()
    worker.call(Know(schema.to_json()), Done)
    inputs = encode_inputs({"a": 1})
    for batch in range(20):
        runs = [(f"{batch}-{number}", inputs) for number in range(1000)]
        worker.call(Dispatch(schema.workflow_id, schema.fingerprint, runs), Done)
    with pytest.raises(LinkLost):
        watcher.call(GetStatus(), BrokerStatus)
    assert worker.call(GetStatus(), BrokerStatus).programs == 1
    worker.close()
    watcher.close()


def test_a_door_that_cannot_be_made_leaves_nothing_and_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)  # for a socket in it
    with pytest.raises(BrokerError, match=r"no socket can be made in .* Set XDG_RUNTIME_DIR to another directory"):
        Door(folder)
    assert not folder.exists()


def test_a_door_that_cannot_be_made_again_says_where(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    door = Door(tmp_path / "folder" / "door")
    door.folder.rename(tmp_path / "cleaned")
    (tmp_path / "folder").rmdir()
    (tmp_path / "folder").write_text("somebody else's")
    with pytest.raises(BrokerError, match=f"no socket can be made in {door.folder}"):
        door.make_again()
    door.close()


def test_where_no_folder_for_sockets_can_be_made_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fuseline").symlink_to(tmp_path / "nowhere" / "at all")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(BrokerError, match=r"no directory for sockets can be made: .* Set XDG_RUNTIME_DIR to another"):
        runtime_folder()


def test_somebody_else_behind_the_door_is_not_told_the_key(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuseline.broker.door.peer_of", lambda connection: (1, os.getuid() + 1))
    with pytest.raises(PermissionError, match="somebody else behind the door"):
        knock(tmp_path / "door")


def test_who_has_gone_before_he_is_let_in_is_nobody(tmp_path: Path) -> None:
    door = Door(tmp_path / "door")
    assert door.accept() is None
    door._turn_away()
    connect(door.folder).close()
    connection = door.accept()
    assert connection is not None
    assert is_closed(connection)
    connection.close()
    door.close()
    door.close()


def test_where_the_system_does_not_say_who_connects_the_key_alone_counts(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuseline.broker.door.sys", SimpleNamespace(platform="other"))
    link = ClientLink(*knock(tmp_path / "door"))
    assert link.call(GetStatus(), BrokerStatus).workers == []
    link.close()

"""The process of a broker, in the background or in the foreground.

In the background it is ``python -m fuseline.broker.server_main`` with a ``Start`` as JSON. It belongs to no terminal
and to no parent: it serves whoever comes, and ends when the last program has left. What it has to say goes to
``broker.log`` beside the store.

In the foreground it is ``serve``: it stays until it is told to end, and takes the store over from one in the
background.
"""

from __future__ import annotations

import hashlib  # noqa: F401 - imported late by schemas: a broker without free descriptors goes on, but can import nothing
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import msgspec

from fuseline.broker.door import DOOR_PREFIX, Door, knock, runtime_folder, sweep_doors
from fuseline.broker.link import ClientLink, LinkLost, ServerLink
from fuseline.broker.server import Server
from fuseline.broker.startup import Start, log_of
from fuseline.broker.store import Retention, Store
from fuseline.broker.store.file import Durability, read_owner, resolve_store
from fuseline.broker.wire import Done, Refused, Retire
from fuseline.errors import BrokerError, FuselineError, StoreInUse

__all__ = ["main", "serve"]

_log = logging.getLogger("fuseline")

#: Seconds in which a broker in the background must have left its store to us.
_PATIENCE = 20.0
#: Bytes after which the log begins anew at the next start.
_LOG_LIMIT = 1 << 20
#: Seconds between two looks whether it has.
_PAUSE = 0.02


def serve(
    path: str | os.PathLike[str],
    *,
    durability: Durability = "power",
    keep_for: float | None = None,
    keep_runs: int | None = None,
    on_ready: Callable[[int], None] = lambda pid: None,
) -> None:
    """Be the broker process of a store, until Ctrl-C or SIGTERM. Blocks; call it in the main thread.

    A broker that runs in the background hands the store over; the programs that use it do not notice.

    Args:
        path: the store; it is made if there is none.
        durability: ``"power"`` or ``"process"``, see ``LocalBroker``.
        keep_for: seconds after its end that a run stays in the store; default is for ever.
        keep_runs: how many runs stay that have ended, the newest; default is all.
        on_ready: called with the id of this process once programs can connect.

    Raises:
        StoreInUse: another broker is in the foreground.
        StoreError: the store cannot be used; the error says why.
    """
    place = resolve_store(path)
    with ExitStack() as stack:
        store = _take_over(place, durability)
        stack.callback(store.close)
        server = _open(stack, store, Retention(keep_for, keep_runs), stays=True)
        stack.enter_context(_stopping(server))
        on_ready(os.getpid())
        server.serve()


def _open(stack: ExitStack, store: Store | None, keep: Retention, *, stays: bool) -> Server:
    """Return a server that programs can find."""
    sweep_doors()
    folder = Path(tempfile.mkdtemp(prefix=DOOR_PREFIX, dir=runtime_folder()))
    stack.callback(folder.rmdir)
    door = Door(folder / "door")
    stack.callback(door.close)
    if store is not None:
        store.ownership.announce(str(door.folder))
    return Server(store, door, stays=stays, keep=keep)


def _take_over(path: Path, durability: Durability) -> Store:
    """Open a store, after the broker in the background that may have it has left it."""
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            return Store(path, durability)
        except StoreInUse:
            if time.monotonic() >= give_up or not _ask_to_retire(path):
                raise
            time.sleep(_PAUSE)


def _ask_to_retire(path: Path) -> bool:
    """Return False if the broker that has the store wants to stay."""
    _, door = read_owner(path)
    try:
        link = ClientLink(*knock(Path(door)))
    except (OSError, LinkLost, BrokerError):  # it is just starting, or ending
        return True
    try:
        return link.call(Retire(), Done).had_effect
    except LinkLost:
        return True
    finally:
        link.close()


@contextmanager
def _stopping(server: Server) -> Iterator[None]:
    """Have SIGINT and SIGTERM stop the server, the second one at once: the store can be left at any time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    count = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            os._exit(128 + number)
        server.stop()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


# -- in the background ------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Serve until the last program has left; return the exit code."""
    start = msgspec.json.decode(arguments[0], type=Start)
    if os.fork():
        os._exit(0)  # so that the starting program has no child to wait for
    return _serve_in_background(start)


def _serve_in_background(start: Start) -> int:
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    link = ServerLink(socket.socket(fileno=start.fd), 0.0)
    is_welcome = False
    try:
        with ExitStack() as stack:
            store = None if start.path is None else Store(Path(start.path), start.durability)
            if store is not None:
                stack.callback(store.close)
                _log_to(log_of(store.path))
            server = _open(stack, store, Retention(start.keep_for, start.keep_runs), stays=False)
            signal.signal(signal.SIGTERM, lambda *_: server.stop())
            server.welcome(link)
            is_welcome = True  # from now on the server answers it
            server.serve()
    except FuselineError as error:
        if is_welcome:
            _log.error("the broker ends: %s", error)
        else:
            link.channel.put(Refused.because(error))
            link.channel.flush()
        return 1
    return 0


def _log_to(path: Path) -> None:
    """Write standard output and error to a file: whoever reads those of the starting program would wait for our end."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    if os.fstat(fd).st_size > _LOG_LIMIT:
        os.ftruncate(fd, 0)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

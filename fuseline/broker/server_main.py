"""The process of a broker: ``python -m fuseline.broker.server_main FD PATH DURABILITY``.

``FD`` is the inherited end of the starting program's private link. It is told there whether the broker has started, and
leaves it as any other program would. The process belongs to no terminal and to no parent: it serves whoever comes, and
ends when the last program has left.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from fuseline.broker.door import Door, runtime_folder
from fuseline.broker.link import ServerLink
from fuseline.broker.server import Server, stop_on_signals
from fuseline.broker.store import Durability, Store
from fuseline.broker.wire import Refused
from fuseline.errors import FuselineError

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Serve until the last program has left; return the exit code."""
    fd, path, durability = arguments
    if os.fork():
        os._exit(0)  # so that the starting program has no child to wait for
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = ServerLink(socket.socket(fileno=int(fd)), 0.0)
    try:
        with ExitStack() as stack:
            store = Store(Path(path), cast(Durability, durability)) if path else None
            if store is not None:
                stack.callback(store.close)
            door = Door(Path(tempfile.mkdtemp(prefix="broker-", dir=runtime_folder())) / "door")
            stack.callback(door.close)
            if store is not None:
                store.ownership.announce(str(door.folder))
            server = Server(store, door)
            stop_on_signals(server, [signal.SIGTERM, signal.SIGHUP])
            server.welcome(link)
            server.serve()
    except FuselineError as error:
        link.channel.put(Refused.because(error))
        link.channel.flush()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

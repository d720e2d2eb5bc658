"""The door of a broker process: a socket that other programs of the same user find, and nobody else may enter.

The socket is in a directory of mode 0700, beside a key, a random text; both are files of mode 0600. Who connects is
asked for the key, and the kernel for the user behind the connection. Whoever says nothing delays nobody: a link that
has not said the key in time is closed.
"""

from __future__ import annotations

import errno
import hmac
import os
import secrets
import shutil
import socket
import stat
import struct
import sys
import tempfile
import time
from pathlib import Path

from fuseline.errors import BrokerError

__all__ = ["DOOR_PREFIX", "Door", "knock", "peer_of", "runtime_folder", "sweep_doors"]

#: How the names of folders begin that doors are in.
DOOR_PREFIX = "broker-"
#: Seconds in which a door is ready for sure.
_MAKING = 60.0
#: Connections that may wait to be accepted.
_BACKLOG = 128


class Door:
    """Where programs come in.

    Args:
        folder: of the socket and the key; made anew.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = secrets.token_hex(32)
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._make()
        except BaseException:
            os.close(self._spare)
            raise

    def _make(self) -> None:
        folder = self.folder
        folder.mkdir(mode=0o700)
        try:
            key_fd = os.open(folder / "key", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(key_fd, "w") as file:
                file.write(self._key)
            self._socket = _listen(folder / "socket")
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise BrokerError(
                f"no socket can be made in {folder}: {error}. Set XDG_RUNTIME_DIR to another directory."
            ) from error

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def is_there(self) -> bool:
        """Whether programs can find it: somebody who cleans up may have removed its folder."""
        return (self.folder / "socket").exists() and (self.folder / "key").exists()

    def make_again(self) -> None:
        """Be where it was before.

        Raises:
            BrokerError: it cannot be made there.
        """
        self._socket.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        runtime_folder()
        try:
            self.folder.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise BrokerError(f"no socket can be made in {self.folder}: {error}.") from error
        self._make()

    def accept(self) -> socket.socket | None:
        """Return the next connection, which has not shown a key yet; None if there is none, or of another user."""
        try:
            connection, _ = self._socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()
            return None  # else it has gone again
        peer = peer_of(connection)
        if peer is not None and peer[1] != os.getuid():
            connection.close()
            return None
        return connection

    def _turn_away(self) -> None:
        """Close the next connection: there is no descriptor for it, and it would make us look again and again."""
        os.close(self._spare)
        try:
            self._socket.accept()[0].close()
        except OSError:
            pass
        finally:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def fits(self, key: str) -> bool:
        """Return whether it is the key, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(key.encode("utf-8", "replace"), self._key.encode())

    def close(self) -> None:
        """Let nobody in any more, and remove the folder. May be called twice."""
        self._socket.close()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        shutil.rmtree(self.folder, ignore_errors=True)


def _listen(path: Path) -> socket.socket:
    """Return a socket to which programs of this user can connect."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(str(path))
        os.chmod(path, 0o600)  # nobody can connect before it listens
        made.listen(_BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def knock(folder: Path, *, waits: bool = True) -> tuple[socket.socket, str]:
    """Return a connection to the broker behind this door, and the key to show.

    Args:
        waits: whether to wait for a broker that has not let in those who came before, because it was stopped, say.

    Raises:
        BlockingIOError: it would have to be waited for.
        OSError: there is none, or one of another user.
    """
    if not folder.is_absolute() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} is not a door of this user")
    key = (folder / "key").read_text()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(waits)
        connection.connect(str(folder / "socket"))
        connection.setblocking(True)
        _check_peer(connection)
    except BaseException:
        connection.close()
        raise
    return connection, key


def _check_peer(connection: socket.socket) -> None:
    peer = peer_of(connection)
    if peer is not None and peer[1] != os.getuid():
        raise PermissionError("there is somebody else behind the door")


def runtime_folder() -> Path:
    """Return the directory of this user's sockets, which nobody else can look into; it is made if there is none.

    Raises:
        BrokerError: somebody else has made it, or others can look into it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and os.path.isdir(base) and os.stat(base).st_uid == os.getuid():
        folder = Path(base, "fuseline")
    else:
        folder = Path(tempfile.gettempdir(), f"fuseline-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise BrokerError(f"no directory for sockets can be made: {error}. Set XDG_RUNTIME_DIR to another.") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise BrokerError(
            f"{folder} cannot hold the sockets of this user: others can reach it. Remove it, or set XDG_RUNTIME_DIR."
        )
    return folder


def peer_of(connection: socket.socket) -> tuple[int, int] | None:
    """Return the process and the user at the other end, or None where the system does not say."""
    if sys.platform == "linux":
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, user, _ = struct.unpack("3i", credentials)
        return pid, user
    return None


def sweep_doors() -> None:
    """Remove the folders of doors behind which nobody is any more, because their process was killed."""
    for folder in runtime_folder().glob(f"{DOOR_PREFIX}*"):
        try:
            is_new = time.time() - folder.stat().st_mtime < _MAKING
            connection = None if is_new else knock(folder / "door", waits=False)[0]
        except BlockingIOError:  # somebody is there, and does not answer
            continue
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            if connection is not None:
                connection.close()

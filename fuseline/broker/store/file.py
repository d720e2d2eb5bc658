"""The file of a store: whether it may be opened, and by whom.

All of it is looked at before SQLite touches the file, so that a file which is refused stays as it is. The owner is the
process that holds a lock on ``PATH.lock``; the kernel lets go of it when the process ends, however it does. The lock is
not on the store itself, because SQLite would lose its own locks when another descriptor of that file is closed.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Literal

from fuseline.errors import StoreDamaged, StoreError, StoreInUse

__all__ = [
    "APPLICATION_ID",
    "VERSION",
    "Durability",
    "Ownership",
    "check_application",
    "check_file",
    "check_owner",
    "check_version",
    "file_system",
    "read_owner",
    "resolve_store",
]

#: In the header of a store, so that it is told from the SQLite files of other programs: "FuLi".
APPLICATION_ID = 0x46754C69
#: Of the tables.
VERSION = 3

#: What an acknowledged change survives: power cuts, too, or only the end of any process.
Durability = Literal["power", "process"]

#: What is beside a store, as SQLite and we name it.
_BESIDE = ("", ".lock", ".files", "-wal", "-shm", "-journal")
_MAGIC = b"SQLite format 3\0"
#: File systems of other machines: their locks and syncs do not promise what SQLite needs.
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "beegfs", "9p", "gpfs"}


class Ownership:
    """The right to open a store, until ``release`` or the end of the process.

    Raises:
        StoreInUse: another process has it.
        StoreError: the lock cannot be made.
    """

    def __init__(self, path: Path) -> None:
        lock = path.with_name(path.name + ".lock")
        try:
            self._fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"the store {path} cannot be locked: {error}. Choose another place.") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise StoreInUse(path, read_owner(path)[0]) from None
        self.announce("")

    def announce(self, door: str) -> None:
        """Let others know who has the store, and the folder of the door where that process can be reached."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n{door}\n".encode(), 0)

    def release(self) -> None:
        """Let another process have the store. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def resolve_store(path: str | os.PathLike[str]) -> Path:
    """Return where a store is, whatever the current directory will be.

    Raises:
        StoreError: its path is none that every part of a program can handle.
    """
    try:
        place = Path(path).expanduser().resolve()
        str(place.with_name(place.name)).encode()  # it has a name, and a form in UTF-8
    except (ValueError, RuntimeError) as error:
        raise StoreError(
            f"the store {os.fspath(path)!r} has a path that cannot be used: {error}. Rename it."
        ) from error
    return place


def read_owner(path: Path) -> tuple[int | None, str]:
    """Return the process that has the store, or had it last, and the folder of its door; None and "" if unknown."""
    try:
        with open(path.with_name(path.name + ".lock"), opener=_open_at_once) as file:
            pid, door, *_ = [*file.read().split("\n"), "", ""]
    except (OSError, UnicodeDecodeError):  # there is none, or somebody else has put something there
        return None, ""
    return int(pid) if pid.isdecimal() else None, door


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for whoever writes to it


def check_file(path: Path) -> None:
    """Make sure that there is a store at ``path``, or that one can be made there.

    Raises:
        StoreError: it is on a network, of another user, no file, no store, of a newer version, or cannot be written.
        StoreDamaged: it is shorter than it says.
    """
    kind = file_system(path)
    if kind in _REMOTE or kind.startswith("fuse.sshfs"):
        raise StoreError(
            f"the store {path} is on a network file system ({kind}), which does not keep what SQLite needs to lose "
            "nothing. Choose a place on a local disk."
        )
    check_owner(*(path.with_name(path.name + suffix) for suffix in _BESIDE))
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for whoever writes to it
        raise StoreError(f"{path} is no store of fuseline, and no regular file at all. Choose another place.")
    try:
        with open(path, "rb") as file:
            header = file.read(100)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        _check_folder(path)
        return
    except OSError as error:
        raise StoreError(f"the store {path} cannot be read: {error}. Choose another place.") from error
    if not os.access(path, os.W_OK):
        raise StoreError(f"the store {path} is read-only. Make it writable, or choose another place.")
    _check_folder(path)
    half_made = path.with_name(path.name + "-journal").exists()  # SQLite will undo that, and then we look again
    if size and not half_made:
        _check_header(path, header)
        if not _has_log(path):  # else the rest may still be in there: whoever was copying it has been stopped
            _check_size(path, header, size)


def check_owner(*paths: Path) -> None:
    """Refuse what another user has put where a store is, or will be, and links that he has put there.

    Values are pickles: whoever can write them can have any code run by those who read them.

    Raises:
        StoreError: there is something.
    """
    for path in paths:
        for look in (os.lstat, os.stat):
            try:
                user = look(path).st_uid
            except OSError:  # there is none; whoever opens it finds what else there may be
                continue
            if user != os.getuid():
                raise StoreError(
                    f"{path} belongs to another user ({user}), who could have put code into it that would run here. "
                    "Make it your own, or choose another place."
                )


def _check_folder(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise StoreError(
            f"the store {path} cannot be made: there is no directory {folder}. Make it, or choose another."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(f"the store {path} cannot be written: its directory is read-only. Choose another place.")


def _has_log(path: Path) -> bool:
    try:
        return path.with_name(path.name + "-wal").stat().st_size > 0
    except FileNotFoundError:
        return False


def _check_header(path: Path, header: bytes) -> None:
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise StoreError(f"{path} is no store of fuseline, but some other file. Choose another place.")
    is_bare = any(header[16:18]) and not any(header[40:44])  # it has pages, and never had a table
    if not is_bare:  # else the disk was full when it was made, say
        check_application(path, int.from_bytes(header[68:72], "big"))
    check_version(path, int.from_bytes(header[60:64], "big"))


def _check_size(path: Path, header: bytes, size: int) -> None:
    page_size = int.from_bytes(header[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    if page_size * int.from_bytes(header[28:32], "big") > size:
        raise StoreDamaged(path, "it is shorter than it says")


def check_application(path: Path, application_id: int) -> None:
    """Refuse a SQLite file that is no store.

    Raises:
        StoreError: it is one.
    """
    if application_id != APPLICATION_ID:
        raise StoreError(f"{path} is the SQLite file of another program. Choose another place.")


def check_version(path: Path, version: int) -> None:
    """Refuse a store that a newer fuseline has made.

    Raises:
        StoreError: it is one.
    """
    if version > VERSION:
        raise StoreError(
            f"the store {path} was made by a newer fuseline: format {version}, and this one knows {VERSION}. Update it."
        )


def file_system(path: Path) -> str:
    """Return the type of the file system that ``path`` is on, or will be; empty if nobody knows."""
    import psutil  # a broker without a store starts faster

    real = os.path.realpath(path)
    best, kind = "", ""
    for mount in psutil.disk_partitions(all=True):
        prefix = mount.mountpoint.rstrip("/") + "/"
        if real.startswith(prefix) and len(prefix) >= len(best):
            best, kind = prefix, mount.fstype
    return kind

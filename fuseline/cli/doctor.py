"""``fuseline doctor``: whether this machine, and the store, are as fuseline needs them."""

from __future__ import annotations

import json
import os
import platform
import resource
import shlex
import shutil
import sqlite3
import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.text import Text

import fuseline
from fuseline.broker.door import knock, runtime_folder
from fuseline.broker.local import LocalBroker
from fuseline.broker.store.file import check_file, file_system, read_owner
from fuseline.cli.consoles import make_console
from fuseline.cli.stores import default_store, nearest, not_writable, patience, store_path
from fuseline.cli.text import plural, printable
from fuseline.cli.times import size
from fuseline.errors import FuselineError
from fuseline.executors.base import usable_cpus

__all__ = ["examine"]

#: Descriptors that a program needs for each child, and for itself.
_FILES_PER_CHILD = 10
_FILES_OF_ITS_OWN = 64
#: Seconds after which a folder of a broker that does not answer is one that was left.
_LEFT_AFTER = 60.0


#: Columns before the texts.
_INDENT = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that was looked at."""

    subject: str
    text: str
    advice: str = ""  #: what to do, if it is not as it should be
    is_harmless: bool = False  #: whether it can stay as it is

    @property
    def is_well(self) -> bool:
        return self.is_harmless or not self.advice


def examine(*, store: str | None, use_json: bool) -> int:
    """Look at everything, print it, and return 1 if something is wrong."""
    path = store_path(store)
    console = make_console()
    all_well = True
    for finding in _findings(path):
        all_well &= finding.is_well
        if use_json:
            click.echo(json.dumps({"ok": finding.is_well, **asdict(finding)}))
            continue
        for line in _lines(finding, console.width):
            console.print(line)
    return 0 if all_well else 1


def _lines(finding: Finding, width: int) -> Iterator[Text]:
    mark, style = ("✓", "green") if not finding.advice else ("!", "yellow") if finding.is_well else ("✗", "bold red")
    for heading, text in ((finding.subject, finding.text), ("", finding.advice)):
        indent = " " * _INDENT
        lines = textwrap.wrap(
            printable(text),
            max(width, 40),
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for number, line in enumerate(lines):
            head = Text.assemble((mark, style), f" {heading}") if heading and not number else Text()
            head.pad_right(_INDENT - len(head))
            yield head + Text(line[_INDENT:])


def _findings(path: Path) -> Iterator[Finding]:
    yield Finding(subject="fuseline", text=fuseline.__version__)
    yield Finding(subject="Python", text=f"{platform.python_version()} on {platform.system()} {platform.release()}")
    yield Finding(subject="SQLite", text=sqlite3.sqlite_version)
    yield Finding(subject="processors", text=f"{usable_cpus()} usable")
    yield _open_files()
    if Path("/dev/shm").is_dir():
        yield Finding(subject="/dev/shm", text=f"{size(shutil.disk_usage('/dev/shm').free)} free")
    yield from _leftovers()
    yield from _store(path)


def _open_files() -> Finding:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = _FILES_OF_ITS_OWN + _FILES_PER_CHILD * usable_cpus()
    if limit == resource.RLIM_INFINITY or limit >= need:
        return Finding(
            subject="open files", text="unlimited" if limit == resource.RLIM_INFINITY else f"up to {limit:,}"
        )
    return Finding(
        subject="open files",
        text=f"only {limit} per process",
        advice=f"Raise the limit with 'ulimit -n {max(1024, need)}', or use fewer processes (-p).",
    )


def _leftovers() -> Iterator[Finding]:
    """Say which folders of brokers were left by brokers that were killed."""
    try:
        folder = runtime_folder()
    except FuselineError as error:
        yield Finding(subject="sockets", text=f"{error}", advice="Without that, no broker can be reached.")
        return
    left = sorted(each for each in folder.glob("broker-*") if _is_left(each))
    if left:
        yield Finding(
            subject="leftovers",
            text=f"{plural(len(left), 'folder')} of brokers that were killed, in {folder}",
            advice=f"They do no harm. Remove them with: rm -r {shlex.join(map(str, left))}",
            is_harmless=True,
        )
    else:
        yield Finding(subject="leftovers", text="none")


def _is_left(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > _LEFT_AFTER and not _answers(folder / "door")
    except OSError:  # gone meanwhile
        return False


def _answers(door: Path) -> bool:
    try:
        connection, _ = knock(door)
    except OSError:
        return False
    connection.close()
    return True


# -- the store --------------------------------------------------------------------------------------------------------


def _store(path: Path) -> Iterator[Finding]:
    existing = nearest(path)
    kind = file_system(existing) or "of an unknown kind"
    free = shutil.disk_usage(existing).free
    if existing != path:
        if advice := _what_hinders(path, existing):
            yield Finding(subject="store", text=f"{path} cannot be made", advice=advice)
            return
        yield Finding(subject="store", text=f"{path} will be made by the first run; {kind}, {size(free)} free")
        return
    try:
        check_file(path)
    except FuselineError as error:
        yield Finding(subject="store", text=f"{path} ({kind})", advice=str(error))
        return
    yield Finding(subject="store", text=f"{path}; {kind}, {size(free)} free")
    pid, door = read_owner(path)
    runs = bool(door) and _answers(Path(door))
    yield Finding(subject="broker", text=f"process {pid}" if runs else "none runs; a command that needs one starts it")
    yield from _inside(path)


def _what_hinders(path: Path, existing: Path) -> str:
    """Return why a store cannot be made, and what to do about it; nothing if it can.

    Args:
        existing: the directory above it that is there, the nearest.
    """
    if path == default_store():  # whose directory is made with it
        if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
            return ""
        return not_writable(existing)
    try:
        check_file(path)
    except FuselineError as error:
        return str(error)
    return ""


def _inside(path: Path) -> Iterator[Finding]:
    """Look into the store by way of its broker."""
    started = time.monotonic()
    try:
        with patience(path):
            reached = LocalBroker(path)
        with reached as broker:
            status = broker.status()
            problems = broker.check()
    except FuselineError as error:
        yield Finding(subject="check", text="the store cannot be opened", advice=str(error))
        return
    counts = ", ".join(f"{count:,} {state}" for state, count in sorted(status.counts.items()) if count)
    yield Finding(subject="runs", text=f"{counts or 'none'}; {size(status.size_bytes)} with all that belongs to them")
    present = [worker for worker in status.workers if not worker.is_missing]
    served = ", ".join(sorted({name for worker in present for name in worker.workflows}))
    text = f"{len(present)}, which serve {served}" if present else "none"
    yield Finding(subject="workers", text=text)
    if missing := len(status.workers) - len(present):
        yield Finding(
            subject="workers",
            text=f"{plural(missing, 'worker')} left without a word; their steps wait until their processes are gone",
            advice="If that takes long, look for processes that they have started, and end them.",
            is_harmless=True,
        )
    if status.version != fuseline.__version__:
        yield Finding(
            subject="version",
            text=f"the broker, process {status.pid}, is of fuseline {status.version}",
            advice="End the programs that use it; the next one starts a broker of this version.",
        )
    if problems:
        text = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        yield Finding(subject="check", text=text, advice=f"Put back a copy of {path}, or move it away and start anew.")
    else:
        yield Finding(subject="check", text=f"the store is whole ({time.monotonic() - started:.1f} s)")

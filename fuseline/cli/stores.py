"""Which store a command uses, and how it gets at it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from fuseline.broker.local import LocalBroker
from fuseline.broker.store.file import read_owner
from fuseline.cli.app import Problem
from fuseline.records import RunRecord, StepRecord

__all__ = [
    "default_store",
    "find_run",
    "find_step",
    "nearest",
    "no_store_yet",
    "not_writable",
    "open_store",
    "patience",
    "prepare_folder",
    "store_argument",
    "store_path",
]

#: Seconds after which it is said that a broker does not answer.
_SILENCE = 2.0
#: Runs that are named where the beginning of an id is that of several.
_SHOWN = 5


def default_store() -> Path:
    """Return the store of this user: ``fuseline/runs.db`` in the directory for state."""
    base = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(base) if os.path.isabs(base) else Path("~/.local/state").expanduser()  # as that standard has it
    return folder / "fuseline" / "runs.db"


def store_path(given: str | None) -> Path:
    """Return the store that a command uses, as an absolute path; ``given`` is what its option or ``FUSELINE_STORE``
    says."""
    return Path(given).expanduser().absolute() if given else default_store()


def store_argument(given: str | None) -> str:
    """Return what has to be added to another command so that it uses the same store."""
    import shlex

    path = store_path(given)
    same = path in (default_store(), Path(os.environ.get("FUSELINE_STORE") or default_store()).expanduser().absolute())
    return "" if same else f" --store {shlex.quote(given or str(path))}"


def open_store(given: str | None, *, make: bool = False, **settings: Any) -> LocalBroker:
    """Return the broker of a store.

    Args:
        make: make the store if there is none, and the user's directory for it.
        settings: for a broker that is started.

    Raises:
        Problem: there is none and none is to be made.
        StoreError, BrokerError: it cannot be used.
    """
    path = store_path(given)
    if make:
        prepare_folder(path)
    elif not os.path.exists(path):
        raise Problem(
            f"there is no store at {path}. Start a run with 'fuseline run' or 'fuseline dispatch', "
            "or name another store with --store."
        )
    with patience(path):
        return LocalBroker(path, **settings)


@contextmanager
def patience(path: Path) -> Iterator[None]:
    """Say who is waited for, if the broker of a store lets the block wait."""

    def say() -> None:
        pid, _ = read_owner(path)
        whom = f"broker {pid}" if pid else "the broker"
        click.echo(f"waiting for {whom} of {path}, which does not answer …", err=True)

    timer = threading.Timer(_SILENCE, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def no_store_yet(path: Path) -> bool:
    """Return whether there is no store, and say so."""
    if os.path.exists(path):
        return False
    click.echo(f"there are no runs, because there is no store at {path} yet.", err=True)
    return True


def prepare_folder(path: Path) -> None:
    """Make the directory of the user's own store; that of any other is his business.

    Raises:
        Problem: it cannot be made.
    """
    if path == default_store():
        try:
            path.parent.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Problem(not_writable(nearest(path))) from error


def nearest(path: Path) -> Path:
    """Return the part of a path that is there."""
    return next(each for each in (path, *path.parents) if os.path.exists(each))


def not_writable(folder: Path) -> str:
    """Return what to do about a directory in which the user's own store cannot be made."""
    return f"{folder} is no directory that you may write to. Mend that, or name another store with --store."


def find_run(broker: LocalBroker, prefix: str) -> str:
    """Return the id of the one run whose id begins with ``prefix``.

    Raises:
        Problem: there is none, or several.
    """
    found = broker.find_runs(prefix, _SHOWN + 1)
    if prefix in found:
        return prefix
    if not found:
        raise Problem(f"no run has an id that begins with {prefix!r}. 'fuseline runs' lists those that are there.")
    if len(found) > 1:
        shown = ", ".join(found[:_SHOWN]) + (" and more" if len(found) > _SHOWN else "")
        raise Problem(f"several runs have ids that begin with {prefix!r}: {shown}. Give more of it.")
    return found[0]


def find_step(record: RunRecord, name: str) -> StepRecord:
    """Return a step of a run.

    Raises:
        Problem: it has none of this name.
    """
    if name not in record.steps:
        names = ", ".join(list(record.steps)[:20])
        raise Problem(f"run {record.instance_id} has no step {name!r}. Its steps are {names}.")
    return record.steps[name]

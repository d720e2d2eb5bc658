"""The commands that look after runs and their store: ``cancel``, ``prune``, ``broker``."""

from __future__ import annotations

import os

import click

from fuseline.broker import serve
from fuseline.broker.store import Durability
from fuseline.cli.app import Nonsense, Problem
from fuseline.cli.stores import find_run, open_store, prepare_folder, store_path
from fuseline.cli.text import plural
from fuseline.cli.times import size

__all__ = ["cancel_run", "keep_broker", "prune_runs"]


def cancel_run(prefix: str, step: str | None, *, store: str | None) -> int:
    """Cancel a run, or one step of it."""
    with open_store(store) as broker:
        instance_id = find_run(broker, prefix)
        record = broker.record(instance_id)
        if step is not None and step not in record.steps:
            raise Problem(
                f"run {instance_id} has no step {step!r}. Its steps are {', '.join(list(record.steps)[:20])}."
            )
        had_effect = broker.cancel(instance_id, step)
        state = broker.record(instance_id).state if step is None else broker.record(instance_id).steps[step].state
    what = f"run {instance_id}" if step is None else f"step {step!r} of run {instance_id}"
    if not had_effect:
        click.echo(f"{what} is {state} already; there was nothing to cancel.")
    elif state.is_settled:
        click.echo(f"{what} is cancelled.")
    else:
        click.echo(f"{what} is being cancelled: what runs of it is told to end.")
    return 0


def prune_runs(*, older_than: float | None, keep: int | None, store: str | None) -> int:
    """Remove runs that have ended from the store."""
    if older_than is None and keep is None:
        raise Nonsense(
            "say what to remove: --older-than 30d removes runs that ended earlier, --keep 1000 keeps as many."
        )
    with open_store(store) as broker:
        before = broker.status().size_bytes
        count = broker.prune(keep_for=older_than, keep_runs=keep)
        after = broker.status().size_bytes
    click.echo(f"{plural(count, 'run')} removed. The store takes {size(after)}; before, it took {size(before)}.")
    return 0


def keep_broker(*, store: str | None, durability: Durability, keep_for: float | None, keep_runs: int | None) -> int:
    """Be the broker of a store until Ctrl-C or SIGTERM."""
    path = store_path(store)
    prepare_folder(path)

    def say_ready(pid: int) -> None:
        click.echo(f"broker {pid} is ready, with the store {path}. Ctrl-C ends it.")

    serve(path, durability=durability, keep_for=keep_for, keep_runs=keep_runs, on_ready=say_ready)
    click.echo(f"broker {os.getpid()} has ended; the store {path} has everything.")
    return 0

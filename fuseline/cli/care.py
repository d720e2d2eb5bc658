"""The commands that look after runs and their store: ``cancel``, ``migrate``, ``prune``, ``broker``."""

from __future__ import annotations

import contextlib
import os
import sys

import click

from fuseline.broker import serve
from fuseline.broker.store.file import Durability
from fuseline.cli.app import Nonsense
from fuseline.cli.stores import find_run, find_step, no_store_yet, open_store, prepare_folder, store_path
from fuseline.cli.streams import fresh
from fuseline.cli.text import plural
from fuseline.cli.times import size
from fuseline.cli.workflows import find_workflow
from fuseline.errors import UnknownRunError
from fuseline.states import State

__all__ = ["cancel_run", "keep_broker", "migrate_runs", "prune_runs"]


def cancel_run(prefix: str | None, step: str | None, *, workflow: str | None, store: str | None) -> int:
    """Cancel a run, one step of it, or all runs of a workflow."""
    if (prefix is None) is (workflow is None):
        raise Nonsense("say what to cancel: a RUN, or all runs of a workflow with --workflow NAME.")
    if workflow is not None:
        return _cancel_runs_of(workflow, store)
    assert prefix is not None
    with open_store(store) as broker:
        instance_id = find_run(broker, prefix)
        record = broker.record(instance_id)
        if step is not None:
            find_step(record, step)
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


def _cancel_runs_of(workflow: str, store: str | None) -> int:
    """Cancel all runs of a workflow that have not ended."""
    count = 0
    with open_store(store) as broker:
        for state in (State.PENDING, State.RUNNING):
            for record in broker.records(state=state):
                if workflow in (record.workflow, record.workflow_id):
                    with contextlib.suppress(UnknownRunError):  # it has ended meanwhile, and was removed
                        count += broker.cancel(record.instance_id)
    click.echo(f"{plural(count, 'run')} of {workflow!r} cancelled; what runs of them is told to end.")
    return 0


def migrate_runs(target: str, *, store: str | None) -> int:
    """Let the runs that wait with an earlier version of a workflow go on with what it is now."""
    schema = find_workflow(target).to_schema()
    with open_store(store) as broker:
        count = len(broker.migrate(schema))
    goes = "goes" if count == 1 else "go"
    click.echo(f"{plural(count, 'run')} of {schema.name!r} {goes} on with the workflow as it is now.")
    return 0


def prune_runs(*, older_than: float | None, keep: int | None, store: str | None) -> int:
    """Remove runs that have ended from the store."""
    if older_than is None and keep is None:
        raise Nonsense(
            "say what to remove: --older-than 30d removes runs that ended earlier, --keep 1000 keeps as many."
        )
    if no_store_yet(store_path(store)):
        return 0
    with open_store(store) as broker:
        before = broker.status().size_bytes
        count = broker.prune(keep_for=older_than, keep_runs=keep)
        after = broker.status().size_bytes
    takes = f"takes {size(after)}; before, it took {size(before)}" if count else f"takes {size(after)}, as before"
    click.echo(f"{plural(count, 'run')} removed. The store {takes}.")
    return 0


def keep_broker(*, store: str | None, durability: Durability, keep_for: float | None, keep_runs: int | None) -> int:
    """Be the broker of a store until Ctrl-C or SIGTERM."""
    path = store_path(store)
    prepare_folder(path)

    def say_ready(pid: int) -> None:
        click.echo(f"broker {pid} is ready, with the store {path}. Ctrl-C ends it.")

    serve(path, durability=durability, keep_for=keep_for, keep_runs=keep_runs, on_ready=say_ready)
    click.echo(f"{fresh(sys.stdout)}broker {os.getpid()} has ended; the store {path} has everything.")
    return 0

"""The commands that get runs done: ``run``, ``dispatch``, ``worker``, ``resume``."""

from __future__ import annotations

import json
import os
import select
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click

from fuseline.broker.local import LocalBroker
from fuseline.broker.wire import WorkerInfo
from fuseline.cli.app import Nonsense, Problem
from fuseline.cli.bar import RunBar
from fuseline.cli.follow import Follower
from fuseline.cli.inputs import read_inputs, source_name
from fuseline.cli.outcomes import Outcomes
from fuseline.cli.stores import find_run, open_store, patience, prepare_folder, store_argument, store_path
from fuseline.cli.streams import fresh, stdout_for_results, warn_on_fresh_lines
from fuseline.cli.text import plural, printable
from fuseline.cli.times import clock
from fuseline.cli.workflows import find_workflow, find_workflows
from fuseline.context import current_run
from fuseline.engines import ProcessEngine
from fuseline.errors import WorkflowChangedError
from fuseline.executors import executor_class
from fuseline.executors.base import usable_cpus
from fuseline.policies.base import WorkflowPolicy
from fuseline.records import RunRecord
from fuseline.schema import WorkflowSchema
from fuseline.signals import StopSignals
from fuseline.states import State
from fuseline.wakeup import Wakeup
from fuseline.workflow import Workflow

__all__ = ["dispatch_runs", "resume_run", "run_here", "serve_workflows"]

#: Seconds between two looks whether there still is a worker for the runs that are waited for.
_LOOK = 3.0
#: Runs of others that are counted, of each state; each is a record to fetch.
_COUNTED = 100


def run_here(
    target: str,
    pairs: Sequence[str],
    lines_from: str | None,
    *,
    processes: int | None,
    executor: str | None,
    store: str | None,
    use_json: bool,
) -> int:
    """Dispatch runs, work on them until they have ended, and print what became of them."""
    with stdout_for_results(alone=use_json) as out:
        workflow = _find(target, executor)
        schema = workflow.to_schema()
        inputs = read_inputs(workflow, schema, pairs, lines_from)
        if not inputs.runs:
            source = source_name(lines_from or "-")
            click.echo(f"there are no inputs in {source}, so there was nothing to run.", err=True)
            return 0
        with open_store(store, make=True) as broker:
            # Before anything is dispatched: it may refuse.
            engine = ProcessEngine(broker, [workflow], processes=processes)
            several = lines_from is not None
            outcomes = Outcomes(
                target, store_argument(store), out, use_json=use_json, several=several, places=inputs.places
            )
            bar = RunBar(
                workflow.name, len(inputs.runs) if several else len(schema.steps), "run" if several else "step"
            )

            def dispatch() -> list[str]:
                waiting = _count_waiting(broker, schema)
                ids = broker.dispatch_many(schema, inputs.runs)
                _say_what_waits(waiting, schema)
                return ids

            return _work_on(broker, engine, outcomes, bar, dispatch)


def dispatch_runs(
    target: str, pairs: Sequence[str], lines_from: str | None, *, wait: bool, store: str | None, use_json: bool
) -> int:
    """Dispatch runs and print their ids, or wait for them and print what became of them."""
    with stdout_for_results(alone=use_json) as out:
        workflow = find_workflow(target)
        schema = workflow.to_schema()
        inputs = read_inputs(workflow, schema, pairs, lines_from)
        with open_store(store, make=True) as broker:

            def dispatch() -> list[str]:
                ids = broker.dispatch_many(schema, inputs.runs)
                if wait or sys.stderr.isatty():
                    _say_who_serves(
                        broker, workflow.name, schema.workflow_id, shlex.quote(target) + store_argument(store)
                    )
                return ids

            if wait:
                outcomes = Outcomes(
                    target, store_argument(store), out, use_json=use_json, several=lines_from is not None
                )
                return _wait(broker, outcomes, schema, dispatch)
            ids = dispatch()
        for instance_id in ids:
            line = json.dumps({"run": instance_id, "workflow": workflow.name}) if use_json else instance_id
            click.echo(line, file=out)
        return 0


def resume_run(
    prefix: str,
    target: str | None,
    *,
    changed: bool,
    processes: int | None,
    executor: str | None,
    store: str | None,
    use_json: bool,
) -> int:
    """Put a run back that has failed, was cancelled or interrupted; with a workflow, work on it, too."""
    if target is None:
        if changed:
            raise Nonsense("--changed needs the workflow as it is now. Name it: fuseline resume RUN MODULE:WORKFLOW.")
        return _put_back(prefix, store=store)
    with stdout_for_results(alone=use_json) as out:
        workflow = _find(target, executor)
        schema = workflow.to_schema()
        with open_store(store) as broker:
            instance_id = find_run(broker, prefix)
            record = broker.record(instance_id)
            if record.workflow_id != schema.workflow_id:
                raise Nonsense(
                    f"run {instance_id} is one of workflow {record.workflow_id!r}, and {target} is "
                    f"{schema.workflow_id!r}. Name the workflow that the run was dispatched for."
                )
            engine = ProcessEngine(broker, [workflow], processes=processes)

            def put_back() -> list[str]:
                _resume(broker, record, schema, changed=changed)
                return [instance_id]

            attempts = {name: step.attempts for name, step in record.steps.items()}
            outcomes = Outcomes(target, store_argument(store), out, use_json=use_json, several=False, attempts=attempts)
            done = sum(step.state in (State.SUCCEEDED, State.SKIPPED) for step in record.steps.values())
            bar = RunBar(workflow.name, len(schema.steps), "step")
            return _work_on(broker, engine, outcomes, bar, put_back, steps_done=done)


def serve_workflows(
    targets: Sequence[str],
    *,
    processes: int | None,
    executor: str | None,
    store: str | None,
    until_done: bool,
    verbose: bool,
) -> int:
    """Work on all runs of some workflows, until stopped or until there are none left."""
    workflows = [_set(workflow, executor) for target in targets for workflow in find_workflows(target)]
    ids = Counter(workflow.to_schema().workflow_id for workflow in workflows)
    if twice := [workflow_id for workflow_id, count in ids.items() if count > 1]:
        raise Nonsense(f"there are several workflows {twice[0]!r}. Give each once, or give one of them another name=.")
    names = ", ".join(workflow.name for workflow in workflows)
    count = plural(processes or usable_cpus(), "step")
    until = "until no run is left" if until_done else "until Ctrl-C"

    def say_ready() -> None:
        click.echo(
            f"worker {os.getpid()} serves {printable(names)}, {count} at a time, {until}; the store is {path}.",
            err=True,
        )

    path = store_path(store)
    prepare_folder(path)
    with patience(path):
        reception = _Reception(path, len(workflows), say_ready)
    with reception as broker:
        engine = ProcessEngine(broker, workflows, processes=processes)
        ends = _Ends(verbose=verbose)
        engine.observe(ends)
        stopped = _work(engine, block=not until_done)
        click.echo(f"{fresh(sys.stderr)}worker {os.getpid()} has stopped: {ends}.", err=True)
        if stopped and any(_has_left(broker, workflow_id) for workflow_id in ids):
            command = f"fuseline worker {shlex.join(targets)}{store_argument(store)}"
            click.echo(f"What has not ended stays in the store. Go on with: {command}", err=True)
    return stopped or (1 if ends.failed else 0)


def _has_left(broker: LocalBroker, workflow_id: str) -> bool:
    """Return whether a workflow has runs that have not ended."""
    states = (State.PENDING, State.RUNNING)
    return any(broker.records(workflow_id=workflow_id, state=state, limit=1) for state in states)


class _Reception(LocalBroker):
    """A broker that says when its workers have been accepted.

    Args:
        count: of the workflows that they serve.
        on_ready: called once, when they serve all of these.
    """

    def __init__(self, path: Path, count: int, on_ready: Callable[[], None]) -> None:
        super().__init__(path)
        self._missing = count
        self._on_ready = on_ready

    def register_worker(self, schemas: Iterable[WorkflowSchema]) -> str:
        known = list(schemas)
        worker_id = super().register_worker(known)
        self._missing -= len(known)
        if not self._missing:
            self._on_ready()
        return worker_id


# -- working ----------------------------------------------------------------------------------------------------------


def _find(target: str, executor: str | None) -> Workflow:
    """Return a workflow; an executor that was asked for goes before the one it names."""
    return _set(find_workflow(target), executor)


def _set(workflow: Workflow, executor: str | None) -> Workflow:
    if executor is not None:
        workflow.check_policies(executor_class(executor))
        workflow.executor = executor
    return workflow


def _work(engine: ProcessEngine, *, block: bool = False) -> int:
    """Let an engine work; return the exit code if a signal has ended that, else 0."""
    warn_on_fresh_lines()
    try:
        engine.work(block=block)
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 143
    return 0


def _work_on(
    broker: LocalBroker,
    engine: ProcessEngine,
    outcomes: Outcomes,
    bar: RunBar,
    dispatch: Callable[[], list[str]],
    steps_done: int = 0,
) -> int:
    """Let an engine work until the runs that ``dispatch`` returns have ended, and print what became of them.

    Runs of others that wait for the same workflow are worked on meanwhile, and left when these have ended.
    """
    with bar, Follower(broker, bar.show, engine.stop, lambda each: broker.record(each).state) as follower:
        ids = dispatch()
        follower.expect(ids, steps_done=steps_done)
        stopped = _work(engine)
    for instance_id in ids:
        outcomes.show(broker.record(instance_id))
    outcomes.finish()
    return stopped or outcomes.code


def _wait(broker: LocalBroker, outcomes: Outcomes, schema: WorkflowSchema, dispatch: Callable[[], list[str]]) -> int:
    """Wait until others have worked on the runs that ``dispatch`` returns, and print what became of them.

    Ctrl-C and SIGTERM end the waiting. They are heeded between two looks: a call of the broker is not left half done.
    """
    wakeup = Wakeup()  # can be set by a handler of signals, which an Event cannot
    try:
        follower = Follower(broker, lambda steps, runs: None, wakeup.set, lambda each: broker.record(each).state)
        with follower, StopSignals(wakeup.set) as signals:
            ids = dispatch()
            follower.expect(ids)
            watch = _WorkerWatch(broker, schema)
            while not select.select([wakeup.fileno()], [], [], _LOOK)[0]:
                watch.look()
    finally:
        wakeup.close()
    for instance_id in ids:
        outcomes.show(broker.record(instance_id))
    outcomes.finish(is_left_to_workers=True)
    if not signals.count:
        return outcomes.code
    return 130 if isinstance(signals.exception(), KeyboardInterrupt) else 143


class _WorkerWatch:
    """Says when the last worker that serves a workflow has gone, and when there is one again."""

    def __init__(self, broker: LocalBroker, schema: WorkflowSchema) -> None:
        self._broker = broker
        self._schema = schema
        self._was_served = bool(_present(broker, schema.workflow_id))

    def look(self) -> None:
        """Ask the broker; blocks as long as that takes."""
        is_served = bool(_present(self._broker, self._schema.workflow_id))
        if is_served != self._was_served:
            what = "a worker serves" if is_served else "no worker is left that serves"
            how = "now" if is_served else "; start one, or end the waiting with Ctrl-C"
            click.echo(f"{what} {self._schema.name!r}{' ' if is_served else ''}{how}.", err=True)
            self._was_served = is_served


class _Ends(WorkflowPolicy):
    """Counts how runs ended, and names those that failed, or all of them."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._count: Counter[State] = Counter()

    def on_workflow_finished(self, workflow: Workflow, state: State) -> None:
        self._count[state] += 1
        if self._verbose or state is State.FAILED:
            context = current_run()
            instance_id = context.instance_id if context else ""
            click.echo(f"{clock(time.time())} run {instance_id} of {printable(workflow.name)}: {state}", err=True)

    @property
    def failed(self) -> int:
        return self._count[State.FAILED]

    def __str__(self) -> str:
        ends = ", ".join(f"{count:,} {state.lower()}" for state, count in self._count.items())
        total = plural(self._count.total(), "run") + " ended here"
        return f"{total} ({ends})" if ends else total


# -- without working --------------------------------------------------------------------------------------------------


def _put_back(prefix: str, *, store: str | None) -> int:
    """Make a run one that waits for a worker again, and say which worker that may be."""
    with open_store(store) as broker:
        instance_id = find_run(broker, prefix)
        record = broker.record(instance_id)
        _resume(broker, record, None, changed=False)
        stands = "waits for a worker again" if record.state.is_settled else f"is {record.state} and needs no resuming"
        click.echo(f"run {instance_id} of workflow {record.workflow!r} {stands}.")
        _say_who_serves(broker, record.workflow, record.workflow_id, "MODULE:WORKFLOW" + store_argument(store))
    return 0


def _resume(broker: LocalBroker, record: RunRecord, schema: WorkflowSchema | None, *, changed: bool) -> None:
    """Make a run that has failed or was cancelled one that waits; one that has not ended needs no more than a worker.

    Raises:
        Problem: it has succeeded, or its workflow has changed.
    """
    run = f"run {record.instance_id}"
    if record.state is State.SUCCEEDED:
        raise Problem(f"{run} has succeeded; nothing of it is left to do. Dispatch another one.")
    try:
        broker.resume(record.instance_id, schema, changed=changed)
    except WorkflowChangedError as error:
        if changed:  # the run has not ended, and the broker does not give it up: it says why
            raise
        raise Problem(
            f"workflow {record.workflow!r} is not what it was when {run} began. Go on with the changed one with "
            "--changed."
        ) from error


def _count_waiting(broker: LocalBroker, schema: WorkflowSchema) -> int:
    """Return how many runs of a workflow have not ended; more than ``_COUNTED`` is enough to know."""
    return sum(
        len(broker.records(workflow_id=schema.workflow_id, state=state, limit=_COUNTED + 1))
        for state in (State.PENDING, State.RUNNING)
    )


def _say_what_waits(count: int, schema: WorkflowSchema) -> None:
    """Say how many runs of others will be worked on, too."""
    if count:
        number = f"{plural(count, 'earlier run')}" if count <= _COUNTED else f"more than {_COUNTED} earlier runs"
        waits = "waits in the store and is" if count == 1 else "wait in the store and are"
        click.echo(f"{number} of {printable(schema.name)!r} {waits} worked on, too.", err=True)


def _say_who_serves(broker: LocalBroker, name: str, workflow_id: str, arguments: str) -> None:
    """Say how many workers take runs of a workflow, or how to start one."""
    present = _present(broker, workflow_id)
    if present:
        pids = ", ".join(str(worker.pid) for worker in present[:5] if worker.pid is not None)
        serve = f"{plural(len(present), 'worker')} {'serves' if len(present) == 1 else 'serve'} {name!r}"
        click.echo(f"{serve} (process {pids})." if pids else f"{serve}.", err=True)
    else:
        click.echo(f"no worker serves {name!r} now. Start one with: fuseline worker {arguments}", err=True)


def _present(broker: LocalBroker, workflow_id: str) -> list[WorkerInfo]:
    """Return the workers that take runs of a workflow."""
    workers = broker.status().workers
    return [worker for worker in workers if workflow_id in worker.workflows and not worker.is_missing]

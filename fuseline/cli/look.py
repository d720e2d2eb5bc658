"""The commands that look: ``runs``, ``show``, ``story``. They unpickle as little as they can."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any

import click
from rich.text import Text

from fuseline.broker.info import run_result
from fuseline.broker.local import LocalBroker
from fuseline.broker.wire import BrokerStatus
from fuseline.cli.consoles import make_console
from fuseline.cli.stores import find_run, find_step, no_store_yet, open_store, store_path
from fuseline.cli.tables import STATE_STYLES, Column, table_lines
from fuseline.cli.text import as_json, plural, printable, short_repr
from fuseline.cli.times import ago, clock, duration
from fuseline.cli.traces import error_lines, failure_of, reason_of, summary, without_whom
from fuseline.encoding import decode
from fuseline.records import Move, RunRecord, StepRecord
from fuseline.scheduler.plan import timeout_cause
from fuseline.states import State

__all__ = ["list_runs", "show_run", "tell_story"]

#: Characters of the ``repr`` of an input or result.
_REPR = 300


def list_runs(*, state: str | None, workflow: str | None, count: int, store: str | None, use_json: bool) -> int:
    """Print the newest runs, the newest first."""
    path = store_path(store)
    if no_store_yet(path):
        return 0
    with open_store(store) as broker:
        records = _newest(broker, state, workflow, count)
        status = broker.status()
    total = sum(status.counts.values())
    if use_json:
        for record in records:
            click.echo(json.dumps(_run_as_data(record)))
        return 0
    if not records:
        click.echo("there are no such runs." if state or workflow else "there are no runs.", err=True)
        return 0
    _print_table(_run_columns(records, time.time(), _served(status)))
    if len(records) == count < total and not (state or workflow):
        click.echo(f"({count:,} of {plural(total, 'run')}; -n shows more)", err=True)
    return 0


def show_run(prefix: str, step: str | None, *, store: str | None, use_json: bool) -> int:
    """Print how a run and its steps stand, or one of its steps with all that is known of its error."""
    with open_store(store) as broker:
        record = broker.record(find_run(broker, prefix))
        served = _served(broker.status())
        if step is not None:
            find_step(record, step)
            return _show_step(record, step, broker.get_output(record.instance_id, step), use_json=use_json)
    succeeded = record.state is State.SUCCEEDED
    result = _loaded(partial(run_result, record), plain=use_json) if succeeded else None
    inputs = {name: _loaded(partial(decode, value), plain=use_json) for name, value in record.inputs.items()}
    if use_json:
        steps = {name: _step_as_data(record, name) for name in record.steps}
        click.echo(json.dumps({**_run_as_data(record), "inputs": inputs, "result": result, "step_states": steps}))
        return 0
    console = make_console()
    now = time.time()
    console.print(Text.assemble("run ", (record.instance_id, "bold"), " of workflow ", printable(record.workflow)))
    for label, value in _facts(record, inputs, result, now, served):
        style = STATE_STYLES.get(value.split(" ")[0], "") if label == "state" else ""
        console.print(Text.assemble((f"  {label:<9}", "dim"), (value, style)))
    console.print()
    _print_table(_step_columns(record, now))
    for name in record.failed[:3]:
        console.print()
        for line in error_lines(record, name):
            console.print(Text(line))
    return 0


def _show_step(record: RunRecord, name: str, output: str, *, use_json: bool) -> int:
    known = find_step(record, name)
    trace = known.error.traceback if known.error else ""
    if use_json:
        rest = {"traceback": trace, "output": output}
        click.echo(json.dumps({"run": record.instance_id, "step": name, **_step_as_data(record, name), **rest}))
        return 0
    console = make_console()
    console.print(Text.assemble("step ", (printable(name), "bold"), " of run ", record.instance_id))
    facts = {
        "state": known.state.value,
        "attempts": str(known.attempts),
        "took": _took(known, time.time()),
        "cause": printable(known.cause),
        "error": "" if known.error is None or trace else printable(summary(known.error)),
    }
    for label, value in facts.items():
        if value:
            console.print(Text.assemble((f"  {label:<9}", "dim"), value))
    for label, text in (("", trace), ("output of the last attempt", output)):
        if text:
            console.print(Text(f"\n{label}".rstrip(), "dim"))
            console.print(Text("\n".join(map(printable, text.rstrip().split("\n")))))
    return 0


def tell_story(prefix: str, step: str | None, *, store: str | None, use_json: bool) -> int:
    """Print every move of a run, or of one of its steps."""
    with open_store(store) as broker:
        record = broker.record(find_run(broker, prefix))
        moves = broker.story(record.instance_id)
    if step is not None:
        find_step(record, step)
    moves = [move for move in moves if step is None or move.step_name == step]
    if use_json:
        for move in moves:
            click.echo(json.dumps(_move_as_data(move)))
        return 0
    console = make_console()
    console.print(Text.assemble("run ", (record.instance_id, "bold"), " of workflow ", printable(record.workflow)))
    console.print(Text(f"created {clock(record.created)} ({ago(record.created)})\n", "dim"))
    _print_table(_move_columns(moves, record))
    return 0


# -- finding ----------------------------------------------------------------------------------------------------------


def _newest(broker: LocalBroker, state: str | None, workflow: str | None, count: int) -> list[RunRecord]:
    """Return up to ``count`` runs, the newest first; ``workflow`` is a name, or a name and version."""
    wanted = State(state) if state else None
    limit = None if workflow else count
    records = broker.records(state=wanted, limit=limit)
    if workflow:
        records = [record for record in records if workflow in (record.workflow, record.workflow_id)][-count:]
    return records[::-1]


# -- tables -----------------------------------------------------------------------------------------------------------


def _print_table(columns: Sequence[Column]) -> None:
    console = make_console()
    for line in table_lines(columns, console.width):
        console.print(line)


def _state_column(states: Sequence[str]) -> Column:
    return Column(title="state", cells=states, style=lambda cell: STATE_STYLES.get(cell.split(" ")[0], ""))


def _run_columns(records: Sequence[RunRecord], now: float, served: Set[str]) -> list[Column]:
    return [
        Column(title="run", cells=[record.instance_id for record in records]),
        Column(title="workflow", cells=[record.workflow for record in records], least=8, rank=1),
        _state_column([_state(record, served) for record in records]),
        Column(title="steps", cells=[_steps(record) for record in records], rank=4, right=True),
        Column(title="created", cells=[ago(record.created, now) for record in records], rank=3, right=True),
        Column(title="took", cells=[_run_took(record, now, served) for record in records], rank=5, right=True),
        Column(title="reason", cells=[reason_of(record) for record in records], least=24, rank=2),
    ]


def _step_columns(record: RunRecord, now: float) -> list[Column]:
    steps = record.steps.values()
    return [
        Column(title="step", cells=list(record.steps), least=10),
        _state_column([step.state.value for step in steps]),
        Column(title="attempts", cells=[str(step.attempts) for step in steps], rank=3, right=True),
        Column(title="took", cells=[_took(step, now) for step in steps], rank=2, right=True),
        Column(title="why", cells=[_why(step, now) for step in steps], least=16, rank=1),
    ]


def _move_columns(moves: Sequence[Move], record: RunRecord) -> list[Column]:
    days = {clock(move.at).split(" ")[0] for move in moves} | {clock(record.created).split(" ")[0]}
    times = [clock(move.at, date=False) for move in moves]
    if len(days) > 1:
        times = [f"{clock(move.at).split(' ')[0]} {at}" for move, at in zip(moves, times, strict=True)]
    least = 10 if len(days) == 1 else 4  # dates need the room
    return [
        Column(title="time", cells=times),
        Column(title="what", cells=["the run" if m.step_name is None else m.step_name for m in moves], least=least),
        _state_column([move.state.value for move in moves]),
        Column(title="attempt", cells=[str(move.attempt or "") for move in moves], rank=2, right=True),
        Column(title="cause", cells=[_cause(move) for move in moves], least=12, rank=1),
    ]


def _cause(move: Move) -> str:
    """Return why a move was made, or who was given the step."""
    return f"given to worker {move.worker_id}" if move.worker_id else without_whom(move.cause)


def _steps(record: RunRecord) -> str:
    done = sum(step.state in (State.SUCCEEDED, State.SKIPPED) for step in record.steps.values())
    return f"{done}/{len(record.steps)}"


def _served(status: BrokerStatus) -> Set[str]:
    """Return the ids of the workflows that somebody works on."""
    return {name for worker in status.workers if not worker.is_missing for name in worker.workflows}


def _state(record: RunRecord, served: Set[str]) -> str:
    """Return the state of a run, with a word about one that was left in the middle."""
    return f"{record.state.value} (no worker)" if _is_left(record, served) else record.state.value


def _is_left(record: RunRecord, served: Set[str]) -> bool:
    return record.state is State.RUNNING and record.workflow_id not in served


def _run_took(record: RunRecord, now: float, served: Set[str]) -> str:
    """Return how long a run took so far; the time of one that was left stands still."""
    steps = record.steps.values()
    if _is_left(record, served) and not any(step.state is State.RUNNING for step in steps):
        now = max((step.finished for step in steps if step.finished is not None), default=record.started or now)
    return _took(record, now)


def _took(what: RunRecord | StepRecord, now: float) -> str:
    """Return how long a run, or the last attempt of a step, took so far."""
    seconds = _seconds(what, now)
    return "" if seconds is None else duration(seconds)


def _seconds(what: RunRecord | StepRecord, now: float) -> float | None:
    if what.started is None or (what.finished is None and what.state is not State.RUNNING):
        return None
    return (now if what.finished is None else what.finished) - what.started


def _why(step: StepRecord, now: float) -> str:
    """Return what can be said about the state of a step."""
    if step.state is State.SUCCEEDED:
        return ""
    error = without_whom(summary(step.error) if step.error else step.cause)
    if step.state is State.RETRYING and step.due is not None:
        return f"next attempt in {duration(step.due - now)}: {error}"
    return error


def _facts(
    record: RunRecord, inputs: Mapping[str, str], result: str | None, now: float, served: Set[str]
) -> list[tuple[str, str]]:
    """Return labels and texts of what is known of a run."""
    facts = [("state", _state(record, served) + (" (its end was asked for)" if _is_stopping(record) else ""))]
    if record.workflow_id != record.workflow:
        facts.append(("id", printable(record.workflow_id)))
    facts.append(("created", f"{clock(record.created)} ({ago(record.created, now)})"))
    if record.timed_out is not None:
        facts.append(("reason", timeout_cause(record.timed_out)))
    if took := _run_took(record, now, served):
        facts.append(("took", took))
    label = "inputs"
    for name, value in inputs.items():
        facts.append((label, f"{name} = {value}"))
        label = ""
    if result is not None:
        facts.append(("result", result))
    return facts


def _is_stopping(record: RunRecord) -> bool:
    return record.cancelled and not record.state.is_settled


# -- values -----------------------------------------------------------------------------------------------------------


def _loaded(load: Callable[[], Any], *, plain: bool) -> Any:
    """Return the ``repr`` of what ``load`` returns; if ``plain``, what JSON makes of it where it can.

    Classes of the user's may not be importable in this process, which knows nothing of his modules.
    """
    try:
        value = load()
    except Exception as error:
        return printable(f"(cannot be loaded here: {type(error).__name__}: {error})")
    if plain:
        try:
            return json.loads(as_json(value))
        except (TypeError, ValueError, RecursionError):
            pass
    return short_repr(value, _REPR)


# -- for programs -----------------------------------------------------------------------------------------------------


def _run_as_data(record: RunRecord) -> dict[str, Any]:
    return {
        "run": record.instance_id,
        "workflow": record.workflow,
        "workflow_id": record.workflow_id,
        "state": record.state,
        "steps_done": sum(step.state in (State.SUCCEEDED, State.SKIPPED) for step in record.steps.values()),
        "steps": len(record.steps),
        "created": record.created,
        "started": record.started,
        "finished": record.finished,
        "error": failure_of(record) if record.failed or record.timed_out is not None else None,
    }


def _step_as_data(record: RunRecord, name: str) -> Mapping[str, Any]:
    step = record.steps[name]
    return {
        "state": step.state,
        "attempts": step.attempts,
        "started": step.started,
        "finished": step.finished,
        "error": summary(step.error) if step.error else None,
        "cause": step.cause,
    }


def _move_as_data(move: Move) -> Mapping[str, Any]:
    return {
        "at": move.at,
        "step": move.step_name,
        "state": move.state,
        "attempt": move.attempt,
        "cause": move.cause,
        "worker": move.worker_id,
    }

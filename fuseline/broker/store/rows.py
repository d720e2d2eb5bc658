"""Rows of the tables: made of runs, and made into records again.

A value in a file is known to the store by the name of the file, and to all others by its path, so that a store can be
moved.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fuseline.broker.store.changes import Moment
from fuseline.records import RunRecord, StepRecord
from fuseline.scheduler.plan import timeout_cause, workflow_timeout
from fuseline.scheduler.run import Run
from fuseline.schema import WorkflowSchema
from fuseline.states import State
from fuseline.values import ErrorInfo, Value

__all__ = [
    "OUTPUT_COLUMNS",
    "RUN_COLUMNS",
    "STEP_COLUMNS",
    "Claims",
    "changed_run_row",
    "end_cause",
    "move_tables",
    "packed_inputs",
    "place_of",
    "places_of",
    "run_record",
    "run_row",
    "step_tables",
]

RUN_COLUMNS = (
    "number, instance_id, workflow, state, cancelled, started_by, start_token, inputs, created, started, finished"
)
_PLAIN_STEP_COLUMNS = "place, state, attempts, restarts, result, cause, started, finished, unwanted"
STEP_COLUMNS = f"{_PLAIN_STEP_COLUMNS}, failures, error, due"
OUTPUT_COLUMNS = "run, step, attempt, text"
_PLAIN_MOVE_COLUMNS = "run, seq, step, state, attempt, cause, at"
_CLAIM_COLUMNS = f"{_PLAIN_MOVE_COLUMNS}, token, worker_id"
#: A step's row is found by one number: that of its run, shifted, and its own.
_SHIFT = 24
#: In the column ``cancelled``, besides 0 and 1: the run has had its time.
_TIMED_OUT = 2

_pack = msgspec.msgpack.encode
_unpack_inputs = msgspec.msgpack.Decoder(dict[str, Value]).decode
_unpack_error = msgspec.msgpack.Decoder(ErrorInfo).decode
_unpack_failures = msgspec.msgpack.Decoder(dict[int, int]).decode


def place_of(run: Run, step: int) -> int:
    """Return the key of the row of a step."""
    return (run.number << _SHIFT) + step


def places_of(number: int) -> tuple[int, int]:
    """Return the first and the last key that rows of this run's steps can have."""
    return number << _SHIFT, ((number + 1) << _SHIFT) - 1


# -- to the store -----------------------------------------------------------------------------------------------------
# ``epoch`` is what to add to the seconds of a run to get seconds since the epoch.


def run_row(run: Run, workflow: int, epoch: float) -> tuple[Any, ...]:
    """Return the row of a new run, whose workflow has this key."""
    return (
        run.number,
        run.instance_id,
        workflow,
        run.state,
        _ended_by(run),
        run.started_by,
        run.start_token,
        packed_inputs(run),
        run.created + epoch,
        _shifted(run.started, epoch),
        _shifted(run.finished, epoch),
    )


def changed_run_row(run: Run, epoch: float) -> tuple[Any, ...]:
    """Return what may change of a run: state, cancelled, started_by, start_token, started, finished; its number."""
    started, finished = _shifted(run.started, epoch), _shifted(run.finished, epoch)
    return (run.state, _ended_by(run), run.started_by, run.start_token, started, finished, run.number)


def _ended_by(run: Run) -> int:
    return _TIMED_OUT if run.timed_out else int(run.cancelled)


def end_cause(cancelled: int, schema: WorkflowSchema) -> str:
    """Return why a run with this in its row has ended, where its state does not say it."""
    return timeout_cause(workflow_timeout(schema)) if cancelled == _TIMED_OUT else ""


def packed_inputs(run: Run) -> bytes:
    """Return the inputs of a run as a column."""
    inputs = run.inputs.items()
    return _pack({name: Value(file=os.path.basename(value.file)) if value.file else value for name, value in inputs})


# Most rows are of steps that have succeeded, and of their moves. ``sqlite3`` looks for an adapter for each value that
# is not exactly an int, a float or a str (None, say, or a State), which takes longer than to write it. So the rows have
# few such values: a column that would be NULL is left out. (Where a row takes the place of another, it is NULL then.)


def step_tables(steps: Mapping[tuple[Run, int], Value | None], epoch: float) -> Mapping[str, Sequence[tuple[Any, ...]]]:
    """Return the rows of steps, ``{(run, step): its result}``, by their columns."""
    plain: list[tuple[Any, ...]] = []
    others: list[tuple[Any, ...]] = []
    for (run, step), result in steps.items():
        failures, error, due = run.failures.get(step), run.errors.get(step), run.due.get(step)
        row = (
            place_of(run, step),
            str(run.states[step]),
            run.attempts[step],
            run.restarts.get(step, 0),
            None if result is None else os.path.basename(result.file) if result.file else result.data,
            run.causes.get(step, ""),
            _shifted(run.step_started.get(step), epoch),
            _shifted(run.step_finished.get(step), epoch),
            1 if step in run.unwanted else 0,
        )
        if failures or error is not None or due is not None:
            packed = (_pack(failures) if failures else None, None if error is None else _pack(error))
            others.append((*row, *packed, _shifted(due, epoch)))
        else:
            plain.append(row)
    return {_PLAIN_STEP_COLUMNS: plain, STEP_COLUMNS: others}


def move_tables(moves: Sequence[Moment], first: int, epoch: float) -> Mapping[str, Sequence[tuple[Any, ...]]]:
    """Return the rows of moves by their columns. The number of the first in the order of all is ``first``."""
    plain: list[tuple[Any, ...]] = []
    claims: list[tuple[Any, ...]] = []
    for seq, move in enumerate(moves, first):
        row = (move.run.number, seq, move.step_name, str(move.state), move.attempt, move.cause, move.at + epoch)
        if move.token is None:
            plain.append(row)
        else:
            claims.append((*row, move.token, move.worker_id))
    return {_PLAIN_MOVE_COLUMNS: plain, _CLAIM_COLUMNS: claims}


def _shifted(moment: float | None, by: float) -> float | None:
    return None if moment is None else moment + by


# -- from the store ---------------------------------------------------------------------------------------------------


class Claims(NamedTuple):
    """What only the moves of a run say: that a step was handed out is not written anywhere else."""

    #: (step, attempt, token, worker_id, at) of each step that was handed out, and nothing since then
    live: Sequence[Sequence[Any]] = ()
    started: float | None = None  #: when the first one was handed out, since the run was dispatched or resumed
    started_by: str | None = None  #: and to whom
    start_token: int | None = None  #: and which token it had
    spent: float | None = None  #: seconds in which the run was worked on since then, as far as its moves tell


def run_record(
    row: Sequence[Any], step_rows: Iterable[Sequence[Any]], claims: Claims, schema: WorkflowSchema, folder: Path
) -> RunRecord:
    """Return the record of a run.

    Args:
        folder: of the files of values.
    """
    number, instance_id, _, state, cancelled, started_by, start_token, inputs, created, started, finished = row
    names = [step.name for step in schema.steps]
    steps = dict.fromkeys(names, StepRecord(state=State.PENDING))
    first, _ = places_of(number)
    for step_row in step_rows:
        steps[names[step_row[0] - first]] = _step_record(step_row, folder)
    for name, attempt, token, worker_id, at in claims.live:
        if name in steps:
            steps[name] = msgspec.structs.replace(
                steps[name], state=State.RUNNING, attempts=attempt, token=token, worker_id=worker_id, started=at
            )
    failed = [name for name, step in steps.items() if step.state is State.FAILED]
    if finished is None:
        started = started or claims.started
        if start_token is None:
            started_by, start_token = claims.started_by, claims.start_token
        state = State.PENDING if started is None else State.RUNNING
    return RunRecord(
        instance_id=instance_id,
        number=number,
        workflow_id=schema.workflow_id,
        workflow=schema.name,
        outputs=schema.outputs,
        state=State(state),
        cancelled=cancelled == 1,
        inputs={name: _located(value, folder) for name, value in _unpack_inputs(inputs).items()},
        steps=steps,
        failed=tuple(sorted(failed, key=lambda name: steps[name].finished or 0.0)),
        started_by=started_by,
        start_token=start_token,
        created=created,
        started=started,
        finished=finished,
        spent=claims.spent,
        timed_out=workflow_timeout(schema) if cancelled == _TIMED_OUT else None,
    )


def _step_record(row: Sequence[Any], folder: Path) -> StepRecord:
    _, state, attempts, restarts, result, cause, started, finished, unwanted, failures, error, due = row
    value = None
    if result is not None:
        value = _located(Value(file=result), folder) if isinstance(result, str) else Value(result)
    return StepRecord(
        state=State(state),
        attempts=attempts,
        restarts=restarts,
        failures={} if failures is None else _unpack_failures(failures),
        result=value,
        error=None if error is None else _unpack_error(error),
        cause=cause,
        started=started,
        finished=finished,
        due=due,
        unwanted=bool(unwanted),
    )


def _located(value: Value, folder: Path) -> Value:
    return Value(file=str(folder / value.file)) if value.file else value

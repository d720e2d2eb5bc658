"""What became of runs: results on standard output; errors, and how to go on, on standard error."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import click

from fuseline.broker.info import run_result
from fuseline.cli.app import complain
from fuseline.cli.streams import fresh
from fuseline.cli.text import LONG, as_json, as_line, beginning, plural, printable, short_repr
from fuseline.cli.times import duration
from fuseline.cli.traces import error_lines, failure_of, reason_of
from fuseline.records import RunRecord
from fuseline.states import State

__all__ = ["Outcomes"]

#: Characters of a result on a terminal; of a file or another program, it gets all.
_TERMINAL = 2_000
#: Lines of it, likewise.
_LINES = 50
#: Failed runs whose errors are shown; they are often the same.
_SHOWN = 3


class Outcomes:
    """Prints what became of runs, one after the other, in the order in which they were dispatched.

    Args:
        target: ``MODULE:WORKFLOW``, as it was typed.
        store: what to add to a command so that it uses the same store.
        out: where results go.
        use_json: whether to print a JSON object for each run, in place of its result.
        several: whether there may be several runs, so that each gets one line: in a file, an empty one if it has no
            result.
        places: where the inputs of each run were found, ``"line 3 of runs.jsonl"``; empty if that need not be said.
        attempts: ``{step: tries}`` before this command, of a run that is resumed.
    """

    def __init__(
        self,
        target: str,
        store: str,
        out: TextIO,
        *,
        use_json: bool,
        several: bool,
        attempts: Mapping[str, int] | None = None,
        places: Sequence[str] = ("",),
    ) -> None:
        self._target = shlex.quote(target)
        self._store = store
        self._out = out
        self._is_cut = False
        self._use_json = use_json
        self._several = several
        self._attempts = attempts or {}
        self._places = iter(places)
        self._started = time.monotonic()
        self._states: Counter[State] = Counter()
        self._steps: Counter[State] = Counter()
        self._retries = 0
        self._unloadable = 0
        self._last: RunRecord | None = None

    def show(self, record: RunRecord) -> None:
        """Print one run."""
        self._count(record)
        place = next(self._places, "")
        if record.state is State.FAILED and self._states[State.FAILED] <= _SHOWN:
            _show_failure(record, place)
        result: Any = None
        has_result = record.state is State.SUCCEEDED
        if has_result:
            try:
                result = run_result(record)
            except Exception as error:  # the class of an object may not be importable here
                has_result = False
                self._unloadable += 1
                why = f"{type(error).__name__}: {error}"
                complain(f"the result of run {record.instance_id} cannot be loaded here ({why}).")
        if self._use_json:
            self._emit(_as_object(record, result, has_result))
        elif has_result:
            self._emit(self._as_text(result))
        elif self._several and not self._out.isatty():
            self._emit("")

    def _as_text(self, result: Any) -> str:
        """Return a result as a program gets it; on a terminal, the beginning of one that would fill it."""
        ascii_only = not (self._out.encoding or "utf-8").lower().startswith("utf")
        text = as_line(result, one_line=self._several, ascii_only=ascii_only)
        if not self._out.isatty() or beginning(text, _TERMINAL, _LINES) == text:
            return text
        self._is_cut = True
        return beginning(text, _TERMINAL, _LINES) if isinstance(result, str) else short_repr(result, _TERMINAL)

    def _emit(self, line: str) -> None:
        """Print a line of results: for a program as it is, for a terminal without what that would obey."""
        line = printable(line) if self._out.isatty() else line
        click.echo(line, file=self._out, color=True)  # else click would take out colours

    def _count(self, record: RunRecord) -> None:
        self._last = record
        self._states[record.state if record.state.is_settled else State.PENDING] += 1
        for name, step in record.steps.items():
            self._steps[step.state] += 1
            self._retries += max(0, step.attempts - self._attempts.get(name, 0) - step.restarts - 1)

    def finish(self, *, is_left_to_workers: bool = False) -> None:
        """Print a line about all of it, and what can be done about runs that failed or have not ended.

        Args:
            is_left_to_workers: whether runs that have not ended go on without this command.
        """
        self._out.flush()
        if self._is_cut:
            self._say("(A long result is cut here; into a file or another program it comes whole.)")
        record = self._last
        if record is None:
            return
        if is_left_to_workers and (waiting := self._states[State.PENDING]):
            goes = "the run goes" if waiting == 1 else f"{waiting:,} runs go"
            goes = f"{fresh(sys.stderr)}no longer waiting; {goes}"
            self._say(f"{goes} on with the workers. Look with: fuseline runs{self._store}")
            if waiting == self._states.total():
                return
        retried = f", {self._retries:,} {'retry' if self._retries == 1 else 'retries'}" if self._retries else ""
        seconds = duration(time.monotonic() - self._started)
        if self._several:
            self._say(f"{printable(record.workflow)}: {self._ends()}{retried}, {seconds}")
            self._show_ways_on(is_left_to_workers)
            return
        done = self._steps[State.SUCCEEDED] + self._steps[State.SKIPPED]
        steps = f"{done} of {plural(self._steps.total(), 'step')}{retried}, {seconds}"
        end = record.state if record.state.is_settled else "interrupted"
        self._say(f"{printable(record.workflow)}: {end}, {steps} (run {record.instance_id})")
        self._show_way_on(record)

    def _ends(self) -> str:
        names = {State.SUCCEEDED: "succeeded", State.FAILED: "failed", State.CANCELLED: "cancelled"}
        ends = [f"{self._states[state]:,} {name}" for state, name in names.items() if self._states[state]]
        if self._states[State.PENDING]:
            ends.append(f"{self._states[State.PENDING]:,} not ended")
        return f"{plural(self._states.total(), 'run')}, {', '.join(ends)}"

    def _show_way_on(self, record: RunRecord) -> None:
        """Say what can be done about the one run."""
        resume = f"fuseline resume {record.instance_id} {self._target}{self._store}"
        if record.state is State.FAILED:
            self._say(f"  what happened:  fuseline story {record.instance_id}{self._store}")
            if record.failed:  # not so if it took too long
                step = shlex.quote(record.failed[0])
                self._say(f"  the error:      fuseline show {record.instance_id} {step}{self._store}")
        if record.state in (State.FAILED, State.CANCELLED):
            self._say(f"  try again:      {resume}")
        elif not record.state.is_settled:
            self._say(f"The run stays in the store. Go on with: {resume}")

    def _show_ways_on(self, is_left_to_workers: bool) -> None:
        """Say what can be done about several."""
        failed, waiting = self._states[State.FAILED], self._states[State.PENDING]
        if failed > _SHOWN:
            self._say(f"(Only the first {_SHOWN} failures are shown.)")
        if failed:
            self._say(f"  list them:   fuseline runs --state failed{self._store}")
            self._say(f"  try again:   fuseline resume RUN {self._target}{self._store}")
        if waiting and not is_left_to_workers:
            command = f"fuseline worker {self._target} --until-done{self._store}"
            self._say(f"What has not ended stays in the store. Go on with: {command}")

    def _say(self, line: str) -> None:
        click.echo(line, err=True)

    @property
    def code(self) -> int:
        """The exit code that the runs amount to."""
        return 0 if self._states[State.SUCCEEDED] - self._unloadable == self._states.total() else 1


def _show_failure(record: RunRecord, place: str) -> None:
    where = f", {printable(place)}," if place else ""
    click.echo(f"run {record.instance_id} of workflow {record.workflow!r}{where} failed:", err=True)
    if record.timed_out is not None:
        click.echo(f"  {reason_of(record)}", err=True)
    for line in error_lines(record, record.failed[0]) if record.failed else ():
        click.echo(f"  {line}", err=True)


def _as_object(record: RunRecord, result: Any, has_result: bool) -> str:
    """Return a run as a line of JSON. A result that JSON cannot hold is there as its ``repr``."""
    plain: dict[str, Any] = {"run": record.instance_id, "workflow": record.workflow, "state": record.state}
    if record.state is State.FAILED:
        plain["error"] = failure_of(record)
    if not has_result:
        return json.dumps(plain)
    try:
        return as_json({**plain, "result": result})
    except (TypeError, ValueError, RecursionError):
        return json.dumps({**plain, "repr": short_repr(result, LONG)})

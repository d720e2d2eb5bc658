"""What every broker does, and the client's half of it: making bytes of the user's values before they reach a broker.

::

    dispatcher ── dispatch_workflow(schema, inputs) ──▶ broker ◀── register_worker(schemas) ── worker
                                                        broker ◀── get_steps(limit) ────────── worker ⟲
                                                        broker ◀── report_step(report) ─────── worker ⟲
    anybody ───── get_run, result, events, cancel ────▶ broker

A broker never runs user code and never unpickles a user's value; ``get_run`` and ``result`` do, in the asking program.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import msgspec

from fuseline.encoding import encode_checked, encode_error
from fuseline.errors import NotPicklableError, WorkflowError
from fuseline.messages import (
    FailureDecision,
    Notice,
    Payload,
    ReportAnswer,
    RunInfo,
    StepAssignment,
    StepReport,
)
from fuseline.schema import WorkflowSchema
from fuseline.states import State
from fuseline.values import ErrorInfo, Value
from fuseline.workplace import Workplace

__all__ = ["Broker", "EventStream", "RunEvent", "Traded", "Waitable", "encode_inputs", "encode_report"]

#: What a worker may report.
REPORTABLE = frozenset({State.SUCCEEDED, State.FAILED, State.SKIPPED, State.CANCELLED, State.READY})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """A step, or a run, went to another state."""

    instance_id: str
    state: State
    step_name: str | None = None  #: None where it is about the run
    attempt: int | None = None  #: 1 for the first try; None where it is about the run
    cause: str = ""  #: why, where the state does not say it
    at: float  #: seconds since the epoch


class Traded(NamedTuple):
    """What a broker gives for reports and room."""

    answers: Sequence[ReportAnswer]  #: to the reports, this call's and those before, in their order
    assignments: Sequence[StepAssignment]


class EventStream(ABC):
    """Events as they happen. Iterate over it, in a ``with`` statement or until ``close()``."""

    @abstractmethod
    def next_event(self, timeout: float | None = None) -> RunEvent | None:
        """Return the next event; wait for it up to ``timeout`` seconds (None: for ever).

        Returns:
            None when the time is up or the stream has ended.
        """

    @abstractmethod
    def close(self) -> None:
        """End the stream; an iteration in another thread ends too. May be called twice."""

    def __iter__(self) -> Iterator[RunEvent]:
        while (event := self.next_event()) is not None:
            yield event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Waitable(Protocol):
    """Something a selector can wait for."""

    def fileno(self) -> int: ...

    def clear(self) -> None: ...


class Broker(ABC):
    """Owns runs. All methods may be called from any thread, and none waits for a run unless it takes a timeout."""

    @property
    def workplace(self) -> Workplace | None:
        """What the broker asks of processes that run steps for this program; None if nothing."""
        return None

    # -- dispatching --------------------------------------------------------------------------------------------------

    @abstractmethod
    def dispatch_workflow(self, schema: WorkflowSchema, inputs: Mapping[str, Any] | None = None) -> str:
        """Create a run and return its ``instance_id``.

        Args:
            inputs: ``{parameter: value}``.

        Raises:
            WorkflowError: the inputs do not fit (``UnboundParameterError``, ``UnknownInputError``), the schema is none,
                or it is a changed version of one in use (``WorkflowChangedError``).
            NotPicklableError: an input cannot be pickled.
        """

    def dispatch_many(self, schema: WorkflowSchema, inputs: Iterable[Mapping[str, Any] | None]) -> list[str]:
        """Create a run for each of ``inputs`` and return their ids in the same order. Raises like the above; runs
        created before the error stay.

        An iterator (what has no length) is read as fast as workers take runs away, if there are any in other threads
        or programs, once 100,000 steps wait, or 100 runs; if no run ends for ten seconds, it is read on.
        """
        return [self.dispatch_workflow(schema, each) for each in inputs]

    # -- working ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def register_worker(self, schemas: Iterable[WorkflowSchema]) -> str:
        """Announce a worker that can run the steps of these workflows, and return its ``worker_id``.

        Raises:
            WorkflowChangedError: one of them differs from what the broker knows by the same id.
        """

    @abstractmethod
    def unregister_worker(self, worker_id: str) -> None:
        """Say goodbye: the worker runs nothing any more, and what it still held is given to others."""

    @abstractmethod
    def get_steps(self, worker_id: str, limit: int) -> Sequence[StepAssignment]:
        """Return up to ``limit`` steps for this worker to run, or none if nothing is ready.

        Raises:
            UnknownWorkerError: there is no such worker.
        """

    @abstractmethod
    def get_step(self, worker_id: str, timeout: float | None = 0.0) -> StepAssignment | None:
        """Return a step for this worker to run; wait for one up to ``timeout`` seconds (None: for ever).

        Returns:
            None if nothing is ready by then.

        Raises:
            UnknownWorkerError: there is no such worker.
        """

    @abstractmethod
    def report_step(self, worker_id: str, report: StepReport) -> ReportAnswer:
        """Say how an assignment ended. A late or repeated report changes nothing and is answered STALE.

        A result that cannot be pickled makes the report one of failure.

        Raises:
            WorkflowError: the report's state is not one that an assignment can end with.
            UnknownWorkerError: there is no such worker.
        """

    def report_steps(self, worker_id: str, reports: Sequence[StepReport]) -> Sequence[ReportAnswer]:
        """Report several assignments, and return the answers in the same order. Raises like the above."""
        return [self.report_step(worker_id, report) for report in reports]

    def trade(self, worker_id: str, reports: Sequence[StepReport], room: int) -> Traded:
        """Report assignments, and ask for up to ``room`` more: what the loop of an engine does in each of its turns.

        Raises like ``report_step``. A broker in another process may leave answers and steps for later calls: ``news``
        becomes readable when they are there, and steps may come as long as the last call had room for them.
        """
        answers = self.report_steps(worker_id, reports) if reports else ()
        return Traded(answers, self.get_steps(worker_id, room) if room else ())

    def allow_chains(self, worker_id: str) -> None:  # noqa: B027 - a broker may do nothing about it
        """Let this worker have steps together with those that they follow (``StepAssignment.follows``).

        A broker that can do so saves it the way back and forth for each step of a chain.
        """

    @abstractmethod
    def keep_alive(self, worker_id: str) -> Sequence[Notice]:
        """Say that the worker is alive; return what it should know since the last call.

        Nothing about an assignment comes before the assignment itself.

        Raises:
            UnknownWorkerError: there is no such worker.
        """

    @abstractmethod
    def unsettled(self, worker_id: str) -> int:
        """Return how many runs that this worker can serve have not ended, waiting retries included."""

    @abstractmethod
    def next_due(self, worker_id: str) -> float | None:
        """Return in how many seconds a retry may be ready for this worker; None if nobody knows of one."""

    def next_deadline(self) -> float | None:
        """Return in how many seconds ``keep_alive`` must be called, because a run has had its time then; None if never.

        A broker that ends runs by itself, the default, needs no call.
        """
        return None

    @abstractmethod
    def news(self, worker_id: str) -> Waitable:
        """Return what becomes readable when it is worth calling ``keep_alive`` and ``get_steps`` again."""

    # -- asking -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def get_run(self, instance_id: str) -> RunInfo:
        """Return how a run stands. Unpickles its inputs and errors.

        Raises:
            UnknownRunError: there is none of this id.
        """

    @abstractmethod
    def list_runs(self, *, workflow_id: str | None = None, state: State | None = None) -> list[RunInfo]:
        """Return the runs, oldest first; only those of a workflow, or in a state, if one is named."""

    @abstractmethod
    def result(self, instance_id: str, timeout: float | None = 0.0) -> Any:
        """Return the result of a run, as ``Workflow.run`` would; wait for its end up to ``timeout`` seconds (None: for
        ever).

        Raises:
            RunFailed: a step failed; its own exception is the cause.
            RunCancelled: the run was cancelled.
            RunNotFinished: it has not ended by then.
            UnknownRunError: there is none of this id.
        """

    @abstractmethod
    def get_output(self, instance_id: str, step_name: str, attempt: int | None = None) -> str:
        """Return the end of what an attempt has printed and logged, a hundred thousand bytes at most.

        It is as the step has written it, escape sequences included. Empty if it has printed nothing, if it has not
        ended, or if its executor does not keep what is printed.

        Args:
            attempt: which one, counted from 1; default is the last.

        Raises:
            UnknownRunError: there is no run of this id.
            UnknownStepError: the run has no such step.
        """

    @abstractmethod
    def events(self, instance_id: str | None = None) -> EventStream:
        """Return what happens from now on, in this run or in all. The stream of one run ends when the run does."""

    # -- ending -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def cancel(self, instance_id: str) -> bool:
        """Stop a run: nothing new starts, and what runs is killed where the executor can.

        Returns:
            Whether there was anything to stop: False if the run has ended or was cancelled before.

        Raises:
            UnknownRunError: there is none of this id.
        """

    @abstractmethod
    def forget(self, instance_id: str) -> None:
        """Drop a run that has ended, with its result.

        Raises:
            RunNotFinished: it has not ended; cancel it first.
            UnknownRunError: there is none of this id.
        """


def check_schema(schema: WorkflowSchema) -> WorkflowSchema:
    """Return ``schema``.

    Raises:
        WorkflowError: it is something else.
    """
    if not isinstance(schema, WorkflowSchema):
        raise WorkflowError(
            f"a broker takes a WorkflowSchema, not a {type(schema).__name__}. Call workflow.to_schema()."
        )
    return schema


def encode_inputs(inputs: Mapping[str, Any] | None, place: Workplace | None = None) -> dict[str, Value]:
    """Return the inputs of a run as values.

    Raises:
        NotPicklableError: one cannot be pickled, or not be unpickled; the error names it.
        WorkflowError: ``inputs`` is no mapping of names.
    """
    if inputs is None:
        return {}
    if not isinstance(inputs, Mapping) or not all(isinstance(name, str) for name in inputs):
        raise WorkflowError(f"inputs of a run are a dict {{parameter: value}}, not {inputs!r:.200}.")
    return {str.__str__(name): encode_checked(value, f"the input {name!r}", place) for name, value in inputs.items()}


def encode_report(report: StepReport, payload: Payload | None) -> StepReport:
    """Return ``report`` with result and error encoded.

    A report of a hand-written worker is completed with what ``_execute_step`` left in the payload: the exception and
    what the step's policies decided about it.

    Raises:
        WorkflowError: an assignment cannot end with the report's state.
    """
    if type(report.result) is Value and report.state is State.SUCCEEDED:
        return report
    if report.state not in REPORTABLE:
        raise WorkflowError(
            f"step {report.step_name!r} cannot be reported as {report.state!r}. Use one of "
            f"{', '.join(sorted(REPORTABLE))}."
        )
    if type(report.state) is not State:
        report = msgspec.structs.replace(report, state=State(report.state))  # given as text, by JSON say
    note = None if payload is None else payload.note
    if report.state is State.SUCCEEDED:
        if isinstance(report.result, Value):
            return report
        if note is not None and note.result is report.result and note.report.result is not None:
            return msgspec.structs.replace(report, result=note.report.result)
        try:
            return msgspec.structs.replace(
                report, result=encode_checked(report.result, f"the result of step {report.step_name!r}")
            )
        except NotPicklableError as error:
            return msgspec.structs.replace(report, state=State.FAILED, result=None, error=encode_error(error))
    problem = report.error
    decision: FailureDecision | None = report.decision
    decided_by = report.decided_by
    if problem is None and note is not None:
        problem = note.report.error
        if decision is None and report.state is State.FAILED:
            decision, decided_by = note.report.decision, note.report.decided_by
    if problem is not None and not isinstance(problem, ErrorInfo):
        problem = encode_error(problem)
    return msgspec.structs.replace(report, result=None, error=problem, decision=decision, decided_by=decided_by)

"""Brokers that break a promise each, over one that keeps them."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from fuseline.broker import MemoryBroker
from fuseline.broker.base import EventStream, Traded
from fuseline.messages import Notice, ReportAnswer, ReportStatus, RunInfo, StepAssignment, StepReport
from fuseline.scheduler import TimePassed
from fuseline.schema import WorkflowSchema
from fuseline.states import State
from fuseline.testing import ManualClock
from fuseline.values import ErrorInfo, Value


class LosesARun(MemoryBroker):
    def dispatch_many(self, schema: WorkflowSchema, inputs: Iterable[Mapping[str, Any] | None]) -> list[str]:
        *kept, lost = super().dispatch_many(schema, inputs)
        super().cancel(lost)
        return [*kept, lost]


class ForgetsTheOrder(MemoryBroker):
    """Starts every run before it goes on with one."""

    def get_steps(self, worker_id: str, limit: int) -> Sequence[StepAssignment]:
        many = list(super().get_steps(worker_id, 100))
        many.sort(key=lambda assignment: assignment.step_name)
        for rest in many[limit:]:
            self.report_step(worker_id, _report(rest, State.READY))
        return many[:limit]


class GoesWide(MemoryBroker):
    """Takes what became ready first."""

    def get_steps(self, worker_id: str, limit: int) -> Sequence[StepAssignment]:
        for run in self._scheduler.runs.values():
            if run.ready:
                run.ready.insert(0, run.ready.pop())
        return super().get_steps(worker_id, limit)


class GivesOneAssignmentToTwo(MemoryBroker):
    _again: tuple[StepAssignment, ...] = ()

    def get_steps(self, worker_id: str, limit: int) -> Sequence[StepAssignment]:
        again, self._again = self._again, ()
        found = super().get_steps(worker_id, limit)
        self._again = () if again else tuple(found)
        return found or again[:limit]


class GivesMoreThanAsked(MemoryBroker):
    def get_steps(self, worker_id: str, limit: int) -> Sequence[StepAssignment]:
        return super().get_steps(worker_id, limit + 1)


class ServesEverybody(MemoryBroker):
    """Gives steps of workflows that a worker does not have."""

    _schemas: list[WorkflowSchema] = []

    def register_worker(self, schemas: Iterable[WorkflowSchema]) -> str:
        self._schemas = [*self._schemas, *schemas]
        return super().register_worker({each.workflow_id: each for each in self._schemas}.values())


class NeverWakes(MemoryBroker):
    def get_step(self, worker_id: str, timeout: float | None = 0.0) -> StepAssignment | None:
        found = super().get_step(worker_id)
        if found is None and timeout:
            threading.Event().wait(min(timeout, 0.1))
        return found


class HangsInGetStep(MemoryBroker):
    def get_step(self, worker_id: str, timeout: float | None = 0.0) -> StepAssignment | None:
        return super().get_step(worker_id, None)


class AcceptsStaleReports(MemoryBroker):
    """Takes a report on any attempt as one on the attempt that runs."""

    def report_step(self, worker_id: str, report: StepReport) -> ReportAnswer:
        return super().report_step(worker_id, msgspec.structs.replace(report, token=None))


class CountsAReportTwice(MemoryBroker):
    def report_step(self, worker_id: str, report: StepReport) -> ReportAnswer:
        answer = super().report_step(worker_id, report)
        return msgspec.structs.replace(answer, status=ReportStatus.ACCEPTED)


class LoadsValues(MemoryBroker):
    def report_step(self, worker_id: str, report: StepReport) -> ReportAnswer:
        if isinstance(report.result, Value):
            pickle.loads(report.result.data)
        return super().report_step(worker_id, report)


class RetriesTooEarly(MemoryBroker):
    def get_steps(self, worker_id: str, limit: int) -> Sequence[StepAssignment]:
        self._scheduler.handle(TimePassed(), self._clock() + 1e6)
        return super().get_steps(worker_id, limit)


class NeverRetries(MemoryBroker):
    def get_steps(self, worker_id: str, limit: int) -> Sequence[StepAssignment]:
        return [each for each in super().get_steps(worker_id, limit) if each.attempt == 1]


class KeepsWhatAWorkerHeld(MemoryBroker):
    def unregister_worker(self, worker_id: str) -> None:
        for token in self._scheduler.held_by(worker_id):
            run, step = self._scheduler.assigned(token)
            self._scheduler._release(token)
            run.states[step] = State.RUNNING
        super().unregister_worker(worker_id)


class UsesUpRetriesOfTheDead(MemoryBroker):
    def unregister_worker(self, worker_id: str) -> None:
        for token in self._scheduler.held_by(worker_id):
            run, step = self._scheduler.assigned(token)
            run.failures[step] = {0: 1}
        super().unregister_worker(worker_id)


class RepeatsNotices(MemoryBroker):
    _said: tuple[Notice, ...] = ()

    def keep_alive(self, worker_id: str) -> Sequence[Notice]:
        self._said = (*self._said, *super().keep_alive(worker_id))
        return self._said


class KillsNobody(MemoryBroker):
    def keep_alive(self, worker_id: str) -> Sequence[Notice]:
        super().keep_alive(worker_id)
        return ()


class GoesOnAfterCancel(MemoryBroker):
    def cancel(self, instance_id: str) -> bool:
        return not self._scheduler.run(instance_id).state.is_settled


class ForgetsTooEarly(MemoryBroker):
    def forget(self, instance_id: str) -> None:
        self._scheduler.run(instance_id)
        del self._scheduler.runs[instance_id]


class NeverForgets(MemoryBroker):
    def forget(self, instance_id: str) -> None:
        if not self.get_run(instance_id).state.is_settled:
            super().forget(instance_id)


class HasResultsTooEarly(MemoryBroker):
    def result(self, instance_id: str, timeout: float | None = 0.0) -> Any:
        if not self.get_run(instance_id).state.is_settled:
            return None
        return super().result(instance_id, timeout)


class MixesUpOutputs(MemoryBroker):
    def result(self, instance_id: str, timeout: float | None = 0.0) -> Any:
        found = super().result(instance_id, timeout)
        return sorted(found, key=str) if isinstance(found, list) else found


class ListsNewestFirst(MemoryBroker):
    def list_runs(self, *, workflow_id: str | None = None, state: State | None = None) -> list[RunInfo]:
        return super().list_runs(workflow_id=workflow_id, state=state)[::-1]


class TellsOfOthers(MemoryBroker):
    def events(self, instance_id: str | None = None) -> EventStream:
        stream = super().events(instance_id)
        if instance_id is not None and not self._scheduler.run(instance_id).state.is_settled:
            everything = super().events()
            everything.put = stream._events.append  # type: ignore[attr-defined]
        return stream


class StreamsForEver(MemoryBroker):
    def events(self, instance_id: str | None = None) -> EventStream:
        self.get_run(instance_id) if instance_id else None
        return super().events()


class LosesCauses(MemoryBroker):
    def report_step(self, worker_id: str, report: StepReport) -> ReportAnswer:
        error = ErrorInfo(type_names=("builtins.Exception",), message="failed") if report.error else None
        return super().report_step(worker_id, msgspec.structs.replace(report, error=error))


class NeverTellsOfRetries(MemoryBroker):
    def next_due(self, worker_id: str) -> float | None:
        return None


class LosesOutputs(MemoryBroker):
    def get_output(self, instance_id: str, step_name: str, attempt: int | None = None) -> str:
        return ""


class LosesAStart(MemoryBroker):
    """Does not ask whether anybody has told of the start of what is handed back."""

    def report_steps(self, worker_id: str, reports: Sequence[StepReport]) -> list[ReportAnswer]:
        return super().report_steps(worker_id, [msgspec.structs.replace(each, told=True) for each in reports])


class LosesAnswers(MemoryBroker):
    def trade(self, worker_id: str, reports: Sequence[StepReport], room: int) -> Traded:
        return Traded((), super().trade(worker_id, reports, room).assignments)


class RetriesTooEarlyByHand(RetriesTooEarly):
    """The same where the time is moved by the test."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        super().__init__(clock=self.clock)


def _report(assignment: StepAssignment, state: State) -> StepReport:
    return StepReport(
        workflow_id=assignment.workflow_id,
        instance_id=assignment.instance_id,
        step_name=assignment.step_name,
        token=assignment.token,
        state=state,
    )

"""LocalBroker: a broker in a process of its own, which any number of programs of this user share.

::

    this program ── main link ──────▶ broker process ── store
                 ── a link per worker ─▶
                 ── a link per watcher ▶

The first program that wants a broker starts its process, the others join it. If the process ends, whoever needs it next
starts it again: what is in the store is still there, and what this program's workers run goes on.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fuseline.broker.base import Broker, EventStream, Traded, Waitable, check_schema, encode_inputs
from fuseline.broker.info import run_info, run_result
from fuseline.broker.local_stream import LocalStream
from fuseline.broker.local_worker import LocalWorker
from fuseline.broker.process import BrokerProcess
from fuseline.broker.store.file import Durability, resolve_store
from fuseline.broker.throttle import Throttle
from fuseline.broker.wire import (
    BrokerStatus,
    Cancel,
    CheckStore,
    Dispatch,
    Done,
    FindRuns,
    Forget,
    Found,
    GetLoad,
    GetOutput,
    GetRun,
    GetStatus,
    GetStory,
    ListRuns,
    Load,
    Migrate,
    Prune,
    Removed,
    Resume,
    Runs,
    Story,
)
from fuseline.errors import UnknownRunError, UnknownWorkerError
from fuseline.messages import Notice, ReportAnswer, RunInfo, StepAssignment, StepReport
from fuseline.presence import Presence
from fuseline.records import Move, RunRecord
from fuseline.schema import WorkflowSchema
from fuseline.spool import remove_dead_spools, remove_spools
from fuseline.states import State
from fuseline.values import Value
from fuseline.workplace import Workplace

__all__ = ["LocalBroker"]

#: Seconds between two looks for what children have left that have ended.
_TIDYING = 60.0
#: Runs in one message of ``dispatch_many``, and seconds for which they may be gathered.
_AT_ONCE = 1000
_GATHERING = 1.0
#: Seconds between two looks whether there is room for more runs.
_LOOKING = 0.1


class LocalBroker(Broker):
    """A broker process on this machine, started or joined.

    Use it as a context manager, or ``close`` it. The process ends when the last program has left it.

    Args:
        path: the store, a file that makes runs survive everything; programs that name the same one share a broker.
            Without it, runs are kept in the process alone, and only this program knows of it.
        durability: ``"power"``: what was acknowledged survives a power cut; ``"process"``: it survives the end of any
            process, and a power cut may undo what was acknowledged last.
        keep_for: seconds after its end that a run stays in the store; default is for ever.
        keep_runs: how many runs stay that have ended, the newest; default is all.

    The last three are those of the program that starts the process; who joins it later takes it as it is.

    Raises:
        StoreError: the store cannot be used; the error says why.
        BrokerError: the process cannot be started or reached.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        durability: Durability = "power",
        keep_for: float | None = None,
        keep_runs: int | None = None,
    ) -> None:
        self.path = None if path is None else resolve_store(path)
        self._process = BrokerProcess(self.path, durability, (keep_for, keep_runs))
        self._begin()
        self._numbers = itertools.count(1)
        self._tidy_at = time.monotonic() + _TIDYING
        _brokers.add(self)

    def _begin(self) -> None:
        """Have no part in the work yet. A fork of the program begins like this, too: it is another one."""
        self._lock = threading.RLock()
        self._workers: dict[str, LocalWorker] = {}
        self._streams: weakref.WeakSet[LocalStream] = weakref.WeakSet()
        self._name = os.urandom(6).hex()  #: of this program, among those that work for the broker
        self._presence: Presence | None = None

    # -- beginning and end --------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process of the broker, as far as this program knows."""
        return self._process.welcome.pid

    @property
    def workplace(self) -> Workplace:
        with self._lock:
            place = self._place()
            if self._presence is None:
                assert place.presence is not None
                self._presence = Presence(place.presence)
            return place

    def _place(self) -> Workplace:
        welcome = self._process.welcome
        return Workplace(
            presence=Path(welcome.presence) / self._name,
            values=None if welcome.values is None else Path(welcome.values),
            spools=None if welcome.spools is None else Path(welcome.spools),
            syncs=welcome.syncs,
        )

    def close(self) -> None:
        """Leave the broker. If this was the last program, blocks until its store is closed, half a minute at most.

        May be called twice.
        """
        with self._lock:
            if self._process.is_closed:
                return
            self._process.is_closed = True
            workers = list(self._workers.values())
            streams = list(self._streams)
        for stream in streams:
            stream.close()
        at_work = [worker for worker in workers if not worker.leave()]
        self._process.leave()
        if self._presence is not None and not at_work:
            if (spools := self._place().spools) is not None:
                remove_spools(spools, self._name)
            self._presence.path.unlink(missing_ok=True)
            self._presence.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- dispatching --------------------------------------------------------------------------------------------------

    def dispatch_workflow(self, schema: WorkflowSchema, inputs: Mapping[str, Any] | None = None) -> str:
        [instance_id] = self.dispatch_many(schema, [inputs])
        return instance_id

    def dispatch_many(self, schema: WorkflowSchema, inputs: Iterable[Mapping[str, Any] | None]) -> list[str]:
        check_schema(schema)
        ids: list[str] = []
        batch: list[tuple[str, dict[str, Value]]] = []
        place = self._place()
        send_by = time.monotonic() + _GATHERING
        throttle = None if isinstance(inputs, Sized) else self._throttle(schema)
        try:
            for each in inputs:
                values = encode_inputs(each, place)
                batch.append((os.urandom(8).hex(), values))
                has_files = any(value.file for value in values.values())  # which somebody must soon know of
                if has_files or len(batch) == _AT_ONCE or time.monotonic() >= send_by:
                    ids += self._dispatch(schema, batch)
                    batch = []
                    if throttle is not None:
                        throttle.wait()
                    send_by = time.monotonic() + _GATHERING
        finally:  # after an error, too: the runs before it stay
            ids += self._dispatch(schema, batch)
        return ids

    def _throttle(self, schema: WorkflowSchema) -> Throttle:
        def load() -> tuple[int, int]:
            answer = self._process.call(GetLoad(schema.workflow_id), Load)
            here = threading.current_thread()
            ours = sum(each.thread is here and each.serves(schema.workflow_id) for each in list(self._workers.values()))
            return answer.runs, answer.workers - ours

        return Throttle(schema.workflow_id, len(schema.steps), load, threading.Condition(), _LOOKING)

    def _dispatch(self, schema: WorkflowSchema, runs: list[tuple[str, dict[str, Value]]]) -> list[str]:
        """Send runs. The ids are ours, so that a second sending is known as one."""
        if runs:
            self._process.call(Dispatch(schema.workflow_id, schema.fingerprint, runs), Done, schema)
        return [instance_id for instance_id, _ in runs]

    # -- working ------------------------------------------------------------------------------------------------------

    def register_worker(self, schemas: Iterable[WorkflowSchema]) -> str:
        known = tuple(map(check_schema, schemas))
        with self._lock:
            self._process.check_open()
            presence = self.workplace.presence  # which is made by that
            assert presence is not None
            worker_id = f"{presence.name}.{next(self._numbers)}"
        worker = LocalWorker(self._process.link, worker_id, known, self._place)
        with self._lock:
            if is_open := not self._process.is_closed:
                self._workers[worker_id] = worker
        if not is_open:
            worker.close()
            self._process.check_open()
        return worker_id

    def unregister_worker(self, worker_id: str) -> None:
        worker = self._worker(worker_id)
        with self._lock:
            del self._workers[worker_id]
        try:
            worker.close()
        finally:
            is_last = not any(other.is_at_work for other in list(self._workers.values()))
            if self._process.is_closed and is_last and self._presence is not None:
                self._presence.leave()  # what they had is given to others now

    def get_steps(self, worker_id: str, limit: int) -> Sequence[StepAssignment]:
        return self._worker(worker_id).get_steps(limit)

    def get_step(self, worker_id: str, timeout: float | None = 0.0) -> StepAssignment | None:
        worker = self._worker(worker_id)
        give_up = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            for assignment in worker.get_steps(1):
                return assignment
            now = time.monotonic()
            if now >= give_up:
                return None
            worker.wait(None if give_up == math.inf else give_up - now)

    def report_step(self, worker_id: str, report: StepReport) -> ReportAnswer:
        [answer] = self.report_steps(worker_id, [report])
        return answer

    def report_steps(self, worker_id: str, reports: Sequence[StepReport]) -> Sequence[ReportAnswer]:
        return self._worker(worker_id).report_steps(reports)

    def trade(self, worker_id: str, reports: Sequence[StepReport], room: int) -> Traded:
        traded = self._worker(worker_id).trade(reports, room)
        if time.monotonic() >= self._tidy_at:
            self._tidy_up()
        return traded

    def _tidy_up(self) -> None:
        """Remove what children have left that were killed at their timeouts, say: a program may run for months."""
        spools = self._place().spools
        if spools is not None and not any(worker.is_waiting for worker in list(self._workers.values())):
            remove_dead_spools(spools, self._name)
            self._tidy_at = time.monotonic() + _TIDYING

    def keep_alive(self, worker_id: str) -> Sequence[Notice]:
        return self._worker(worker_id).take_notices()

    def unsettled(self, worker_id: str) -> int:
        return self._worker(worker_id).unsettled

    def next_due(self, worker_id: str) -> float | None:
        return None  # the broker says when there is something

    def news(self, worker_id: str) -> Waitable:
        worker = self._worker(worker_id)
        worker.is_followed = True
        return worker.news

    def _worker(self, worker_id: str) -> LocalWorker:
        try:
            return self._workers[worker_id]
        except KeyError:
            raise UnknownWorkerError(worker_id) from None

    # -- asking -------------------------------------------------------------------------------------------------------

    def get_run(self, instance_id: str) -> RunInfo:
        return run_info(self.record(instance_id))

    def list_runs(self, *, workflow_id: str | None = None, state: State | None = None) -> list[RunInfo]:
        return list(map(run_info, self.records(workflow_id=workflow_id, state=state)))

    def record(self, instance_id: str) -> RunRecord:
        """Return how a run stands, as plain data. Unlike ``get_run``, unpickles nothing.

        Raises:
            UnknownRunError: there is none of this id.
        """
        if not isinstance(instance_id, str):
            raise UnknownRunError(instance_id)
        [record] = self._process.call(GetRun(instance_id), Runs).records
        return record

    def records(
        self, *, workflow_id: str | None = None, state: State | None = None, limit: int | None = None
    ) -> list[RunRecord]:
        """Return how the runs stand, oldest first, as plain data. Unlike ``list_runs``, unpickles nothing.

        Args:
            workflow_id, state: which of them; default is all.
            limit: how many of the newest; default is all.
        """
        return self._process.call(ListRuns(workflow_id, state, limit), Runs).records

    def find_runs(self, prefix: str, limit: int = 10) -> list[str]:
        """Return the ids of runs that begin like this, ``limit`` at most, the newest first."""
        return self._process.call(FindRuns(prefix, limit), Found).texts

    def story(self, instance_id: str) -> list[Move]:
        """Return every move of a run and its steps since its dispatch, in their order.

        Raises:
            UnknownRunError: there is none of this id.
            BrokerError: the broker has no store.
        """
        return self._process.call(GetStory(instance_id), Story).moves

    def get_output(self, instance_id: str, step_name: str, attempt: int | None = None) -> str:
        [text] = self._process.call(GetOutput(instance_id, step_name, attempt), Found).texts
        return text

    def result(self, instance_id: str, timeout: float | None = 0.0) -> Any:
        record = self.record(instance_id)
        if not record.state.is_settled and timeout != 0.0:
            give_up = math.inf if timeout is None else time.monotonic() + timeout
            with self.events(instance_id) as stream:
                while (left := give_up - time.monotonic()) > 0:
                    if stream.next_event(None if left == math.inf else left) is None:
                        break
            record = self.record(instance_id)
        return run_result(record)

    def events(self, instance_id: str | None = None) -> EventStream:
        stream = LocalStream(self._process.link, instance_id)
        with self._lock:
            self._streams.add(stream)
            is_late = self._process.is_closed
        if is_late:
            stream.close()
            self._process.check_open()
        return stream

    # -- ending -------------------------------------------------------------------------------------------------------

    def cancel(self, instance_id: str, step_name: str | None = None) -> bool:
        return self._process.call(Cancel(instance_id, step_name), Done).had_effect

    def resume(self, instance_id: str, schema: WorkflowSchema | None = None, *, changed: bool = False) -> bool:
        """Let a run go on that failed or was cancelled: what succeeded is kept, the rest starts anew.

        Args:
            schema: its workflow as it is now; default is as it was.
            changed: whether ``schema`` may have other steps, edges or policies than the run had. Steps that
                have succeeded keep their outcome as long as there is a step of their name.

        Returns:
            Whether there was anything to resume: False if the run has succeeded or has not ended, unless it waited
            with an earlier version of a workflow that has changed.

        Raises:
            WorkflowChangedError: the workflow is not what it was.
            WorkflowError: the inputs of the run do not fit the changed workflow.
            UnknownRunError: there is none of this id.
            BrokerError: the broker has no store.
        """
        workflow = None if schema is None else (check_schema(schema).workflow_id, schema.fingerprint)
        return self._process.call(Resume(instance_id, workflow, changed), Done, schema).had_effect

    def migrate(self, schema: WorkflowSchema) -> list[str]:
        """Let all runs go on with this workflow that wait with an earlier version of it.

        Of each, what has succeeded is kept, as by ``resume(changed=True)``; all others of its steps start anew.

        Returns:
            Their ids.

        Raises:
            WorkflowChangedError: a worker serves the earlier version. End it first.
            WorkflowError: the inputs of one do not fit any more, or a step of one may still run. None was changed.
            BrokerError: the broker has no store.
        """
        identity = (check_schema(schema).workflow_id, schema.fingerprint)
        return self._process.call(Migrate(identity), Found, schema).texts

    def forget(self, instance_id: str) -> None:
        self._process.call(Forget(instance_id), Done)

    def prune(self, *, keep_for: float | None = None, keep_runs: int | None = None) -> int:
        """Remove runs that have ended, with their results, and let the file of the store shrink. Blocks until then.

        Args:
            keep_for: seconds after its end that a run stays; default is for ever.
            keep_runs: how many stay that have ended, the newest; default is all.

        Returns:
            How many were removed.

        Raises:
            BrokerError: the broker has no store.
        """
        total = 0
        while removed := self._process.call(Prune(keep_for, keep_runs), Removed).count:
            total += removed
        return total

    # -- the broker itself --------------------------------------------------------------------------------------------

    def status(self) -> BrokerStatus:
        """Return how the broker process is, and who works for it."""
        return self._process.call(GetStatus(), BrokerStatus)

    def check(self) -> list[str]:
        """Return what is wrong with the store, one sentence each; nothing if it is whole. Others wait meanwhile."""
        return self._process.call(CheckStore(), Found).texts


_brokers: weakref.WeakSet[LocalBroker] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for broker in list(_brokers):
        for stream in list(broker._streams):
            stream.forget()
        broker._process.begin()
        broker._begin()


os.register_at_fork(after_in_child=_after_fork_in_child)

"""LocalBroker: a broker in a process of its own, which any number of programs of this user share.

::

    this program ── main link ──────▶ broker process ── store
                 ── a link per worker ─▶
                 ── a link per watcher ▶

The first program that wants a broker starts its process, the others join it. If the process ends, whoever needs it next
starts it again: what is in the store is still there, and what this program's workers run goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from fuseline.broker.base import Broker, EventStream, Traded, Waitable, check_schema, encode_inputs
from fuseline.broker.door import knock
from fuseline.broker.info import run_info, run_result
from fuseline.broker.link import ClientLink, LinkLost
from fuseline.broker.local_stream import LocalStream
from fuseline.broker.local_worker import LocalWorker, OnPush
from fuseline.broker.startup import Start, log_of
from fuseline.broker.store.file import Durability, read_owner, resolve_store
from fuseline.broker.wire import (
    BrokerStatus,
    Cancel,
    CheckStore,
    Dispatch,
    Done,
    FindRuns,
    Forget,
    Found,
    FromBroker,
    GetOutput,
    GetRun,
    GetStatus,
    GetStory,
    Hello,
    Know,
    Leave,
    ListRuns,
    Migrate,
    Prune,
    Removed,
    Resume,
    Runs,
    Story,
    ToBroker,
    Welcome,
)
from fuseline.errors import BrokerError, FuselineError, StoreInUse, UnknownRunError, UnknownWorkerError
from fuseline.messages import Notice, ReportAnswer, RunInfo, StepAssignment, StepReport
from fuseline.presence import Presence
from fuseline.records import Move, RunRecord
from fuseline.schema import WorkflowSchema
from fuseline.spool import remove_dead_spools, remove_spools
from fuseline.states import State
from fuseline.values import Value
from fuseline.workplace import Workplace

__all__ = ["LocalBroker"]

#: Seconds in which a broker process must be there, started or found.
_PATIENCE = 20.0
#: Seconds in which it must have closed its store when the last program leaves: it may be writing to a slow disk.
_FAREWELL = 30.0
#: Seconds between two tries to reach one that is starting or ending.
_PAUSE = 0.02
#: So often one is started that ends before it can say why: a signal hits one of them, what is broken hits all.
_STARTS = 3
#: Seconds between two looks for what children have left that have ended.
_TIDYING = 60.0
#: Runs in one message of ``dispatch_many``, and seconds for which they may be gathered.
_AT_ONCE = 1000
_GATHERING = 1.0

R = TypeVar("R", bound=FromBroker)


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
        self._durability = durability
        self._keep = (keep_for, keep_runs)
        self._begin()
        self._numbers = itertools.count(1)
        self._tidy_at = time.monotonic() + _TIDYING
        self._closed = False
        self._anchor: ClientLink | None = None  #: keeps a broker without a store alive when the main link is lost
        self._main = self._join()
        if self.path is None:
            self._anchor = self._find()
        _brokers.add(self)

    def _begin(self) -> None:
        """Have no part in the work yet. A fork of the program begins like this, too: it is another one."""
        self._lock = threading.RLock()
        self._workers: dict[str, LocalWorker] = {}
        self._streams: weakref.WeakSet[LocalStream] = weakref.WeakSet()
        self._name = uuid.uuid4().hex[:12]  #: of this program, among those that work for the broker
        self._presence: Presence | None = None

    # -- the process --------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process of the broker, as far as this program knows."""
        return self._main.welcome.pid

    @property
    def workplace(self) -> Workplace:
        with self._lock:
            place = self._place()
            if self._presence is None:
                self._presence = Presence(place.presence)
            return place

    def _place(self) -> Workplace:
        welcome = self._main.welcome
        return Workplace(
            presence=Path(welcome.presence) / self._name,
            values=None if welcome.values is None else Path(welcome.values),
            spools=None if welcome.spools is None else Path(welcome.spools),
            syncs=welcome.syncs,
        )

    def _join(self) -> ClientLink:
        """Return a link to the broker process, which is started if there is none."""
        give_up = time.monotonic() + _PATIENCE
        starts = 0
        while True:
            if (link := self._find()) is not None:
                return link
            try:
                return self._start()
            except StoreInUse:  # somebody else was faster, or is just ending
                if time.monotonic() >= give_up:
                    raise
            except LinkLost as error:
                starts += 1
                if starts == _STARTS:
                    raise BrokerError(
                        f"the broker process was started {starts} times and ended at once each time: {error}. "
                        f"{self._advice()}"
                    ) from error
            time.sleep(_PAUSE)

    def _advice(self) -> str:
        return "See what it printed." if self.path is None else f"See {log_of(self.path)}."

    def _find(self, on_push: OnPush | None = None) -> ClientLink | None:
        """Return a link to the broker process that is there, if there is one."""
        if self.path is None:
            door = self._main.welcome.door if hasattr(self, "_main") else ""
        else:
            _, door = read_owner(self.path)
        if not door:
            return None
        try:
            return ClientLink(*knock(Path(door)), on_push)
        except (OSError, LinkLost):
            return None

    def _start(self) -> ClientLink:
        ours, theirs = socket.socketpair()
        with theirs:
            path = None if self.path is None else str(self.path)
            start = Start(theirs.fileno(), path, self._durability, *self._keep)
            command = [sys.executable, "-P", "-m", "fuseline.broker.server_main", msgspec.json.encode(start).decode()]
            try:
                subprocess.run(
                    command,
                    pass_fds=[theirs.fileno()],
                    check=False,
                    stdin=subprocess.DEVNULL,
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C is for the program
                )
            except OSError as error:
                ours.close()
                raise BrokerError(f"the system refuses a process for the broker: {error}.") from error
        return ClientLink(ours, None)

    def _extra_link(self, on_push: OnPush) -> ClientLink:
        """Return another link to the broker, which is started again if it has gone.

        Raises:
            BrokerError: there is none, and nothing to start one with.
        """
        self._check_open()
        give_up = time.monotonic() + _PATIENCE
        while (link := self._find(on_push)) is None:
            if time.monotonic() >= give_up:
                raise BrokerError(f"the broker process cannot be reached any more. {self._advice()}")
            self._call(Hello(""), Welcome)  # so that there is one
            time.sleep(_PAUSE)
        return link

    def _call(self, request: ToBroker, kind: type[R], schema: WorkflowSchema | None = None) -> R:
        """Send a request over the main link, over a new one if that has gone, and return its reply.

        Args:
            schema: of the workflow that the request names.
        """
        give_up = time.monotonic() + _PATIENCE
        while True:
            with self._lock:
                self._check_open()
                link = self._main
            try:
                if schema is not None and (named := (schema.workflow_id, schema.fingerprint)) not in link.told:
                    link.call(Know(schema.to_json()), Done)
                    link.told.add(named)
                return link.call(request, kind)
            except LinkLost as error:
                if time.monotonic() >= give_up:
                    raise BrokerError(f"the broker process ends again and again. {self._advice()}") from error
                self._replace(link)
                if isinstance(request, Dispatch):
                    request = msgspec.structs.replace(request, again=True)

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerError("this LocalBroker is closed. Make another one.")

    def _replace(self, lost: ClientLink) -> None:
        with self._lock:
            self._check_open()
            if self._main is not lost:
                return  # another thread was faster
            lost.close()
            if self.path is not None:
                self._main = self._join()
            elif (found := self._find()) is not None:
                self._main = found
            else:
                raise BrokerError("the broker process has ended, and its runs with it. Give it a path to keep them.")

    def close(self) -> None:
        """Leave the broker. If this was the last program, blocks until its store is closed, half a minute at most.

        May be called twice.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            workers = list(self._workers.values())
            streams = list(self._streams)
        for stream in streams:
            stream.close()
        at_work = [worker for worker in workers if not worker.leave()]
        if self._anchor is not None:
            self._anchor.close()
        with contextlib.suppress(LinkLost, FuselineError):  # what was acknowledged is stored, whatever it says now
            self._main.call(Leave(), Done, timeout=_FAREWELL)
        self._main.close()
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
        try:
            for each in inputs:
                values = encode_inputs(each).items()
                kept = {name: place.keep(value, f"the input {name!r}") for name, value in values}
                batch.append((uuid.uuid4().hex[:16], kept))
                has_files = any(value.file for value in kept.values())  # which somebody must soon know of
                if has_files or len(batch) == _AT_ONCE or time.monotonic() >= send_by:
                    ids += self._dispatch(schema, batch)
                    batch = []
                    send_by = time.monotonic() + _GATHERING
        finally:  # after an error, too: the runs before it stay
            ids += self._dispatch(schema, batch)
        return ids

    def _dispatch(self, schema: WorkflowSchema, runs: list[tuple[str, dict[str, Value]]]) -> list[str]:
        """Send runs. The ids are ours, so that a second sending is known as one."""
        if runs:
            self._call(Dispatch(schema.workflow_id, schema.fingerprint, runs), Done, schema)
        return [instance_id for instance_id, _ in runs]

    # -- working ------------------------------------------------------------------------------------------------------

    def register_worker(self, schemas: Iterable[WorkflowSchema]) -> str:
        known = tuple(map(check_schema, schemas))
        with self._lock:
            self._check_open()
            worker_id = f"{self.workplace.presence.name}.{next(self._numbers)}"
        worker = LocalWorker(self._extra_link, worker_id, known, self._place)
        with self._lock:
            if is_open := not self._closed:
                self._workers[worker_id] = worker
        if not is_open:
            worker.close()
            self._check_open()
        return worker_id

    def unregister_worker(self, worker_id: str) -> None:
        worker = self._worker(worker_id)
        with self._lock:
            del self._workers[worker_id]
        try:
            worker.close()
        finally:
            is_last = not any(other.is_at_work for other in list(self._workers.values()))
            if self._closed and is_last and self._presence is not None:
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
        [record] = self._call(GetRun(instance_id), Runs).records
        return record

    def records(
        self, *, workflow_id: str | None = None, state: State | None = None, limit: int | None = None
    ) -> list[RunRecord]:
        """Return how the runs stand, oldest first, as plain data. Unlike ``list_runs``, unpickles nothing.

        Args:
            workflow_id, state: which of them; default is all.
            limit: how many of the newest; default is all.
        """
        return self._call(ListRuns(workflow_id, state, limit), Runs).records

    def find_runs(self, prefix: str, limit: int = 10) -> list[str]:
        """Return the ids of runs that begin like this, ``limit`` at most, the newest first."""
        return self._call(FindRuns(prefix, limit), Found).texts

    def story(self, instance_id: str) -> list[Move]:
        """Return every move of a run and its steps since its dispatch, in their order.

        Raises:
            UnknownRunError: there is none of this id.
            BrokerError: the broker has no store.
        """
        return self._call(GetStory(instance_id), Story).moves

    def get_output(self, instance_id: str, step_name: str, attempt: int | None = None) -> str:
        [text] = self._call(GetOutput(instance_id, step_name, attempt), Found).texts
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
        stream = LocalStream(self._extra_link, instance_id)
        with self._lock:
            self._streams.add(stream)
            is_late = self._closed
        if is_late:
            stream.close()
            self._check_open()
        return stream

    # -- ending -------------------------------------------------------------------------------------------------------

    def cancel(self, instance_id: str, step_name: str | None = None) -> bool:
        return self._call(Cancel(instance_id, step_name), Done).had_effect

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
        return self._call(Resume(instance_id, workflow, changed), Done, schema).had_effect

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
        return self._call(Migrate(identity), Found, schema).texts

    def forget(self, instance_id: str) -> None:
        self._call(Forget(instance_id), Done)

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
        while removed := self._call(Prune(keep_for, keep_runs), Removed).count:
            total += removed
        return total

    # -- the broker itself --------------------------------------------------------------------------------------------

    def status(self) -> BrokerStatus:
        """Return how the broker process is, and who works for it."""
        return self._call(GetStatus(), BrokerStatus)

    def check(self) -> list[str]:
        """Return what is wrong with the store, one sentence each; nothing if it is whole. Others wait meanwhile."""
        return self._call(CheckStore(), Found).texts


_brokers: weakref.WeakSet[LocalBroker] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for broker in list(_brokers):
        for stream in list(broker._streams):
            stream.forget()
        broker._begin()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _environment() -> dict[str, str]:
    """Return the environment of the process: it finds this very package, wherever this program has found it."""
    here = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}

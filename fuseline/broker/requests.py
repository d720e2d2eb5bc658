"""Requests: what programs ask of a broker process, and what it answers.

An answer goes out once all is stored that was heard before it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from typing import Any

from fuseline import __version__
from fuseline.broker.door import Door
from fuseline.broker.housing import Housing
from fuseline.broker.link import ServerLink
from fuseline.broker.store import Retention, Store
from fuseline.broker.wire import (
    PROTOCOL,
    Answers,
    BrokerStatus,
    Cancel,
    CheckStore,
    Dispatch,
    Done,
    FindRuns,
    FindUnknown,
    Forget,
    Found,
    FromBroker,
    GetLoad,
    GetOutput,
    GetRun,
    GetStatus,
    GetSteps,
    GetStory,
    Hello,
    Know,
    Leave,
    ListRuns,
    Load,
    Migrate,
    Prune,
    Register,
    Registered,
    Removed,
    ReportSteps,
    Resume,
    Retire,
    Runs,
    Steps,
    Story,
    ToBroker,
    Trade,
    Unregister,
    Watch,
    Welcome,
)
from fuseline.errors import BrokerError, UnknownWorkerError, WorkflowError
from fuseline.schema import WorkflowSchema

__all__ = ["Requests"]


class Requests:
    """Acts on messages of programs.

    Args:
        keep: which of the runs that have ended stay in the store.
        stays: whether the broker goes on when the last program has left.
        links: all that there are.
        leave: lets a program go.
    """

    def __init__(
        self,
        housing: Housing,
        store: Store | None,
        door: Door,
        keep: Retention,
        *,
        stays: bool,
        links: Collection[ServerLink],
        leave: Callable[[ServerLink], None],
    ) -> None:
        self.workers: dict[str, ServerLink] = {}  #: that are connected
        self._housing = housing
        self._store = store
        self._door = door
        self._keep = keep
        self._stays = stays
        self._links = links
        self._let_go = leave
        self._started = time.time()
        self._schemas: dict[tuple[str, str], WorkflowSchema] = {}
        self._handlers: dict[type, Callable[[ServerLink, Any], FromBroker | None]] = {
            Hello: self._hello,
            Know: self._know,
            FindUnknown: lambda link, it: Found([each[0] for each in it.workflows if tuple(each) not in self._schemas]),
            GetLoad: lambda link, request: Load(*housing.ask.load(request.workflow_id)),
            Dispatch: self._dispatch,
            Register: self._register,
            Unregister: self._unregister,
            GetSteps: self._get_steps,
            ReportSteps: self._report_steps,
            Trade: self._trade,
            Watch: self._watch,
            Leave: self._leave,
            GetRun: lambda link, request: Runs([housing.ask.record(request.instance_id)]),
            ListRuns: lambda link, it: Runs(housing.ask.records(it.workflow_id, it.state, it.limit)),
            FindRuns: lambda link, request: Found(housing.ask.find(request.prefix, request.limit)),
            GetOutput: lambda link, it: Found([housing.ask.output(it.instance_id, it.step_name, it.attempt)]),
            GetStory: lambda link, request: Story(housing.ask.story(request.instance_id)),
            Cancel: lambda link, request: Done(housing.cancel(request.instance_id, request.step_name)),
            Resume: self._resume,
            Migrate: lambda link, request: Found(housing.migrate(self._schema(request.workflow))),
            Prune: lambda link, request: Removed(housing.prune(request.keep_for, request.keep_runs)),
            GetStatus: self._get_status,
            CheckStore: lambda link, request: Found(housing.ask.check()),
            Retire: self._retire,
            Forget: self._forget,
        }

    def handle(self, link: ServerLink, request: ToBroker) -> FromBroker | None:
        """Act on a request, and return the answer, if it has one.

        Raises:
            FuselineError: it is refused.
        """
        return self._handlers[type(request)](link, request)

    def lose(self, link: ServerLink) -> None:
        """Note that a link has ended."""
        if link.worker_id is not None and self.workers.get(link.worker_id) is link:
            del self.workers[link.worker_id]
            self._housing.missing.add(link.worker_id)

    def _hello(self, link: ServerLink, hello: Hello) -> FromBroker:
        if hello.protocol != PROTOCOL:
            raise BrokerError("the broker that runs is of another version of fuseline. End all programs that use it.")
        store, presence = self._store, str(self._housing.missing.presence_folder)
        if store is None:
            return Welcome(os.getpid(), str(self._door.folder), presence, None, None, False)
        values, spools = str(store.values_folder), str(store.spools_folder)
        return Welcome(os.getpid(), str(self._door.folder), presence, values, spools, store.syncs)

    def _know(self, link: ServerLink, request: Know) -> FromBroker:
        schema = WorkflowSchema.from_json(request.schema)
        self._schemas[schema.workflow_id, schema.fingerprint] = schema
        return Done()

    def _schema(self, identity: tuple[str, str]) -> WorkflowSchema:
        try:
            return self._schemas[identity]
        except KeyError:
            raise WorkflowError(f"the broker was not told of workflow {identity[0]!r}.") from None

    def _dispatch(self, link: ServerLink, request: Dispatch) -> FromBroker:
        schema = self._schema((request.workflow_id, request.fingerprint))
        for instance_id, inputs in request.runs:
            self._housing.dispatch(schema, instance_id, inputs, again=request.again)
        return Done()

    def _register(self, link: ServerLink, request: Register) -> FromBroker:
        schemas = [self._schema(identity) for identity in request.workflows]
        void = self._housing.register(request.worker_id, schemas, request.held)
        self.workers[request.worker_id] = link
        link.worker_id = request.worker_id
        return Registered(void, self._housing.unsettled(request.worker_id))

    def _unregister(self, link: ServerLink, request: Unregister) -> FromBroker:
        worker_id, link.worker_id = self._worker(link), None
        del self.workers[worker_id]
        self._housing.take_back(worker_id, request.held)
        self._housing.worker_left(worker_id)
        return Done()

    def _worker(self, link: ServerLink) -> str:
        if link.worker_id is None or self.workers.get(link.worker_id) is not link:
            raise UnknownWorkerError(link.worker_id or "")
        return link.worker_id

    def _get_steps(self, link: ServerLink, request: GetSteps) -> FromBroker:
        worker_id = self._worker(link)
        assignments = self._housing.get_steps(worker_id, request.limit)
        return Steps(assignments, self._housing.unsettled(worker_id))

    def _report_steps(self, link: ServerLink, request: ReportSteps) -> FromBroker:
        worker_id = self._worker(link)
        reports = [ended.report() for ended in request.reports]
        answers = [self._housing.report(worker_id, report, again=request.again) for report in reports]
        return Answers(answers, self._housing.unsettled(worker_id))

    def _trade(self, link: ServerLink, request: Trade) -> None:
        worker_id = self._worker(link)
        reports = [ended.report() for ended in request.reports]
        link.answers += [self._housing.report(worker_id, report, again=request.again) for report in reports]
        link.room = request.room - (link.given - request.seen)
        self._housing.stirred.add(worker_id)

    def _watch(self, link: ServerLink, request: Watch) -> FromBroker:
        if request.instance_id is not None and self._housing.ask.is_settled(request.instance_id):
            return Done(False)
        link.watches = self._housing.watched = True
        link.watched = request.instance_id
        return Done()

    def _forget(self, link: ServerLink, request: Forget) -> FromBroker:
        self._housing.forget(request.instance_id)
        return Done()

    def _resume(self, link: ServerLink, request: Resume) -> FromBroker:
        schema = None if request.workflow is None else self._schema(request.workflow)
        return Done(self._housing.resume(request.instance_id, schema, changed=request.changed))

    def _get_status(self, link: ServerLink, request: GetStatus) -> FromBroker:
        store = self._store
        return BrokerStatus(
            pid=os.getpid(),
            version=__version__,
            path=None if store is None else str(store.path),
            durability="process" if store is None or not store.syncs else "power",
            stays=self._stays,
            started=self._started,
            programs=len(self._links),
            workers=self._housing.workers(
                {name: pid for name, link in self.workers.items() if (pid := link.peer_pid()) is not None}
            ),
            counts=self._housing.ask.counts(),
            size_bytes=0 if store is None else store.size_bytes(),
            keep_for=self._keep.seconds,
            keep_runs=self._keep.runs,
        )

    def _retire(self, link: ServerLink, request: Retire) -> FromBroker:
        if self._stays or self._store is None:
            return Done(False)
        for each in self._links:
            self._let_go(each)
        return Done()

    def _leave(self, link: ServerLink, request: Leave) -> FromBroker:
        self._let_go(link)
        return Done()

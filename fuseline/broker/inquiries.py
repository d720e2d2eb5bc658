"""What can be asked about the runs of a broker process: the core knows those at work, the store all others."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

from fuseline.broker.outputs import Outputs, check_attempt
from fuseline.broker.store import Store
from fuseline.errors import BrokerError, UnknownRunError
from fuseline.records import Move, RunRecord
from fuseline.scheduler import Scheduler
from fuseline.scheduler.archive import record_run
from fuseline.states import State

__all__ = ["Inquiries"]


class Inquiries:
    """Answers about runs.

    Args:
        epoch: what to add to the seconds of runs to get seconds since the epoch.
        commit: brings the store up to date.
    """

    def __init__(self, core: Scheduler, store: Store | None, epoch: float, commit: Callable[[], None]) -> None:
        self._core = core
        self._store = store
        self._epoch = epoch
        self._commit = commit
        self.outputs = Outputs()  #: where there is no store

    def is_known(self, instance_id: str) -> bool:
        """Return whether there is a run of this id."""
        return instance_id in self._core.runs or (self._store is not None and self._store.has(instance_id))

    def is_settled(self, instance_id: str) -> bool:
        """Return whether a run has ended.

        Raises:
            UnknownRunError: there is none of this id.
        """
        run = self._core.runs.get(instance_id)
        if run is None and not self.is_known(instance_id):
            raise UnknownRunError(instance_id)
        return run is None or run.state.is_settled  # the core has all that have not

    def load(self, workflow_id: str) -> tuple[int, int]:
        """Return how many runs of a workflow have not ended, and how many workers serve it."""
        return self._core.load(workflow_id)

    def record(self, instance_id: str) -> RunRecord:
        """Return how a run stands.

        Raises:
            UnknownRunError: there is none of this id.
        """
        run = self._core.runs.get(instance_id)
        if run is not None:
            return record_run(run, self._epoch)
        found = None if self._store is None else self._store.load(instance_id)
        if found is None:
            raise UnknownRunError(instance_id)
        return found[1]

    def records(self, workflow_id: str | None, state: State | None, limit: int | None) -> list[RunRecord]:
        """Return how the runs stand, oldest first: those of a workflow, in a state, so many of the newest."""
        if self._store is None or state in (State.PENDING, State.RUNNING):  # the core has all of them
            held = [
                run
                for run in sorted(self._core.runs.values(), key=lambda run: run.number)
                if workflow_id in (None, run.plan.workflow_id) and state in (None, run.state)
            ]
            first = 0 if limit is None else max(0, len(held) - limit)
            return [record_run(run, self._epoch) for run in held[first:]]
        self._commit()
        return [self.record(instance_id) for instance_id in self._store.ids(workflow_id, state, limit)]

    def find(self, prefix: str, limit: int) -> list[str]:
        """Return the ids of runs that begin like this, ``limit`` at most, the newest first."""
        if self._store is not None:
            self._commit()
            return self._store.find(prefix, limit)
        found = (instance_id for instance_id in reversed(self._core.runs) if instance_id.startswith(prefix))
        return list(itertools.islice(found, limit))

    def counts(self) -> dict[str, int]:
        """Return how many runs there are, by state."""
        self._commit()
        held = Counter(run.state.value for run in self._core.runs.values())
        return dict(held + Counter({} if self._store is None else self._store.counts()))

    def output(self, instance_id: str, step_name: str, attempt: int | None) -> str:
        """Return what an attempt has printed, by default the last one of its step."""
        number = check_attempt(self.record(instance_id), step_name, attempt)
        if self._store is None:
            return self.outputs.get(instance_id, step_name, number)
        self._commit()
        return self._store.output(instance_id, step_name, number)

    def story(self, instance_id: str) -> list[Move]:
        """Return all moves of a run, in their order."""
        self.record(instance_id)
        store = self.stored("keeps no story of its runs")
        self._commit()
        return store.story(instance_id)

    def check(self) -> list[str]:
        """Return what is wrong with the store, one sentence each."""
        store = self.stored("has nothing to check")
        self._commit()
        return store.check()

    def stored(self, what: str) -> Store:
        """Return the store.

        Raises:
            BrokerError: there is none, so that this broker ``what``.
        """
        if self._store is None:
            raise BrokerError(f"this broker {what}, because it has no store. Give it a path.")
        return self._store

"""Lane: an executor and the workflows it serves; to the broker, a worker.

Workflows with the same executor share a lane. Each lane is a worker of its own, so that one whose slots are busy does
not keep the others waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable

import msgspec

from fuseline.errors import WorkflowError
from fuseline.executors import make_executor
from fuseline.executors.base import Executor, never_started
from fuseline.executors.pickling import pickle_hosted
from fuseline.messages import AttemptReport, StepAssignment, StepReport
from fuseline.observers import Observers
from fuseline.step import Step
from fuseline.workflow import Workflow

__all__ = ["End", "Lane", "Served", "make_lanes"]


class Served:
    """A workflow as the engine serves it."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow
        self.schema = workflow.to_schema()
        self.hosted = workflow.hosted()
        self.observers = Observers(workflow)


class End(msgspec.Struct, frozen=True):
    """What an engine knows of the end of an attempt."""

    report: StepReport
    assignment: StepAssignment
    step: Step
    observers: Observers
    error: BaseException | None


class Lane:
    """An executor and the workflows it serves; a worker in the eyes of the broker."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.workflows: dict[str, Served] = {}
        self.running: dict[int, StepAssignment] = {}
        self.untold: dict[int, StepAssignment] = {}  #: those of them whose start was not observed yet
        self.unanswered: deque[End] = deque()  #: what the broker was told, and has not answered yet
        self._held: dict[int, StepAssignment] = {}  #: of runs that may have failed: submitted when that is known
        self._given_back: list[AttemptReport] = []  #: those that ``poll`` has not returned yet
        self._unstarted: set[str] = set()  #: runs of whose start it is to tell, and has not
        self.worker_id = ""
        self.is_started = False

    def start(self) -> None:
        """Start the executor, unless it is."""
        if not self.is_started:
            self.executor.start({name: served.hosted for name, served in self.workflows.items()})
            self.is_started = True

    def flush(self) -> None:
        """Let all be seen that steps have printed."""
        self.executor.flush()

    def close(self) -> None:
        """End the executor with what runs, unless it is ended."""
        if self.is_started:
            self.executor.close()
            self.is_started = False  # only now: a close that was interrupted can be called again
        self.running.clear()
        self.untold.clear()
        self.unanswered.clear()
        self._held.clear()
        self._given_back.clear()
        self._unstarted.clear()

    # -- assignments --------------------------------------------------------------------------------------------------

    @property
    def holds(self) -> bool:
        """Whether ``accept`` has kept something back."""
        return bool(self._held)

    def room(self) -> int:
        """Return how many more assignments to ask for."""
        return max(0, self.executor.free_slots() - len(self._held))

    def accept(self, assignments: Iterable[StepAssignment], failing: Collection[str]) -> None:
        """Take assignments in, and have the executor run them and what was kept back.

        Args:
            failing: runs that have failed unless the broker says otherwise. What belongs to them is kept back.
        """
        arrived = self._take_in(assignments)
        if not (failing or self._held):
            self.untold.update(arrived)
            self.executor.submit(list(arrived.values()))
            return
        arrived = {**self._held, **arrived}
        self._held = {token: each for token, each in arrived.items() if each.instance_id in failing}
        wanted = {token: each for token, each in arrived.items() if token not in self._held}
        self.untold.update(wanted)
        self.executor.submit(list(wanted.values()))

    def refuse(self, assignments: Iterable[StepAssignment]) -> None:
        """Take assignments in, and give them back."""
        self._given_back += map(never_started, self._take_in(assignments).values())

    def _take_in(self, assignments: Iterable[StepAssignment]) -> dict[int, StepAssignment]:
        arrived = {}
        for assignment in assignments:
            arrived[assignment.token] = assignment
            if assignment.payload.starts_run and self.workflows[assignment.workflow_id].observers.heed_starts:
                self._unstarted.add(assignment.instance_id)
        self.running.update(arrived)
        return arrived

    def recall(self, tokens: Collection[int] | None = None) -> None:
        """Give back the assignments that were not begun; all, or those that are named."""
        self.executor.recall(tokens)
        for token in list(self._held):
            if tokens is None or token in tokens:
                self._given_back.append(never_started(self._held.pop(token)))

    def start_run(self, instance_id: str) -> bool:
        """Return whether the start of a run is to be told now: with that of the first of its steps that begins here."""
        if instance_id not in self._unstarted:
            return False
        self._unstarted.remove(instance_id)
        return True

    def give_back(self, assignment: StepAssignment) -> bool:
        """Forget of an assignment that was not begun; return whether the start of its run was told."""
        self.untold.pop(assignment.token, None)
        heeds = self.workflows[assignment.workflow_id].observers.heed_starts
        return assignment.payload.starts_run and heeds and not self.start_run(assignment.instance_id)

    def poll(self) -> list[AttemptReport]:
        """Do what can be done without waiting, and return the reports that are new."""
        reports, self._given_back = self._given_back, []
        return reports + self.executor.poll()

    def deadline(self) -> float | None:
        """Return when ``poll`` must be called even if nothing comes in, in monotonic seconds, or None."""
        return 0.0 if self._given_back else self.executor.deadline()


def make_lanes(
    workflows: Iterable[Workflow], processes: int | None, choose: Callable[[Workflow], str | Executor]
) -> list[Lane]:
    """Return a lane for each executor that is needed, with its workflows.

    Args:
        processes: slots of executors that are made here; None for their default.
        choose: gives the executor of a workflow.

    Raises:
        WorkflowError: see ``ProcessEngine``.
        NotPicklableError: a step cannot be sent to where it would run.
    """
    lanes: dict[str | int, Lane] = {}
    seen: set[str] = set()
    for workflow in workflows:
        if not isinstance(workflow, Workflow):
            raise WorkflowError(f"an engine runs instances of Workflow, not {workflow!r}.")
        chosen = choose(workflow)
        key = chosen if isinstance(chosen, str) else id(chosen)
        if key not in lanes:
            lanes[key] = Lane(make_executor(chosen, processes))
        executor = lanes[key].executor
        workflow.check_policies(type(executor))
        served = Served(workflow)
        workflow_id = served.schema.workflow_id
        if workflow_id in seen:
            raise WorkflowError(f"two workflows have the id {workflow_id!r}. Give one of them another name=.")
        seen.add(workflow_id)
        if executor.pickles:
            pickle_hosted(workflow_id, served.hosted)
        lanes[key].workflows[workflow_id] = served
    if not lanes:
        raise WorkflowError("an engine without workflows has nothing to do. Pass at least one.")
    return list(lanes.values())

"""Office: a broker with workers that a test plays itself, step by step."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from fuseline.broker.base import Broker, RunEvent
from fuseline.messages import Notice, ReportAnswer, StepAssignment, StepReport
from fuseline.policies import Policy
from fuseline.policies.base import policy_config
from fuseline.schema import ParameterSchema, StepSchema, WorkflowSchema
from fuseline.states import State
from fuseline.testing.clock import ManualClock
from fuseline.testing.promise import Contract
from fuseline.testing.watchdog import Hung
from fuseline.wakeup import wait_readable

__all__ = ["Office", "OfficeContract"]

T = TypeVar("T")


class Office:
    """Its workflows have names that no other office uses, so that a broker may serve many, one after the other.

    Args:
        patience: seconds that something may take which a broker may do later.
    """

    def __init__(self, broker: Broker, patience: float) -> None:
        self.broker = broker
        self.patience = patience
        self._name = os.urandom(4).hex()
        self._workers: list[str] = []

    # -- workflows ----------------------------------------------------------------------------------------------------

    def schema(
        self,
        edges: str = "a>b",
        *,
        name: str = "wf",
        version: str = "",
        outputs: str | None = None,
        inputs: str = "",
        policies: Mapping[str, Sequence[Policy]] | None = None,
        on_failure: str = "stop",
    ) -> WorkflowSchema:
        """Return the schema of a graph written as ``"a>b>d a>c>d"``; each step takes the results of those before it.

        Args:
            outputs: names, ``"d e"``; default are the steps without successors.
            inputs: parameters of the first step that must be given at dispatch.
            policies: ``{step's name: its policies}``.
        """
        before: dict[str, dict[str, None]] = {}
        for chain in edges.split():
            names = chain.split(">")
            for i, step in enumerate(names):
                before.setdefault(step, {}).update(dict.fromkeys(names[max(0, i - 1) : i]))
        used = {other for others in before.values() for other in others}
        required = tuple(ParameterSchema(name=parameter) for parameter in inputs.split())
        steps = [
            StepSchema(
                name=step,
                kind="Work",
                predecessors=tuple(others),
                parameters=(ParameterSchema(name="parts", required=False, variadic=True),) if others else required,
                policies=tuple(map(policy_config, (policies or {}).get(step, ()))),
            )
            for step, others in before.items()
        ]
        name = f"{name}-{self._name}"
        return WorkflowSchema(
            workflow_id=f"{name}@{version}" if version else name,
            name=name,
            version=version,
            steps=tuple(steps),
            outputs=tuple(outputs.split() if outputs is not None else [step for step in before if step not in used]),
            on_failure=on_failure,
        )

    # -- workers ------------------------------------------------------------------------------------------------------

    def worker(self, *schemas: WorkflowSchema) -> str:
        """Register a worker, which leaves when the office closes."""
        self._workers.append(self.broker.register_worker(schemas))
        return self._workers[-1]

    def leave(self, worker: str) -> None:
        self._workers.remove(worker)
        self.broker.unregister_worker(worker)

    def take(self, worker: str) -> StepAssignment:
        """Return the step that the worker is given at once."""
        assignment = self.broker.get_step(worker)
        assert assignment is not None, "get_step() gave nothing, though a step is ready"
        return assignment

    def await_step(self, worker: str) -> StepAssignment | None:
        """Return the next step that the worker is given, waiting as an engine does; None if there is none."""
        give_up = time.monotonic() + self.patience
        news = self.broker.news(worker)
        while True:
            news.clear()
            assignment = self.broker.get_step(worker)
            if assignment is not None:
                return assignment
            left, due = give_up - time.monotonic(), self.broker.next_due(worker)
            has_come = wait_readable([news.fileno()], left if due is None else min(due, left))
            if not has_come and (due is None or due > left):
                return None

    def report(self, worker: str, assignment: StepAssignment, state: State, **fields: Any) -> ReportAnswer:
        return self.broker.report_step(worker, report_of(assignment, state, **fields))

    def succeed(self, worker: str, assignment: StepAssignment, result: Any = None) -> ReportAnswer:
        return self.report(worker, assignment, State.SUCCEEDED, result=result)

    def finish(self, worker: str) -> list[tuple[str, str]]:
        """Let everything succeed that is ready, each with its name as its result; return (run, step) in order."""
        done: list[tuple[str, str]] = []
        while (assignment := self.broker.get_step(worker)) is not None:
            self.succeed(worker, assignment, assignment.step_name)
            done.append((assignment.instance_id, assignment.step_name))
        return done

    def notices(self, worker: str, count: int) -> list[Notice]:
        """Return so many notices for the worker, waiting for its news meanwhile, and all that come with them."""
        found: list[Notice] = []
        give_up = time.monotonic() + self.patience
        news = self.broker.news(worker)
        while True:
            news.clear()
            found += self.broker.keep_alive(worker)
            if len(found) >= count:
                return found
            readable = wait_readable([news.fileno()], give_up - time.monotonic())
            assert readable, f"keep_alive() gave {found!r} and nothing else in {self.patience:g} s"

    def close(self) -> None:
        """Have all workers leave."""
        while self._workers:
            self.broker.unregister_worker(self._workers.pop())


def report_of(assignment: StepAssignment, state: State, **fields: Any) -> StepReport:
    """Return a report about an assignment, with its token unless told otherwise."""
    said: dict[str, Any] = {
        "workflow_id": assignment.workflow_id,
        "instance_id": assignment.instance_id,
        "step_name": assignment.step_name,
        "token": assignment.token,
        "state": state,
    }
    return StepReport(**(said | fields))


def moves_of(events: Sequence[RunEvent]) -> list[str]:
    """Return events as ``"step STATE"``, sorted: those of one moment have no order."""
    return sorted(f"{event.step_name or 'run'} {event.state}" for event in events)


@contextlib.contextmanager
def in_thread(function: Callable[[], T]) -> Iterator[Future[T]]:
    """Run ``function`` in another thread; gives its future. It must have ended by the end of the block."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(function)


class OfficeContract(Contract):
    """Tests in an office. Subclass them and set ``make_broker``.

    Attributes:
        make_broker: called without arguments, returns a broker. It may be the same one each time.
        clock: what the broker made last reads the time from, if a test may move that; else retries are waited for.
    """

    make_broker: Callable[[], Broker]
    clock: ManualClock | None = None
    subject = Broker
    leaves = "when its workers have left and it is closed, a broker leaves no process, thread or descriptor"

    def end_broker(self, broker: Broker) -> None:
        """End a broker after a test: calls its ``close`` if it has one."""
        getattr(broker, "close", lambda: None)()

    @contextlib.contextmanager
    def office(self) -> Iterator[Office]:
        broker = self.make_broker()
        office = Office(broker, self.patience / 2)
        try:
            yield office
        except BaseException:
            with contextlib.suppress(Exception, Hung):  # what went wrong first is what its author should read
                office.close()
            raise
        else:
            office.close()
        finally:
            self.end_broker(broker)

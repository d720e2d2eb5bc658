"""What the tests of brokers share: a hand-written worker, and knowing when somebody waits."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from fuseline import MemoryBroker, Step, Workflow
from fuseline.attempt import build_shared_dict
from fuseline.messages import StepReport
from fuseline.policies import RetryPolicy
from fuseline.states import State

from .helpers import HANG, FakeClock, dag, report_of

SCHEMA = dag("a>b", policies={"a": [RetryPolicy(1, wait=4.0)]})


@contextmanager
def in_thread(function):
    """Run ``function`` in another thread; gives its future. It must have ended by the end of the block."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(function)


class Waits:
    """Knows when somebody waits for the condition of a broker."""

    def __init__(self, broker, monkeypatch):
        self.begun = threading.Semaphore(0)
        wait = broker._changed.wait

        def note_and_wait(timeout=None):
            self.begun.release()
            return wait(timeout)

        monkeypatch.setattr(broker._changed, "wait", note_and_wait)

    def wait_begun(self):
        assert self.begun.acquire(timeout=HANG)


def finish(broker, worker):
    while (assignment := broker.get_step(worker)) is not None:
        broker.report_step(worker, report_of(assignment, State.SUCCEEDED, result=assignment.step_name))


class Add(Step):
    def run_step(self, a, b=10):
        return a + b


class Double(Step):
    def run_step(self, x):
        return 2 * x


class Broken(Step):
    def run_step(self):
        raise ValueError("no")


class Office:
    """A broker with a clock moved by hand, and a hand-written worker of one workflow."""

    def __init__(self, workflow):
        self.clock = FakeClock()
        self.broker = MemoryBroker(clock=self.clock)
        self.workflow = workflow
        self.schema = workflow.to_schema()
        self.worker = self.broker.register_worker([self.schema])

    def dispatch(self, **inputs):
        return self.broker.dispatch_workflow(self.schema, inputs)

    def execute(self, assignment):
        """Carry out an assignment and return the bare report of a hand-written worker."""
        step = self.workflow.steps[assignment.step_name]
        result = self.workflow._execute_step(step, build_shared_dict(assignment.payload))
        return StepReport(
            workflow_id=assignment.workflow_id,
            instance_id=assignment.instance_id,
            step_name=assignment.step_name,
            state=step.state,
            result=result,
        )

    def work(self):
        while (assignment := self.broker.get_step(self.worker)) is not None:
            self.broker.report_step(self.worker, self.execute(assignment))


def adding(**options):
    add, double = Add(**options), Double()
    add >> double
    return Office(Workflow([double, add], name="adding"))


def failing(*policies):
    return Office(Workflow(Broken(policies=policies), name="failing"))

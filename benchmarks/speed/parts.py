"""``python -m benchmarks.speed.parts``: what a step that does nothing costs in each part of fuseline, part by part.

Most parts run alone, in this process, with nothing around them but what they need: nobody waits for anybody, and no two
parts share a processor. At last all of them run together, in three processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from benchmarks.speed.drivers import workflow_of
from benchmarks.speed.works import WORKERS, WORKS
from fuseline import MemoryBroker, ProcessEngine
from fuseline.attempt import Hosted
from fuseline.encoding import encode
from fuseline.executors.base import Executor
from fuseline.executors.pickling import pickle_hosted
from fuseline.messages import AttemptReport, Outcome, Payload, StepAssignment, StepReport
from fuseline.processes.line import ChildLine
from fuseline.processes.outbox import Outbox
from fuseline.processes.output import Output
from fuseline.processes.stamp import Stamp
from fuseline.processes.tickets import Tickets
from fuseline.scheduler import Answer, Assign, Reported, RunDispatched, Scheduler, StepsRequested, WorkerRegistered
from fuseline.states import State
from fuseline.wakeup import Wakeup
from fuseline.worker.messages import TO_CHILD, ChildSettings
from fuseline.worker.server import _Server
from fuseline.worker.streams import Streams

_STEPS = 5_000
_AT_ONCE = 100
_ROUNDS = 7

_NONE = encode(None)
_WORK = WORKS["flat"].make(_STEPS)
_WORKFLOW = workflow_of(_WORK)
_SCHEMA = _WORKFLOW.to_schema()


def best(run: Callable[[], float]) -> float:
    """Return the least of several times, in microseconds per step; the first one, which warms up, does not count."""
    return min([run() for _ in range(_ROUNDS)][1:]) / _STEPS * 1e6


# -- the program ------------------------------------------------------------------------------------------------------


def scheduler() -> float:
    """Hand out and take back all steps of a run, with nobody around the core."""
    core = Scheduler()
    core.handle(WorkerRegistered("w", (_SCHEMA,)), 0.0)
    core.handle(RunDispatched("r", _SCHEMA, {}), 0.0)
    start = time.perf_counter()
    while True:
        commands = core.handle(StepsRequested("w", _AT_ONCE), 0.0)
        assignments = [each for command in commands if isinstance(command, Assign) for each in command.assignments]
        if not assignments:
            return time.perf_counter() - start
        reports = [
            StepReport(
                workflow_id=each.workflow_id,
                instance_id=each.instance_id,
                step_name=each.step_name,
                state=State.SUCCEEDED,
                result=_NONE,
                token=each.token,
            )
            for each in assignments
        ]
        [answers] = [each.answers for each in core.handle(Reported("w", reports), 0.0) if isinstance(each, Answer)]
        assert len(answers) == len(reports)


class Mirror(Executor):
    """Says that each step has returned, at once."""

    name = "mirror"

    def __init__(self) -> None:
        super().__init__(1)
        self._assignments: list[StepAssignment] = []
        self._begun: list[int] = []
        self._wakeup = Wakeup()

    def start(self, workflows: Mapping[str, Hosted]) -> None:
        pass

    def fileno(self) -> int:
        return self._wakeup.fileno()

    def free_slots(self) -> int:
        return _AT_ONCE - len(self._assignments)

    def submit(self, assignments: Sequence[StepAssignment]) -> None:
        self._assignments += assignments
        self._begun += [assignment.token for assignment in assignments]

    def begun(self) -> Sequence[int]:
        begun, self._begun = self._begun, []
        return begun

    def poll(self) -> list[AttemptReport]:
        assignments, self._assignments = self._assignments, []
        now = time.monotonic()
        return [
            AttemptReport(token=each.token, outcome=Outcome.RETURNED, result=_NONE, started=now, ended=now)
            for each in assignments
        ]

    def deadline(self) -> float | None:
        return 0.0 if self._assignments else None

    def recall(self, tokens: Any = None) -> None:
        pass

    def kill(self, token: int) -> None:
        pass

    def close(self) -> None:
        pass


def engine() -> float:
    """Run all steps of a run with engine and broker, and no executor to speak of."""
    workflow = workflow_of(_WORK)
    workflow.executor = Mirror()
    broker = MemoryBroker()
    with ProcessEngine(broker, [workflow]) as running:
        broker.dispatch_workflow(workflow.to_schema())
        start = time.perf_counter()
        running.work()
        return time.perf_counter() - start


def at_work() -> tuple[float, float]:
    """Run all steps of a run in two children; return the processor time of this process, and of both children."""
    import psutil

    broker = MemoryBroker()
    with ProcessEngine(broker, [_WORKFLOW], processes=WORKERS) as running:

        def run() -> None:
            instance_id = broker.dispatch_workflow(_SCHEMA)
            running.work()
            broker.forget(instance_id)

        def used() -> tuple[float, float]:
            times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
            return time.process_time(), sum(each.user + each.system for each in times)

        run()
        before = used()
        for _ in range(_ROUNDS):
            run()
        ours, theirs = (after - before for before, after in zip(before, used(), strict=True))
    return ours / _ROUNDS / _STEPS * 1e6, theirs / _ROUNDS / _STEPS * 1e6


# -- the child --------------------------------------------------------------------------------------------------------


class Drain(ChildLine[Any]):
    """A line whose other end hears nothing, and makes room."""

    def __init__(self) -> None:
        outbox = Outbox()
        self._other_end = Outbox(os.dup(outbox._fd))
        super().__init__(os.pipe()[0], TO_CHILD, outbox)

    def send(self, message: msgspec.Struct) -> None:
        super().send(message)
        self._other_end.take(bytes, [])

    def nudge(self) -> bool:
        return True


def child(settings: ChildSettings) -> Callable[[], float]:
    """Return what runs all steps in the code of a child, which is this process; assignments come as bytes."""
    tickets = Tickets()
    streams = Streams(Output(lambda stream, text: None).theirs)
    server = _Server(Drain(), Stamp(), tickets, streams, settings)
    server._pickles[_SCHEMA.workflow_id] = pickle_hosted(_SCHEMA.workflow_id, _WORKFLOW.hosted())
    decode = msgspec.msgpack.Decoder(StepAssignment).decode
    encoded = [
        msgspec.msgpack.encode(
            StepAssignment(
                workflow_id=_SCHEMA.workflow_id,
                instance_id="0123456789abcdef",
                step_name=step.name,
                payload=Payload(arguments={}, instance_id="0123456789abcdef"),
                token=number,
            )
        )
        for number, step in enumerate(_SCHEMA.steps, 1)
    ]

    def run() -> float:
        start = time.perf_counter()
        for place in range(0, _STEPS, _AT_ONCE):
            tickets.issue(list(range(place + 1, place + _AT_ONCE + 1)))
            for each in encoded[place : place + _AT_ONCE]:
                assignment = decode(each)
                assert tickets.redeem(assignment.token)
                server._attempt(assignment)
        return time.perf_counter() - start

    return run


def main() -> None:
    told = os.fdopen(os.dup(1), "w")  # in the child's half, standard output is no longer ours

    def tell(microseconds: float, what: str) -> None:
        print(f"{microseconds:6.1f}  {what}", file=told, flush=True)

    tell(best(scheduler), "the core of the scheduler, alone")
    tell(best(engine), "the same with engine and broker around it, alone")
    tell(best(child(ChildSettings(isolation=False, seeds=False))), "a child without isolation, alone")
    tell(best(child(ChildSettings())), "a child, alone")
    program, children = at_work()
    tell(program, "the program at work, executor included")
    tell(children, "children at work")
    print("µs of processor time for each step", file=told, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()

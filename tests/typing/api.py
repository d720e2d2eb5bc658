"""The public API as a type checker sees it: checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fuseline import (
    Broker,
    Depends,
    MemoryBroker,
    ProcessEngine,
    RunInfo,
    State,
    Step,
    StepAssignment,
    StepReport,
    Workflow,
    WorkflowSchema,
    current_run,
)
from fuseline.executors import Executor, LokyExecutor
from fuseline.policies import FailureDecision, RetryPolicy, StepPolicy, StepTimeoutPolicy, WorkflowPolicy
from fuseline.worker import build_shared_dict


class Load(Step):
    def __init__(self, path: str) -> None:
        super().__init__(name="load", policies=[StepTimeoutPolicy(5)])
        self.path = path

    def setup(self) -> None:
        self.file = open(self.path)  # noqa: SIM115 - closed in teardown

    def run_step(self, limit: int = 3) -> list[str]:
        return self.file.readlines()[:limit]

    def teardown(self) -> None:
        self.file.close()


load = Load("x")


class Count(Step):
    async def run_step(self, lines: list[str] = Depends(load)) -> int:  # type: ignore[assignment]
        return len(lines)


class Report(Step):
    def run_step(self, *counts: int) -> int:
        return sum(counts)


class Timed(StepPolicy):
    def execute(self, step: Step, call: Callable[[], Any]) -> Any:
        return call()

    async def execute_async(self, step: Step, call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()

    def on_failure(self, step: Step, exc: BaseException, attempt: int) -> FailureDecision | None:
        return FailureDecision(FailureDecision.RETRY, delay=1.0) if attempt < 3 else None


class Observer(WorkflowPolicy):
    def on_workflow_finished(self, workflow: Workflow, state: State) -> None:
        print(workflow.name, state)

    def on_step_success(self, step: Step, result: Any) -> None:
        run = current_run()
        print(run.attempt if run else None)


count, report = Count(policies=[RetryPolicy(max_retries=2, wait=1, retry_on=(OSError, "mine.Error"))]), Report()
load.next(count).next(report)
load >> count >> report
workflow = Workflow(
    outputs=[report], policies=[Timed(), Observer()], executor="loky", name="w", version="1", on_failure="continue"
)
result: Any = workflow.run({"limit": 3}, executor=LokyExecutor(2), processes=2, progress=True)
steps: dict[str, Step] = workflow.steps
schema: WorkflowSchema = WorkflowSchema.from_json(workflow.to_schema().to_json())

broker: Broker = MemoryBroker()
instance_id: str = broker.dispatch_workflow(schema, {"limit": 2})
ids: list[str] = broker.dispatch_many(schema, ({"limit": i} for i in range(3)))
ProcessEngine(broker, [workflow], processes=8, executor="threads").work(block=False)
with ProcessEngine(broker, [workflow]) as engine:
    engine.work()
info: RunInfo = broker.get_run(instance_id)
state: State = info.steps["load"].state

worker_id: str = broker.register_worker([schema])
assignment: StepAssignment | None = broker.get_step(worker_id, timeout=1.0)
assert assignment is not None
shared: dict[str, Any] = build_shared_dict(assignment.payload)
outcome: Any = workflow._execute_step(workflow.steps[assignment.step_name], shared)
broker.report_step(
    worker_id,
    StepReport(
        workflow_id=assignment.workflow_id,
        instance_id=assignment.instance_id,
        step_name=assignment.step_name,
        state=load.state,
        result=outcome,
    ),
)


async def use() -> Any:
    return await workflow.run_async({"limit": 1})


def make_executor() -> Executor:
    return LokyExecutor()

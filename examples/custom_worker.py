"""Write a worker of your own: fetch a step from the broker, run it here with all its policies, report how it ended.

``ProcessEngine`` does this, and more: it runs steps in child processes, and many at a time. A loop like this one is for
places where it does not fit, such as a thread of a program that does other things as well.

It shows that the worker decides nothing: the first attempt of a step fails, the worker reports just that, and the
broker hands the step out again because of its ``RetryPolicy``.

Run it with::

    python examples/custom_worker.py
"""

from fuseline import Step, Workflow, current_run
from fuseline.broker import MemoryBroker, StepReport
from fuseline.policies import RetryPolicy
from fuseline.worker import build_shared_dict


class FetchNumbers(Step):
    def run_step(self, count: int) -> list[int]:
        if current_run().attempt == 1:
            raise ConnectionError("the source did not answer")
        return list(range(1, count + 1))


class AddUp(Step):
    def run_step(self, numbers: list[int]) -> int:
        return sum(numbers)


fetch = FetchNumbers(policies=[RetryPolicy(max_retries=2, wait=0.2)])
add_up = AddUp()
fetch.next(add_up)
workflow = Workflow(outputs=[add_up])
workflow_step_map = workflow.steps

broker = MemoryBroker()
instance = broker.dispatch_workflow(workflow.to_schema(), {"count": 100})
worker_id = broker.register_worker([workflow.to_schema()])

while broker.unsettled(worker_id):
    assignment = broker.get_step(worker_id, timeout=1.0)
    if assignment is None:  # a retry waits still, or another worker has what is left
        continue
    step = workflow_step_map[assignment.step_name]
    shared = build_shared_dict(assignment.payload)
    result = workflow._execute_step(step, shared)
    broker.report_step(
        worker_id,
        StepReport(
            workflow_id=assignment.workflow_id,
            instance_id=assignment.instance_id,
            step_name=assignment.step_name,
            state=step.state,
            result=result,
        ),
    )
    print(f"{step.name}, attempt {assignment.attempt}: {step.state}" + (f" ({step.error})" if step.error else ""))

workflow.teardown()
broker.unregister_worker(worker_id)
print("result:", broker.result(instance))

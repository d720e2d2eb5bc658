"""The steps of chaos: each does what the plan says, writes down when, and looks whether it is alone."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path

from fuseline import Step, Workflow, current_run
from fuseline.policies import RetryPolicy, StepTimeoutPolicy

from .journal import note
from .plan import Act, StepPlan, WorkflowPlan

__all__ = ["FOLDER", "Planned", "PlannedError", "build"]

#: Name of the variable that says where journal and locks are. It also tells our processes from all others.
FOLDER = "FUSELINE_CHAOS"


class PlannedError(Exception):
    """Raised on purpose."""


class Planned(Step):
    """A step of a plan."""

    def __init__(self, plan: StepPlan, befores: tuple[StepPlan, ...], seed: int) -> None:
        policies = [RetryPolicy(plan.retries, wait=plan.wait)] if plan.retries else []
        timeouts = [] if plan.timeout is None else [StepTimeoutPolicy(plan.timeout)]
        super().__init__(name=plan.name, policies=[*policies, *timeouts])
        self.plan = plan
        self.befores = befores
        self.seed = seed

    def run_step(self, number: int, *values: bytes) -> bytes:
        run = current_run()
        assert run is not None
        assert run.instance_id is not None
        assert run.attempt is not None
        folder = Path(os.environ[FOLDER])
        whom = (run.instance_id, self.plan.name, run.attempt)
        lock = os.open(folder / "locks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            note(folder, "start", *whom)
            try:  # the kernel lets go of it when a process ends: it knows best whether the one before is dead
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number * 16 + self.plan.index)
            except OSError as error:
                note(folder, "met", *whom, str(error))
            if values != tuple(before.value(self.seed, number) for before in self.befores):
                note(folder, "wrong", *whom, f"got {[value[:8] for value in values]}")
            time.sleep(self.plan.duration(self.seed, number, run.attempt))
            act = self.plan.act(self.seed, number, run.attempt)
            if act is not Act.HANG:
                note(folder, "end", *whom, act)
            return self._do(act, number, run.attempt)
        finally:
            os.close(lock)

    def _do(self, act: Act, number: int, attempt: int) -> bytes:
        if act is Act.RAISE:
            raise PlannedError(f"attempt {attempt}")
        if act is Act.CRASH:
            os.kill(os.getpid(), signal.SIGKILL)
        if act is Act.EXIT:
            os._exit(3)
        while act is not Act.RETURN:
            time.sleep(3600)
        return self.plan.value(self.seed, number)


def build(plan: WorkflowPlan, seed: int) -> Workflow:
    """Return the workflow of a plan."""
    plans = {each.name: each for each in plan.steps}
    steps: dict[str, Planned] = {}
    for each in plan.steps:
        step = steps[each.name] = Planned(each, tuple(plans[name] for name in each.after), seed)
        for name in each.after:
            steps[name].next(step)
    outputs = [steps[each.name] for each in plan.outputs]
    return Workflow(outputs, name=plan.name, on_failure="continue" if plan.goes_on else "stop")

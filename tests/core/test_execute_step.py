"""``Workflow._execute_step``: one attempt in the calling process, with all policies, for hand-written workers."""

from __future__ import annotations

import asyncio
import threading

import pytest

from fuseline import Step, StepCrashed, StepTimedOut, Workflow, current_run
from fuseline.attempt import build_shared_dict
from fuseline.errors import NotPicklableError, WorkflowError
from fuseline.messages import Payload
from fuseline.policies import StepTimeoutPolicy
from fuseline.states import State

from .helpers import HANG


class Work(Step):
    """Calls the function it is given; counts its setups and teardowns."""

    def __init__(self, function=lambda: "done", **options):
        super().__init__(**options)
        self.function = function
        self.calls = []

    def setup(self):
        self.calls.append("setup")

    def run_step(self):
        self.calls.append("run")
        return self.function()

    def teardown(self):
        self.calls.append("teardown")


class AsyncWork(Step):
    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = function

    async def run_step(self, x=0):
        return await self.function()


def raises(error: BaseException):
    def function():
        raise error

    return function


def one_after_the_other(*functions):
    rest = iter(functions)

    def function():
        return next(rest)()

    return function


def execute(step: Step, shared=None, **options):
    return Workflow(step, **options)._execute_step(step, {} if shared is None else shared)


# -- how it ends ------------------------------------------------------------------------------------------------------


def test_a_step_that_returns_has_succeeded_and_its_result_is_returned():
    step = Work()
    assert execute(step) == "done"
    assert (step.state, step.error) == (State.SUCCEEDED, None)


def test_arguments_come_from_the_shared_dict_and_others_are_left_out():
    class Add(Step):
        def run_step(self, a, b=10, *rest, c):
            return (a, b, rest, c)

    shared = {"a": 1, "rest": (2, 3), "c": None, "unknown": 5}
    assert execute(Add(), shared) == (1, 10, (2, 3), None)


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError(), ExceptionGroup("two", [KeyError(1)])])
def test_a_step_that_raises_has_failed_with_that_very_error_and_returns_none(error):
    step = Work(raises(error))
    assert execute(step) is None
    assert step.state is State.FAILED
    assert step.error is error


def test_a_missing_argument_fails_the_attempt_and_names_the_parameter():
    class Add(Step):
        def run_step(self, a, b): ...

    step = Add()
    assert execute(step, {"a": 1}) is None
    assert isinstance(step.error, TypeError)
    assert "'b'" in str(step.error)


@pytest.mark.parametrize("code", [0, 3, None, "bye"])
def test_sys_exit_is_contained_and_named(code):
    step = Work(raises(SystemExit(code)))
    assert execute(step) is None
    assert step.state is State.FAILED
    assert isinstance(step.error, StepCrashed)
    assert f"called sys.exit({'' if code is None else repr(code)})" in str(step.error)
    assert step.error.exit_code == (code if isinstance(code, int) else None)
    assert isinstance(step.error.__cause__, SystemExit)


def test_sys_exit_with_an_object_that_cannot_be_shown_is_contained_too():
    class Unshowable:
        def __repr__(self):
            raise RuntimeError("no words")

    step = Work(raises(SystemExit(Unshowable())))
    assert execute(step) is None
    assert "called sys.exit(<its __repr__ raised RuntimeError>)" in str(step.error)


def test_ctrl_c_comes_through():
    workflow = Workflow(Work(raises(KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        workflow._execute_step(workflow.outputs[0], {})


class Odd(BaseException):
    pass


@pytest.mark.parametrize("error", [Odd("odd"), asyncio.CancelledError(), GeneratorExit()])
def test_any_other_base_exception_is_a_failure_of_the_step(error):
    step = Work(raises(error))
    assert execute(step) is None
    assert step.state is State.FAILED
    assert step.error is not None


def test_a_result_that_cannot_be_pickled_fails_the_attempt_and_is_named():
    step = Work(threading.Lock, name="fit")
    assert execute(step) is None
    assert step.state is State.FAILED
    assert isinstance(step.error, NotPicklableError)
    assert "the result of step 'fit'" in str(step.error)
    assert "lock" in str(step.error)


def test_the_next_attempt_forgets_the_error_of_the_one_before():
    step = Work(one_after_the_other(raises(ValueError()), lambda: 5))
    workflow = Workflow(step)
    workflow._execute_step(step, {})
    assert step.state is State.FAILED
    assert workflow._execute_step(step, {}) == 5
    assert (step.state, step.error) == (State.SUCCEEDED, None)


def test_a_step_of_another_workflow_is_refused():
    stranger = Work()
    with pytest.raises(WorkflowError, match="is no step of workflow 'etl'"):
        Workflow(Work(), name="etl")._execute_step(stranger, {})


# -- setup and teardown -----------------------------------------------------------------------------------------------


def test_setup_runs_once_before_the_first_run_step():
    step = Work()
    workflow = Workflow(step)
    workflow._execute_step(step, {})
    workflow._execute_step(step, {})
    assert step.calls == ["setup", "run", "run"]


def test_a_failing_setup_fails_the_attempt_and_is_tried_again():
    step = Work()
    step.setup = one_after_the_other(raises(OSError("no file")), lambda: None)
    workflow = Workflow(step)
    assert workflow._execute_step(step, {}) is None
    assert isinstance(step.error, OSError)
    assert step.calls == []
    assert workflow._execute_step(step, {}) == "done"


def test_teardown_runs_for_what_was_set_up_last_first_and_goes_on_after_an_error(caplog):
    order = []
    steps = [Work(name=name) for name in "abc"]
    for step in steps[:2]:
        step.teardown = lambda step=step: order.append(step.name)
    broken, last = steps[1], steps[0]
    broken.teardown = raises(ValueError("stuck"))
    workflow = Workflow(steps)
    for step in (last, broken):
        workflow._execute_step(step, {})
    workflow.teardown()
    workflow.teardown()
    assert order == ["a"]
    assert "teardown of step 'b' failed" in caplog.text
    assert "teardown" not in steps[2].calls


def test_setup_runs_again_after_teardown():
    step = Work()
    workflow = Workflow(step)
    workflow._execute_step(step, {})
    workflow.teardown()
    workflow._execute_step(step, {})
    assert step.calls == ["setup", "run", "teardown", "setup", "run"]


def test_a_second_thread_waits_for_the_setup_of_the_first():
    in_setup, go, order = threading.Event(), threading.Event(), []

    def setup():
        order.append("setup")
        in_setup.set()
        assert go.wait(HANG)
        order.append("set up")

    step = Work(lambda: order.append("run"))
    step.setup = setup
    workflow = Workflow(step)
    threads = [threading.Thread(target=workflow._execute_step, args=(step, {})) for _ in range(3)]
    threads[0].start()
    assert in_setup.wait(HANG)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(HANG)
    assert order == ["setup", "set up", "run", "run", "run"]


# -- where am I -------------------------------------------------------------------------------------------------------


def test_current_run_tells_run_step_and_attempt_and_nothing_outside():
    step = Work(current_run, name="fit")
    payload = Payload(arguments={}, attempt=3, instance_id="r1")
    workflow = Workflow(step, name="etl", version="2")
    workflow_id = workflow.to_schema().workflow_id
    context = workflow._execute_step(step, build_shared_dict(payload))
    assert (context.workflow_id, context.instance_id, context.step_name, context.attempt) == (
        workflow_id,
        "r1",
        "fit",
        3,
    )
    assert current_run() is None


# -- async steps ------------------------------------------------------------------------------------------------------


def test_an_async_step_runs_to_its_end():
    async def function():
        await asyncio.sleep(0)
        return current_run().step_name

    assert execute(AsyncWork(function, name="fetch")) == "fetch"


def test_an_async_step_runs_where_a_loop_runs_already():
    async def function():
        await asyncio.sleep(0)
        return current_run().step_name

    async def main():
        return execute(AsyncWork(function, name="fetch"))

    assert asyncio.run(main()) == "fetch"


def test_an_async_step_is_cancelled_at_its_timeout_and_may_clean_up():
    cleaned = []

    async def function():
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    step = AsyncWork(function, policies=[StepTimeoutPolicy(0.02)])
    assert execute(step) is None
    assert isinstance(step.error, StepTimedOut)
    assert cleaned == [True]


def test_a_timeout_error_of_an_async_step_itself_is_its_own():
    async def function():
        raise TimeoutError("mine")

    step = AsyncWork(function, policies=[StepTimeoutPolicy(HANG)])
    execute(step)
    assert type(step.error) is TimeoutError
    assert str(step.error) == "mine"

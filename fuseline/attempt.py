"""One attempt of one step in the process at hand, with all its policies: the same code in a child, a thread, the
calling thread and a hand-written worker.

::

    setup (once) ─▶ on_start ─▶ execute( execute( … run_step … )) ─▶ encode the result ─▶ on_success
                         └────────── whatever one of these raises ──▶ on_failure: retry, fail or skip?
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from fuseline.context import RunContext, StopNow, entered
from fuseline.encoding import decode, encode_checked, encode_error, show
from fuseline.errors import StepCrashed, StepTimedOut
from fuseline.messages import AttemptReport, FailureAction, FailureDecision, Outcome, Payload, Phase
from fuseline.policies.base import StepPolicy, overrides
from fuseline.policies.memory_guard import MemoryGuard
from fuseline.spool import Spool
from fuseline.step import Step, signature_of
from fuseline.value_files import map_read_only, map_value
from fuseline.values import Value

if TYPE_CHECKING:
    from fuseline.workplace import Workplace

__all__ = [
    "Hosted",
    "SharedDict",
    "StepHost",
    "build_shared_dict",
    "contain",
    "context_of",
    "decide_failure",
]

_log = logging.getLogger("fuseline")

_NO_SETUP, _NO_TEARDOWN = Step.setup, Step.teardown

#: {step's name: (the step, all policies that apply to it, outermost first)}
Hosted = Mapping[str, tuple[Step, Sequence[StepPolicy]]]
MapFile = Callable[[str], list[memoryview]]


class SharedDict(dict[str, Any]):
    """The arguments of an attempt: ``{parameter of run_step: object}``, and the payload they were made of."""

    payload: Payload | None = None


def build_shared_dict(payload: Payload) -> SharedDict:
    """Return the arguments of an attempt as objects, ``{parameter of run_step: object}``.

    Unpickles what the steps before have returned, so it may raise whatever their classes raise then.
    """
    return _build(payload, map_value)


def _build(payload: Payload, map_file: MapFile) -> SharedDict:
    shared = SharedDict()
    shared.payload = payload
    for name, value in payload.arguments.items():
        if isinstance(value, tuple):
            shared[name] = tuple([decode(each, map_file) for each in value]) if value else ()
        else:
            shared[name] = decode(value, map_file)
    return shared


class StepHost:
    """Runs attempts in this process and remembers which steps are set up here.

    Args:
        killed_from_outside: whether somebody else sees to timeouts.
        workplace: where results go that are large; None if nowhere else.
        on_setup: called after the ``setup`` of a step.
        on_phase: called when an attempt enters the next phase after ``ARGUMENTS``.
        map_file: gives the parts of a large argument, read-only, whose file it is called with.
    """

    def __init__(
        self,
        *,
        killed_from_outside: bool = False,
        workplace: Workplace | None = None,
        on_setup: Callable[[Step], None] = lambda step: None,
        on_phase: Callable[[Phase], None] = lambda phase: None,
        map_file: MapFile = map_read_only,
    ) -> None:
        self._killed_from_outside = killed_from_outside
        self._workplace = workplace
        self._on_setup = on_setup
        self._on_phase = on_phase
        self._map_file = map_file
        self._spool: Spool | None = None
        if workplace is not None and workplace.spools is not None and workplace.presence is not None:
            self._spool = Spool(workplace.spools, workplace.presence.name)
        self._set_up: dict[Step, None] = {}
        self._plans: dict[Step, _CallPlan] = {}
        #: Of steps without policies, by their class and the ``id`` of their function.
        self._bare_plans: dict[tuple[type[Step], int], _CallPlan] = {}
        self._locks: dict[Step, threading.Lock] = {}
        self._lock = threading.Lock()

    def carry_out(
        self,
        step: Step,
        policies: Sequence[StepPolicy],
        *,
        workflow_id: str,
        payload: Payload,
        token: int,
        memory_limit: int | None = None,
    ) -> AttemptReport:
        """Run an attempt to its end and report on it. Blocks; contains all that it raises, but for ``StopNow``.

        Args:
            memory_limit: bytes; allocations far beyond it are refused to the whole process. None for no limit.
        """
        started = time.monotonic()
        try:
            if memory_limit is None:
                value = self._value_of(step, policies, payload, workflow_id)
            else:
                with MemoryGuard(memory_limit, step.name, payload):
                    value = self._value_of(step, policies, payload, workflow_id)
        except StopNow:
            raise
        except BaseException as raised:
            error = contain(raised, step.name, payload)
            decision, place = decide_failure(step, policies, error, payload, workflow_id=workflow_id)
            outcome = Outcome.TIMED_OUT if isinstance(error, StepTimedOut) else Outcome.RAISED
            report = AttemptReport(
                token=token,
                outcome=outcome,
                error=encode_error(error),
                decision=decision,
                decided_by=place,
                started=started,
                ended=time.monotonic(),
            )
        else:
            ended = time.monotonic()
            report = AttemptReport(token=token, outcome=Outcome.RETURNED, result=value, started=started, ended=ended)
        if self._spool is not None:
            self._spool.add(report)
        return report

    def _value_of(self, step: Step, policies: Sequence[StepPolicy], payload: Payload, workflow_id: str) -> Value:
        shared = _build(payload, map_value if step.writable_arguments else self._map_file)
        return self.run(step, policies, shared, workflow_id=workflow_id)[1]

    def run(
        self, step: Step, policies: Sequence[StepPolicy], shared: Mapping[str, Any], *, workflow_id: str
    ) -> tuple[Any, Value]:
        """Run an attempt with the arguments in ``shared``; return its result as it is and encoded.

        Blocks. Raises what the step, its ``setup``, a policy or the encoding of the result raises.
        """
        payload = getattr(shared, "payload", None)
        before = entered.set(context_of(step.name, payload, workflow_id, self._killed_from_outside))
        self._on_phase(Phase.RUNNING)
        try:
            cls = type(step)
            if (cls.setup is not _NO_SETUP or cls.teardown is not _NO_TEARDOWN) and step not in self._set_up:
                self._ensure_set_up(step)
            plan = self._plan(step, policies)
            for policy in plan.with_on_start:
                policy.on_start(step)
            result = plan.call(step, shared)
            self._on_phase(Phase.RESULT)
            value = encode_checked(result, f"the result of step {step.name!r}", self._workplace)
            if plan.with_on_success:
                self._on_phase(Phase.RUNNING)
                for policy in plan.with_on_success:
                    policy.on_success(step, result)
                self._on_phase(Phase.RESULT)
            return result, value
        finally:
            entered.reset(before)

    def _plan(self, step: Step, policies: Sequence[StepPolicy]) -> _CallPlan:
        """Return how a step and its policies are called; steps of one class without policies have one plan."""
        function = _function(step)
        if not policies:
            plan = self._bare_plans.get((type(step), id(function)))
            if plan is None:
                plan = _CallPlan(step, policies)  # which keeps the function
                self._bare_plans[type(step), id(function)] = plan
            return plan
        plan = self._plans.get(step)
        if plan is None or not plan.is_for(function, policies):
            plan = self._plans[step] = _CallPlan(step, policies)
        return plan

    def _ensure_set_up(self, step: Step) -> None:
        if type(step).setup is _NO_SETUP:
            self._set_up[step] = None  # for its teardown
            return
        with self._lock:
            lock = self._locks.setdefault(step, threading.Lock())
        with lock:  # a second thread waits for the first one's setup
            if step not in self._set_up:
                step.setup()
                self._set_up[step] = None
                self._on_setup(step)

    def close(self) -> None:
        """Tear down what was set up, last first. An error is logged, and the others are still torn down."""
        if self._spool is not None:
            self._spool.close()
        while self._set_up:
            step, _ = self._set_up.popitem()
            try:
                step.teardown()
            except Exception:
                _log.exception("teardown of step %r failed", step.name)


def context_of(
    step_name: str, payload: Payload | None, workflow_id: str, killed_from_outside: bool = False
) -> RunContext:
    """Return what ``current_run`` tells in an attempt, and in the hooks about it."""
    return RunContext(
        workflow_id=workflow_id,
        instance_id=payload.instance_id if payload else None,
        step_name=step_name,
        attempt=payload.attempt if payload else 1,
        failures=sum(payload.failures.values()) if payload and payload.failures else 0,
        killed_from_outside=killed_from_outside,
    )


class _CallPlan:
    """How a step and its policies are called: what every attempt of it has in common."""

    def __init__(self, step: Step, policies: Sequence[StepPolicy]) -> None:
        self._policies = policies
        self._function = _function(step)
        self._parameters = signature_of(step).parameters
        by_name = {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}
        self._takes_names = all(parameter.kind in by_name for parameter in self._parameters)
        #: The name of a ``*parameter`` that is the only one.
        self._takes_all: str | None = None
        if len(self._parameters) == 1 and self._parameters[0].kind is Parameter.VAR_POSITIONAL:
            self._takes_all = self._parameters[0].name
        self._is_async = inspect.iscoroutinefunction(step.run_step)
        execute = "execute_async" if self._is_async else "execute"
        self._wrappers = [getattr(policy, execute) for policy in reversed(policies) if overrides(policy, execute)]
        self.with_on_start = [policy for policy in policies if overrides(policy, "on_start")]
        self.with_on_success = [policy for policy in policies if overrides(policy, "on_success")]

    def is_for(self, function: Any, policies: Sequence[StepPolicy]) -> bool:
        """Return whether the plan is one for a step that has this function and these policies now."""
        return policies is self._policies and function is self._function

    def call(self, step: Step, shared: Mapping[str, Any]) -> Any:
        """Return what ``run_step`` within all its policies returns."""
        args, kwargs = self._arguments(shared)
        if not (self._wrappers or self._is_async):
            return step.run_step(*args, **kwargs)
        call: Callable[[], Any] = partial(step.run_step, *args, **kwargs)
        for execute in self._wrappers:
            call = partial(execute, step, call)
        return _run_coroutine(call()) if self._is_async else call()

    def _arguments(self, shared: Mapping[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        """Return positional and keyword arguments for ``run_step``; what it does not take is left out."""
        if not shared:
            return [], {}  # the call itself raises the TypeError that says what is missing
        if self._takes_all is not None:
            return shared.get(self._takes_all, ()), {}
        if self._takes_names:
            return [], {each.name: shared[each.name] for each in self._parameters if each.name in shared}
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        by_position = any(p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL) for p in self._parameters)
        for parameter in self._parameters:
            name = parameter.name
            if parameter.kind is parameter.VAR_POSITIONAL:
                args.extend(shared.get(name, ()))
            elif by_position and parameter.kind is not parameter.KEYWORD_ONLY:
                if name not in shared and parameter.default is parameter.empty:
                    by_position = False  # missing; the call itself raises the TypeError that says so
                else:
                    args.append(shared.get(name, parameter.default))
            elif name in shared:
                kwargs[name] = shared[name]
        return args, kwargs


def _function(step: Step) -> Any:
    return getattr(step.run_step, "__func__", step.run_step)


def _check_verdict(verdict: object) -> FailureDecision | None:
    if isinstance(verdict, FailureAction):
        return FailureDecision(verdict)
    if verdict is None or isinstance(verdict, FailureDecision):
        return verdict
    raise TypeError(f"on_failure returned {verdict!r}; it should return a FailureDecision or None")


def _run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio  # imported late: it is large, and few steps need it

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    # A loop is running in this very thread (a notebook, say), and a second one cannot: borrow another thread.
    from concurrent.futures import ThreadPoolExecutor
    from contextvars import copy_context

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(copy_context().run, asyncio.run, coroutine).result()


def contain(raised: BaseException, step_name: str, payload: Payload | None) -> BaseException:
    """Return what an attempt raised as something that can go through a program without ending it."""
    if isinstance(raised, SystemExit):
        how = f"called sys.exit({'' if raised.code is None else show(raised.code)})"
    elif isinstance(raised, KeyboardInterrupt):
        how = "raised KeyboardInterrupt"
    else:
        return raised
    error = StepCrashed(
        step_name=step_name,
        how=how,
        exit_code=getattr(raised, "code", None) if isinstance(getattr(raised, "code", None), int) else None,
        instance_id=payload.instance_id if payload else None,
        attempt=payload.attempt if payload else None,
    )
    error.__cause__ = raised
    return error.with_traceback(raised.__traceback__)


def decide_failure(
    step: Step,
    policies: Sequence[StepPolicy],
    error: BaseException,
    payload: Payload | None,
    *,
    workflow_id: str,
) -> tuple[FailureDecision, int | None]:
    """Ask the policies of a step, in order, what follows a failed attempt; the first that decides is heard.

    Every policy is asked, so that each ``on_failure`` sees each failure. If none decides, the step has failed.

    Returns:
        The decision, and the place of the policy that took it (None if it was nobody).
    """
    attempt = payload.attempt if payload else 1
    failures = payload.failures if payload else {}
    decision: FailureDecision | None = None
    place: int | None = None
    before = entered.set(context_of(step.name, payload, workflow_id))
    for index, policy in enumerate(policies):
        number = failures.get(index, 0) + 1 if policy.counts_own_failures else attempt
        try:
            verdict = _check_verdict(policy.on_failure(step, error, number))
        except KeyboardInterrupt:
            raise
        except BaseException:
            _log.exception("%r could not decide about a failure of step %r", policy, step.name)
            continue
        if decision is None and verdict is not None:
            decision, place = verdict, index
    entered.reset(before)
    return decision or FailureDecision(FailureDecision.FAIL), place

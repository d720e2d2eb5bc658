"""The two base classes of policies, and how a policy becomes part of a schema.

A ``StepPolicy`` wraps an attempt where it runs: in the child, if the executor has children. Only ``on_failure`` of an
attempt that took its process with it is called by the engine instead. A ``WorkflowPolicy`` observes, in the process
that calls ``work()`` or ``run()``.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from fuseline.errors import PolicyError
from fuseline.messages import FailureDecision
from fuseline.schema import PolicyConfig
from fuseline.states import State

if TYPE_CHECKING:
    from fuseline.step import Step
    from fuseline.workflow import Workflow

__all__ = ["Policy", "StepPolicy", "WorkflowPolicy", "built_in_policy", "check_hooks", "overrides", "policy_config"]

P = TypeVar("P", bound="Policy")


class Policy:
    """What both kinds of policies share. Subclass ``StepPolicy`` or ``WorkflowPolicy``, not this."""

    #: Abilities that an executor must have to honour the policy, such as ``"kills"``.
    needs: frozenset[str] = frozenset()
    #: Names of the hooks, so that an override with other parameters is refused when it is attached.
    _hooks: ClassVar[tuple[str, ...]] = ()

    def attach_to_workflow(self, workflow: Workflow) -> None:
        """Called once when the policy is added to a workflow; override it to look at the workflow or refuse it."""

    def to_config(self) -> dict[str, Any]:
        """Return the configuration as data that JSON can hold; it becomes part of the schema and its fingerprint.

        The default has none. Override it together with ``from_config`` if a changed configuration means a changed
        workflow; leave out state that the policy gathers.
        """
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the policy that ``to_config`` made ``config`` of."""
        return cls(**config)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.to_config().items())
        return f"{type(self).__name__}({fields})"


class StepPolicy(Policy):
    """Wraps the attempts of a step. Subclass it and override the hooks you care about.

    On a workflow it applies to each of its steps, except to those that have a policy of the same class of their own.
    Policies execute outermost first: those of the workflow, then those of the step, each in the order they were added.

    One instance serves all attempts of its steps, in several processes or threads, so it had better keep no state.
    An exception raised by a hook other than ``on_failure`` fails the attempt.
    """

    #: What ``attempt`` counts in ``on_failure``: False, the attempts of the step; True, only the failures that this
    #: policy has decided so far and the one it is asked about, which gives it a budget of its own.
    counts_own_failures: ClassVar[bool] = False
    _hooks = ("attach_to_step", "execute", "execute_async", "on_start", "on_success", "on_failure")

    def attach_to_step(self, step: Step) -> None:
        """Called once when the policy is added to a step; override it to look at the step or refuse it."""

    def execute(self, step: Step, call: Callable[[], Any]) -> Any:
        """Run an attempt of a ``def run_step`` by calling ``call()``, and return what it returns."""
        return call()

    async def execute_async(self, step: Step, call: Callable[[], Awaitable[Any]]) -> Any:
        """Run an attempt of an ``async def run_step`` by awaiting ``call()``, and return what it returns."""
        return await call()

    def on_start(self, step: Step) -> None:
        """Called when an attempt starts, after ``setup`` and before ``execute``."""

    def on_success(self, step: Step, result: Any) -> None:
        """Called when an attempt has returned ``result``."""

    def on_failure(self, step: Step, exc: BaseException, attempt: int) -> FailureDecision | None:
        """Decide what follows a failed attempt, or return None to leave that to the next policy.

        Called where the attempt ran; by the engine, if its process is gone. If no policy decides, the step has failed.

        Args:
            exc: what was raised; ``StepTimedOut``, ``StepOutOfMemory`` or ``StepCrashed`` if the attempt was ended from
                outside.
            attempt: the number of the attempt, from 1 (but see ``counts_own_failures``).
        """
        return None


class WorkflowPolicy(Policy):
    """Observes the runs of a workflow. Subclass it and override the hooks you care about.

    The hooks are called in the thread that calls ``work()`` or ``run()``, each exactly once per event, and never at the
    same time; ``current_run()`` tells which run it is. Between them the engine stands still, so keep them short. An
    exception in a hook is logged and changes nothing.
    """

    _hooks = (
        "on_workflow_start",
        "on_workflow_finished",
        "on_step_start",
        "on_step_success",
        "on_step_failure",
        "on_step_retry",
    )

    def on_workflow_start(self, workflow: Workflow) -> None:
        """Called when the first step of a run starts."""

    def on_workflow_finished(self, workflow: Workflow, state: State) -> None:
        """Called when a run has ended as ``SUCCEEDED``, ``FAILED`` or ``CANCELLED``."""

    def on_step_start(self, step: Step) -> None:
        """Called when an attempt of a step is handed to the executor."""

    def on_step_success(self, step: Step, result: Any) -> None:
        """Called when a step has succeeded."""

    def on_step_failure(self, step: Step, exc: BaseException) -> None:
        """Called when an attempt has failed, whether or not it is retried."""

    def on_step_retry(self, step: Step, exc: BaseException, delay: float) -> None:
        """Called after ``on_step_failure`` if the step will be tried again in ``delay`` seconds."""


def overrides(policy: Policy, hook: str) -> bool:
    """Return whether the class of ``policy`` has its own version of a hook, so that calling it does something."""
    base = StepPolicy if isinstance(policy, StepPolicy) else WorkflowPolicy
    own = getattr(type(policy), hook, None)
    return own is not None and own is not getattr(base, hook, None)


def is_finite(value: object) -> bool:
    """Return whether ``value`` is a finite number that a float can hold; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_hooks(policy: Policy) -> None:
    """Check that each overridden hook takes the arguments it will be called with.

    Raises:
        PolicyError: one does not; it names hook and parameters.
    """
    for hook in policy._hooks:
        for base in (StepPolicy, WorkflowPolicy):
            expected = getattr(base, hook, None)
            actual = getattr(type(policy), hook, None)
            if expected is None or actual is None or actual is expected or not isinstance(policy, base):
                continue
            parameters = list(inspect.signature(expected).parameters)
            try:
                inspect.signature(actual).bind(*parameters)
            except TypeError as error:
                raise PolicyError(
                    f"{type(policy).__name__}.{hook} cannot be called as {hook}({', '.join(parameters[1:])}): {error}. "
                    "Give it these parameters."
                ) from error


# -- in schemas -------------------------------------------------------------------------------------------------------

_BUILT_IN = {
    "MemoryLimitPolicy": "fuseline.policies.memory:MemoryLimitPolicy",
    "RetryPolicy": "fuseline.policies.retry:RetryPolicy",
    "StepTimeoutPolicy": "fuseline.policies.timeout:StepTimeoutPolicy",
    "WorkflowTimeoutPolicy": "fuseline.policies.workflow_timeout:WorkflowTimeoutPolicy",
}


def policy_config(policy: Policy) -> dict[str, Any]:
    """Return what a schema says of ``policy``: its type, which built-in policy it is a kind of, its configuration.

    Raises:
        PolicyError: its ``to_config`` gives something that JSON cannot hold.
    """
    module = type(policy).__module__
    # The same file is __main__ in one program and has a name in another; both mean the same workflow.
    config: dict[str, Any] = {"type": f"{'' if module == '__main__' else module}:{type(policy).__qualname__}"}
    for cls in type(policy).__mro__:
        if issubclass(cls, Policy) and f"{cls.__module__}:{cls.__qualname__}" == _BUILT_IN.get(cls.__name__):
            if cls is type(policy):
                config["type"] = cls.__name__
            else:  # somebody's subclass: say in the base's own words too what it is
                config["base"] = {"type": cls.__name__, "config": cls.to_config(policy)}
            break
    config["config"] = policy.to_config()
    try:
        plain: dict[str, Any] = json.loads(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise PolicyError(
            f"{type(policy).__name__}.to_config() returned something that JSON cannot hold: {error}. "
            "Return strings, numbers, lists and dicts."
        ) from error
    return plain


def built_in_policy(config: PolicyConfig, cls: type[P]) -> P | None:
    """Return the policy of the built-in class ``cls`` that ``config`` describes, itself or as a subclass; else None.

    Imports nothing: a subclass is somebody's own code, of which this needs only what it is a kind of.

    Raises:
        PolicyError: its configuration is none that the class could have.
    """
    try:
        for each in (config, config.get("base", {})):
            if each.get("type") == cls.__name__:
                return cls.from_config(each["config"])
    except (TypeError, KeyError, AttributeError) as error:
        raise PolicyError(f"no {cls.__name__} can be made of {config!r:.200}: {error!r}.") from error
    return None

"""RetryPolicy: which failures are tried again, how often, and after how long."""

from __future__ import annotations

import builtins
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeGuard

from fuseline.errors import PolicyError
from fuseline.messages import FailureDecision
from fuseline.policies.base import StepPolicy, is_finite
from fuseline.values import type_names

if TYPE_CHECKING:
    from fuseline.step import Step

__all__ = ["RetryPolicy"]

ErrorClass = type[BaseException] | str


def _draw() -> float:
    """Return a random number in [0, 1), not from the program's own generator: a retry must not disturb a sequence."""
    return int.from_bytes(os.urandom(6), "big") / 2**48


class RetryPolicy(StepPolicy):
    """Retries a step after a failure. The wait happens in the broker and holds no worker.

    Timeouts and crashes count as failures (``StepTimedOut``, ``StepCrashed``). Several of these policies on one step
    give a budget per cause: the first that names the exception decides.

    Args:
        max_retries: tries after the first one; 0 or more.
        wait: seconds before the first retry.
        backoff: what the wait is multiplied by after each further failure; 1.0 keeps it constant.
        max_wait: seconds that a wait never exceeds.
        jitter: the share of a wait that is random, from 0 (none) to 1 (all of it).
        retry_on: exception classes to retry, or their dotted names; subclasses count.
        give_up_on: exception classes that are final, even if ``retry_on`` names them or a base of theirs.

    Raises:
        PolicyError: a value is impossible; the error says which.
    """

    counts_own_failures = True

    def __init__(
        self,
        max_retries: int = 3,
        wait: float = 0.0,
        backoff: float = 1.0,
        max_wait: float = 3600.0,
        jitter: float = 0.0,
        retry_on: ErrorClass | Iterable[ErrorClass] = (Exception,),
        give_up_on: ErrorClass | Iterable[ErrorClass] = (),
    ) -> None:
        if isinstance(max_retries, bool) or not isinstance(max_retries, int) or max_retries < 0:
            raise PolicyError(f"RetryPolicy(max_retries={max_retries!r}): give a whole number, 0 or more.")
        self.max_retries = max_retries
        self.wait = _number("wait", wait, 0.0, math.inf)
        self.backoff = _number("backoff", backoff, 1.0, math.inf)
        self.max_wait = _number("max_wait", max_wait, 0.0, math.inf)
        self.jitter = _number("jitter", jitter, 0.0, 1.0)
        self.retry_on = _names("retry_on", retry_on, is_known=_is_known)
        self.give_up_on = _names("give_up_on", give_up_on, is_known=_is_known)

    def next_delay(self, attempt: int, draw: Callable[[], float] = _draw) -> float:
        """Return the seconds to wait after failure number ``attempt`` (1-based).

        Grows as ``wait * backoff ** (attempt - 1)``, capped at ``max_wait``; then jitter: a uniform draw between
        ``(1 - jitter)`` times that value and the value.

        Args:
            draw: gives a random number in [0, 1).

        Raises:
            ValueError: ``attempt`` is less than 1.

        Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        if attempt < 1:
            raise ValueError(f"attempt is counted from 1, not {attempt}")
        try:
            delay = min(self.wait * self.backoff ** (attempt - 1), self.max_wait)
        except OverflowError:
            delay = self.max_wait if self.wait else 0.0
        return delay - delay * self.jitter * draw() if self.jitter else delay

    def on_failure(self, step: Step | None, exc: BaseException, attempt: int) -> FailureDecision | None:
        """Decide about failure number ``attempt`` of those this policy answers for; None if it is not its cause."""
        return self.decide(type_names(type(exc)), attempt)

    def decide(
        self, names: Collection[str] | None, attempt: int, draw: Callable[[], float] = _draw
    ) -> FailureDecision | None:
        """Decide like ``on_failure``, knowing no more of the exception than the dotted names of its classes.

        Args:
            names: of its class and that class's bases; None if nothing is known, which any policy answers for.
            draw: gives a random number in [0, 1).
        """
        if names is not None:
            if not self.give_up_on.isdisjoint(names):
                return FailureDecision(FailureDecision.FAIL)
            if self.retry_on.isdisjoint(names):
                return None
        if attempt > self.max_retries:
            return FailureDecision(FailureDecision.FAIL)
        return FailureDecision(FailureDecision.RETRY, self.next_delay(attempt, draw))

    def to_config(self) -> dict[str, Any]:
        return {
            "max_retries": self.max_retries,
            "wait": self.wait,
            "backoff": self.backoff,
            "max_wait": self.max_wait,
            "jitter": self.jitter,
            "retry_on": sorted(self.retry_on),
            "give_up_on": sorted(self.give_up_on),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the policy of ``config``. Exception classes stay names, so none of their modules is imported.

        A name that is unknown here is taken as it is: another version of Python may have more built-in exceptions.
        """
        policy = cls(**{name: value for name, value in config.items() if name not in ("retry_on", "give_up_on")})
        for name in config.keys() & {"retry_on", "give_up_on"}:
            setattr(policy, name, _names(name, config[name]))
        return policy

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.to_config() == other.to_config()

    def __hash__(self) -> int:
        return hash((self.max_retries, self.wait, self.retry_on))


def _number(name: str, value: float, low: float, high: float) -> float:
    if not is_finite(value) or not low <= value <= high:
        limits = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of {low:g} or more"
        raise PolicyError(f"RetryPolicy({name}={value!r}): give a finite number {limits}.")
    return float(value)


def _names(
    name: str, classes: ErrorClass | Iterable[ErrorClass], is_known: Callable[[str], bool] = lambda given: True
) -> frozenset[str]:
    if isinstance(classes, type | str):
        classes = (classes,)
    names = set()
    for cls in classes:
        if isinstance(cls, str) and cls:
            if not is_known(cls):
                raise PolicyError(
                    f"RetryPolicy({name}=...): {cls!r} is no built-in exception. Give the class itself, or its dotted "
                    "name, such as 'http.client.HTTPException'."
                )
            names.add(cls)
        elif _is_exception_class(cls):
            names.add(type_names(cls)[0])
        else:
            raise PolicyError(f"RetryPolicy({name}=...): {cls!r} is no exception class. Give classes, or their names.")
    return frozenset(names)


def _is_known(name: str) -> bool:
    """Return whether a name can be that of an exception: a dotted one, or that of a built-in."""
    return "." in name or _is_exception_class(getattr(builtins, name, None))


def _is_exception_class(thing: object) -> TypeGuard[type[BaseException]]:
    return isinstance(thing, type) and issubclass(thing, BaseException)

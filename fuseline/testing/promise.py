"""Contract: tests that say in words which promise is broken.

Each test of a contract carries the promise it checks. However it fails, by what it saw, by an exception out of the
backend, by a hang or by something left over, its message begins with that promise.
"""

from __future__ import annotations

import functools
import os
import traceback
import unittest
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn, TypeVar

from fuseline.testing.census import SETTLING, Census
from fuseline.testing.gate import HANG
from fuseline.testing.watchdog import Hung, Watchdog

__all__ = ["BrokenPromise", "Contract", "expect", "not_asked", "promise"]

C = TypeVar("C", bound="Contract")


class BrokenPromise(AssertionError):
    """A backend does not do what its contract says: the promise, and what was seen instead."""

    def __init__(self, text: str, seen: str) -> None:
        self.promise = text
        self.seen = seen
        super().__init__(f"broken promise: {text}\n    seen: {seen}")


class Contract:
    """What the contracts of executors and brokers have in common.

    Attributes:
        patience: seconds that one test may take; then it has failed. A net against deadlock, never the thing measured.
    """

    patience: float = HANG
    subject: ClassVar[type] = object  #: what the contract is about
    leaves: ClassVar[str] = "nothing is left over"  #: the promise about the time after a test

    def keep(self, text: str, test: Callable[[], None]) -> None:
        """Run a test, and make every way in which it can fail a ``BrokenPromise``."""
        census = Census(semaphores=True)
        watchdog = Watchdog(self.patience, self.subject)
        try:
            with watchdog:
                test()
        except (unittest.SkipTest, BrokenPromise):  # the latter is about what every test relies on
            raise
        except (Exception, Hung) as error:
            raise BrokenPromise(text, watchdog.seen or _describe(error)) from error
        if watchdog.seen:  # the backend has swallowed the exception
            raise BrokenPromise(text, watchdog.seen)
        try:
            census.assert_nothing_left(min(self.patience, SETTLING))
        except AssertionError as error:
            raise BrokenPromise(self.leaves, str(error)) from None


def promise(text: str) -> Callable[[Callable[[C], None]], Callable[[C], None]]:
    """Return a decorator for a test in a ``Contract``, which checks that a backend keeps this promise."""

    def decorate(test: Callable[[C], None]) -> Callable[[C], None]:
        @functools.wraps(test)
        def keep(self: C) -> None:
            self.keep(text, functools.partial(test, self))

        return keep

    return decorate


def expect(what: str, actual: Any, expected: Any) -> None:
    """Check that a value is the expected one.

    Raises:
        AssertionError: it is not; the error says what it is.
    """
    if actual != expected:
        raise AssertionError(f"{what}: {actual!r:.500}, not {expected!r:.500}")


def not_asked(why: str) -> NoReturn:
    """End a test that does not apply, as skipped."""
    raise unittest.SkipTest(f"not asked: {why}")


def _describe(error: BaseException) -> str:
    """Return what an exception says; if it is none of a contract's own, with its class and its place."""
    if type(error) is AssertionError and str(error):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}, in {frame.name}() ({os.path.basename(frame.filename)}:{frame.lineno})"

"""How the test of a contract fails, whatever goes wrong in it."""

from __future__ import annotations

import contextlib
import signal
import threading
import unittest

import pytest

from fuseline.testing.promise import BrokenPromise, Contract, not_asked, promise


class Suite(Contract):
    patience = 0.2

    @promise("it never raises")
    def test_raises(self) -> None:
        raise KeyError("x")

    @promise("it never hangs")
    def test_hangs(self) -> None:
        threading.Event().wait()

    @promise("it never hangs")
    def test_hangs_and_swallows_what_ends_it(self) -> None:
        with contextlib.suppress(BaseException):
            threading.Event().wait()

    @promise("it never hangs")
    def test_hangs_twice(self) -> None:
        try:
            threading.Event().wait()
        finally:
            threading.Lock().acquire()
            self.hang_again()

    def hang_again(self) -> None:
        threading.Event().wait()

    @promise("it never hangs")
    def test_hangs_in_a_loop_that_survives_errors(self) -> None:
        while True:
            try:
                threading.Event().wait()
            except Exception:
                continue

    @promise("it is asked of some")
    def test_is_not_asked(self) -> None:
        not_asked("this one cannot")

    @promise("it is kept")
    def test_passes(self) -> None:
        pass


def test_an_exception_is_told_with_its_class_and_place() -> None:
    with pytest.raises(BrokenPromise, match=r"seen: KeyError: 'x', in \w+\(\) \(test_promise.py:\d+\)") as caught:
        Suite().test_raises()
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "name",
    [
        "test_hangs",
        "test_hangs_and_swallows_what_ends_it",
        "test_hangs_in_a_loop_that_survives_errors",
        "test_hangs_twice",
    ],
)
def test_a_hang_is_a_failure_that_says_where(name: str) -> None:
    with pytest.raises(BrokenPromise, match=r"never hangs\n    seen: nothing came of it in 0.2 s, in .*wait\(\)"):
        getattr(Suite(), name)()


def test_what_is_not_asked_is_skipped() -> None:
    with pytest.raises(unittest.SkipTest, match="not asked: this one cannot"):
        Suite().test_is_not_asked()


def test_alarms_of_others_are_as_before_a_test() -> None:
    def mine(number: int, frame: object) -> None:
        raise AssertionError("an hour has not passed")

    before = signal.signal(signal.SIGALRM, mine)
    signal.setitimer(signal.ITIMER_REAL, 3600.0)
    try:
        Suite().test_passes()
        assert signal.getsignal(signal.SIGALRM) is mine
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0.0)
        assert 0.0 < left <= 3600.0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)

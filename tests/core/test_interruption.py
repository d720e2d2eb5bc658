"""Interrupting a call in this process when its time is up, in the main thread and in others."""

from __future__ import annotations

import contextlib
import signal
import threading
import time

import pytest

from fuseline.policies.interrupt import Interrupted, call_with_limit

from .helpers import HANG

SOON = 0.02  #: seconds until an interruption that a test waits for


@pytest.fixture(autouse=True)
def _nothing_is_left():
    threads = set(threading.enumerate())
    handler = signal.getsignal(signal.SIGALRM)
    yield
    assert signal.getsignal(signal.SIGALRM) is handler
    assert set(threading.enumerate()) <= threads


def in_thread(function):
    """Run ``function`` in a thread of its own; return what it returns, raise what it raises."""
    outcome = []

    def run():
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="not the main thread")
    thread.start()
    thread.join(HANG)
    [(result, error)] = outcome
    if error is not None:
        raise error
    return result


def in_main_thread(function):
    return function()


everywhere = pytest.mark.parametrize("where", [in_main_thread, in_thread])


def spin() -> None:
    """Run Python code until interrupted; a net ends it."""
    end = time.monotonic() + HANG
    while time.monotonic() < end:
        pass
    raise AssertionError("nobody has interrupted this")


def wait_for_alarm() -> None:
    assert not threading.Event().wait(HANG)
    raise AssertionError("nobody has interrupted this")


# -- in time ----------------------------------------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("result", [None, 0, "done"])
def test_a_result_in_time_is_returned(where, result):
    assert where(lambda: call_with_limit(lambda: result, HANG)) == result


@everywhere
@pytest.mark.parametrize("error", [ValueError("own"), KeyboardInterrupt(), SystemExit(3), TimeoutError()])
def test_an_error_in_time_comes_through(where, error):
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        where(lambda: call_with_limit(fail, HANG))
    assert caught.value is error


@everywhere
@pytest.mark.parametrize("seconds", [1e6, 1e12, 1e300])
def test_a_limit_of_ages_is_no_limit(where, seconds):
    assert where(lambda: call_with_limit(lambda: "done", seconds)) == "done"


@everywhere
def test_the_frame_is_left_alone_after_the_call(where):
    def many():
        for _ in range(50):
            assert call_with_limit(lambda: 1, HANG) == 1
        return sum(range(100_000))  # an exception planted late would be raised here

    assert where(many) == sum(range(100_000))


# -- too late ---------------------------------------------------------------------------------------------------------


def test_a_wait_in_the_main_thread_is_interrupted():
    with pytest.raises(Interrupted):
        call_with_limit(wait_for_alarm, SOON)


def test_a_sleep_in_the_main_thread_is_interrupted():
    with pytest.raises(Interrupted):
        call_with_limit(lambda: time.sleep(HANG), SOON)


@everywhere
def test_a_python_loop_is_interrupted(where):
    with pytest.raises(Interrupted) as caught:
        where(lambda: call_with_limit(spin, SOON))
    assert caught.value.__cause__ is None


@everywhere
def test_an_interrupted_call_may_clean_up(where):
    cleaned = []

    def call():
        try:
            spin()
        finally:
            cleaned.append(True)

    with pytest.raises(Interrupted):
        where(lambda: call_with_limit(call, SOON))
    assert cleaned == [True]


@everywhere
def test_catching_every_exception_does_not_swallow_an_interruption(where):
    def call():
        while True:
            with contextlib.suppress(Exception):
                spin()

    with pytest.raises(Interrupted):
        where(lambda: call_with_limit(call, SOON))


@everywhere
def test_a_swallowed_interruption_still_counts(where):
    def call():
        with contextlib.suppress(BaseException):
            spin()
        return "as if nothing had happened"

    with pytest.raises(Interrupted):
        where(lambda: call_with_limit(call, SOON))


@everywhere
def test_an_interruption_turned_into_another_error_still_counts_and_that_error_is_the_cause(where):
    def call():
        try:
            spin()
        except BaseException as error:
            raise ValueError("turned") from error

    with pytest.raises(Interrupted) as caught:
        where(lambda: call_with_limit(call, SOON))
    assert isinstance(caught.value.__cause__, ValueError)


@everywhere
def test_an_interruption_is_raised_once(where):
    rounds = []

    def call():
        with contextlib.suppress(BaseException):
            spin()
        rounds.append(sum(range(100_000)))

    with pytest.raises(Interrupted):
        where(lambda: call_with_limit(call, SOON))
    assert rounds == [sum(range(100_000))]


def test_only_the_thread_of_the_call_is_interrupted():
    in_call, interrupted = threading.Event(), threading.Event()
    counted = []

    def bystander():
        assert in_call.wait(HANG)
        while not interrupted.is_set():
            counted.append(1)
        return "unharmed"

    def victim():
        in_call.set()
        spin()

    results = []
    thread = threading.Thread(target=lambda: results.append(bystander()))
    thread.start()
    with pytest.raises(Interrupted):
        in_thread(lambda: call_with_limit(victim, SOON))
    interrupted.set()
    thread.join(HANG)
    assert results == ["unharmed"]


# -- nested -----------------------------------------------------------------------------------------------------------


@everywhere
def test_an_inner_limit_interrupts_the_inner_call_only(where):
    def outer():
        with pytest.raises(Interrupted):
            call_with_limit(spin, SOON)
        return "outer goes on"

    assert where(lambda: call_with_limit(outer, HANG)) == "outer goes on"


@everywhere
def test_an_outer_limit_interrupts_through_an_inner_one(where):
    reached = []

    def outer():
        call_with_limit(spin, HANG)
        reached.append("after the inner call")

    with pytest.raises(Interrupted):
        where(lambda: call_with_limit(outer, SOON))
    assert reached == []


def test_two_limits_that_end_at_once_both_count_and_nothing_hangs():
    """Signals do not queue: two alarms at the same instant reach the handler as one."""
    rescued = threading.Event()

    def rescue():
        rescued.set()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

    def block_until_both_have_rung():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        try:
            for thread in set(threading.enumerate()) - others:
                thread.join(HANG)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})

    net = threading.Timer(2.0, rescue)
    net.start()
    others = set(threading.enumerate())
    try:
        with pytest.raises(Interrupted):
            call_with_limit(lambda: call_with_limit(block_until_both_have_rung, SOON), SOON)
    finally:
        net.cancel()
        net.join(HANG)
    assert not rescued.is_set()


def test_an_outer_limit_is_not_lost_when_it_ends_together_with_one_two_levels_deeper():
    def block_until_both_have_rung():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        try:
            for thread in set(threading.enumerate()) - others:
                if getattr(thread, "interval", HANG) == SOON:
                    thread.join(HANG)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})

    def outermost():
        with contextlib.suppress(Interrupted):
            call_with_limit(lambda: call_with_limit(block_until_both_have_rung, SOON), HANG)
        spin()

    others = set(threading.enumerate())
    with pytest.raises(Interrupted) as caught:
        call_with_limit(outermost, SOON)
    assert caught.value.__cause__ is None, "it ended by itself, later"


# -- somebody else's alarm --------------------------------------------------------------------------------------------


@pytest.fixture
def rings():
    """The alarms that a handler of somebody else has seen."""
    seen = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
    yield seen
    signal.signal(signal.SIGALRM, before)


def test_the_handler_of_somebody_else_is_restored(rings):
    handler = signal.getsignal(signal.SIGALRM)
    call_with_limit(lambda: None, HANG)
    assert signal.getsignal(signal.SIGALRM) is handler
    with pytest.raises(Interrupted):
        call_with_limit(wait_for_alarm, SOON)
    assert signal.getsignal(signal.SIGALRM) is handler
    assert rings == []


def test_an_alarm_of_somebody_else_reaches_its_handler_and_does_not_end_the_call(rings):
    def call():
        signal.raise_signal(signal.SIGALRM)
        return "done"

    assert call_with_limit(call, HANG) == "done"
    assert rings == [signal.SIGALRM]


def test_an_alarm_of_somebody_else_reaches_its_handler_through_nested_limits(rings):
    def call():
        signal.raise_signal(signal.SIGALRM)
        return "done"

    assert call_with_limit(lambda: call_with_limit(call, HANG), HANG) == "done"
    assert rings == [signal.SIGALRM]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_an_ignored_or_default_alarm_is_as_before_afterwards(handler):
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(Interrupted):
            call_with_limit(wait_for_alarm, SOON)
        assert signal.getsignal(signal.SIGALRM) is handler
    finally:
        signal.signal(signal.SIGALRM, before)


def test_the_process_timer_of_somebody_else_is_left_alone(rings):
    signal.setitimer(signal.ITIMER_REAL, 1000.0)
    try:
        call_with_limit(lambda: None, HANG)
        with pytest.raises(Interrupted):
            call_with_limit(wait_for_alarm, SOON)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 900
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

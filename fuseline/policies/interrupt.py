"""Interrupting a call in this very process when its time is up: the best that can be done without a process to kill.

In the main thread a signal handler raises, which also ends ``time.sleep`` and waits for locks and sockets. In other
threads ``PyThreadState_SetAsyncExc`` plants an exception, which is raised at the next bytecode. Neither reaches into a
C call that does not return. Both raise once, a subclass of ``BaseException``, so that ``except Exception`` in the code
of a step does not swallow it.

SIGALRM may be in use already (pytest-timeout, a user's own alarm). The timer here is a thread that sends the signal,
not the process's one ``setitimer``, and an alarm that is not ours goes on to the handler that was there before.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

__all__ = ["Interrupted", "call_with_limit"]

T = TypeVar("T")


class Interrupted(Exception):
    """The time of a call was up. Its cause is what the call raised in the end, if that was something of its own."""


class _Alarm(BaseException):
    """What is raised in the frame of the call; each call has a subclass of its own, so that calls can nest."""


def call_with_limit(call: Callable[[], T], seconds: float) -> T:
    """Return ``call()``, or interrupt it after ``seconds``.

    A call that swallows the interruption, or turns it into another exception, counts as interrupted all the same.

    Raises:
        Interrupted: the time was up before the call had ended.
    """
    if seconds > threading.TIMEOUT_MAX:
        return call()  # no timer reaches that far
    in_main_thread = threading.current_thread() is threading.main_thread()
    alarm: _Watch = _SignalWatch(seconds) if in_main_thread else _ThreadWatch(seconds)
    cause: BaseException | None = None
    try:
        try:
            alarm.start()
            result = call()
        finally:
            alarm.disarm()
        alarm.settle()  # a planted exception is raised here at the latest
    except alarm.kind:
        pass
    except BaseException as error:
        if not alarm.has_fired:
            raise
        cause = error
    finally:
        alarm.stop()
    if alarm.has_fired:
        raise Interrupted from cause
    return result


class _Watch:
    """A timer that, while armed, has an exception of class ``kind`` raised once in the thread that made it."""

    def __init__(self, seconds: float) -> None:
        self.kind: type[BaseException] = type("_Alarm", (_Alarm,), {})
        self.has_fired = False
        self._armed = False
        self._lock = threading.Lock()
        self._thread_id = threading.get_ident()
        self._timer = threading.Timer(seconds, self._time_is_up)
        self._timer.daemon = True

    def start(self) -> None:
        self._armed = True
        self._timer.start()

    def disarm(self) -> None:
        with self._lock:
            self._armed = False

    def settle(self) -> None:
        """Make sure that nothing is raised after this."""

    def stop(self) -> None:
        self._timer.cancel()
        self._timer.join()

    def _time_is_up(self) -> None:
        with self._lock:
            if self._armed:
                self._fire()

    def _fire(self) -> None:
        raise NotImplementedError


class _SignalWatch(_Watch):
    def start(self) -> None:
        self._due = False
        self._previous: Any = signal.signal(signal.SIGALRM, self._on_alarm)
        super().start()

    def disarm(self) -> None:
        # No lock: the handler runs in this same thread, between any two of these instructions.
        self._armed = False

    def stop(self) -> None:
        super().stop()
        while self._due:  # the handler must run before it is replaced, or the alarm would go to somebody else
            signal.raise_signal(signal.SIGALRM)
        previous = signal.SIG_DFL if self._previous is None else self._previous
        signal.signal(signal.SIGALRM, previous)
        if self._is_due_further_out():  # signals do not queue: the one that we had stood for that alarm, too
            signal.raise_signal(signal.SIGALRM)

    def _fire(self) -> None:
        self._due = True
        signal.pthread_kill(self._thread_id, signal.SIGALRM)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        mine, self._due = self._due, False
        if mine and self._armed:
            self._armed = False
            self.has_fired = True
            raise self.kind
        if callable(self._previous) and (not mine or self._is_due_further_out()):
            self._previous(number, frame)

    def _is_due_further_out(self) -> bool:
        outer = getattr(self._previous, "__self__", None)
        return isinstance(outer, _SignalWatch) and (outer._due or outer._is_due_further_out())


class _ThreadWatch(_Watch):
    def _fire(self) -> None:
        self._armed = False
        self.has_fired = True
        self._plant(self.kind)

    def settle(self) -> None:
        if self.has_fired:
            self._plant(None)

    def _plant(self, kind: type[BaseException] | None) -> None:
        import ctypes  # a broker, which knows the policies and runs no step, starts faster

        target = ctypes.c_ulong(self._thread_id)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(target, ctypes.py_object(kind) if kind else None)

"""How fast a pool notices that a step hangs or dies, in the libraries that can bear it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["TIMEOUT", "die_in", "hang_in"]

#: Seconds that the step which hangs may take.
TIMEOUT = 0.3
#: Where it says when it has begun, or when it dies; the clock is one for all processes.
_SAID = "said"


def hang() -> None:
    _say_now()
    time.sleep(3600)


def die() -> None:
    _say_now()
    os.kill(os.getpid(), signal.SIGKILL)


def now() -> float:
    return time.monotonic()


def _say_now() -> None:
    Path(_SAID).write_text(repr(time.monotonic()))


def hang_in(library: str) -> tuple[float, float]:
    """Return when a step has begun that hangs, and when the pool has told of its timeout, in monotonic seconds."""
    told = _HANG[library]()
    return float(Path(_SAID).read_text()), told


def die_in(library: str) -> tuple[float, float]:
    """Return when a step has killed its process, and when the next one has begun in another, in monotonic seconds."""
    started = _DIE[library]()
    return float(Path(_SAID).read_text()), started


def _hang_in_fuseline() -> float:
    from benchmarks.speed.steps import Call
    from fuseline import MemoryBroker, ProcessEngine, RunFailed, Workflow
    from fuseline.policies import StepTimeoutPolicy

    warm_up, stuck = Workflow(outputs=[Call(now)], name="warm-up"), Call(hang)
    stuck.add_policy(StepTimeoutPolicy(TIMEOUT))
    workflow = Workflow(outputs=[stuck], name="stuck")
    broker = MemoryBroker()
    with ProcessEngine(broker, [warm_up, workflow], processes=1) as engine:
        broker.dispatch_workflow(warm_up.to_schema())
        engine.work()
        run = broker.dispatch_workflow(workflow.to_schema())
        engine.work()
        told = now()
        _expect(RunFailed, lambda: broker.result(run))
    return told


def _hang_in_pebble() -> float:
    from pebble import ProcessPool

    with ProcessPool(max_workers=1) as pool:
        pool.schedule(now).result()
        future = pool.schedule(hang, timeout=TIMEOUT)
        _expect(TimeoutError, future.result)
        return now()


def _die_in_fuseline() -> float:
    from benchmarks.speed.steps import Call
    from fuseline import MemoryBroker, ProcessEngine, Workflow

    warm_up = Workflow(outputs=[Call(now)], name="warm-up")
    bad, good = Workflow(outputs=[Call(die)], name="bad"), Workflow(outputs=[Call(now)], name="good")
    broker = MemoryBroker()
    with ProcessEngine(broker, [warm_up, bad, good], processes=1) as engine:
        broker.dispatch_workflow(warm_up.to_schema())
        engine.work()
        broker.dispatch_workflow(bad.to_schema())
        run = broker.dispatch_workflow(good.to_schema())
        engine.work()
        return float(broker.result(run))


def _die_in_pebble() -> float:
    from pebble import ProcessPool

    with ProcessPool(max_workers=1) as pool:
        pool.schedule(now).result()
        bad, good = pool.schedule(die), pool.schedule(now)
        _expect(Exception, bad.result)
        return float(good.result())


def _expect(kind: type[BaseException], call: Callable[[], Any]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"it should have raised {kind.__name__}")


_HANG: Mapping[str, Callable[[], float]] = {"fuseline": _hang_in_fuseline, "pebble": _hang_in_pebble}
_DIE: Mapping[str, Callable[[], float]] = {"fuseline": _die_in_fuseline, "pebble": _die_in_pebble}

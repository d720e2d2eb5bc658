"""The programs of chaos: ``python -m tests.chaos.programs broker|engine|driver STORE SEED UNTIL``."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random

from fuseline import LocalBroker, ProcessEngine
from fuseline.broker import serve
from fuseline.errors import FuselineError, RunFailed

from .journal import note
from .plan import make_workflows, workflow_of
from .steps import FOLDER, build

__all__ = ["SETTLING"]

#: Seconds after the last fault in which all runs must have ended: a net against deadlock, never the thing measured.
SETTLING = 120.0
#: Runs that may be open at a time.
_OPEN = 25
#: Seconds between two tries to reach a broker, where an error says that there is none.
_PAUSE = 0.1


def broker(store: Path, seed: int, until: float) -> None:
    """Be the broker, until a signal."""
    serve(store)


def engine(store: Path, seed: int, until: float) -> None:
    """Work, until a signal."""
    workflows = [build(plan, seed) for plan in make_workflows(seed)]
    with LocalBroker(store) as broker:
        folder = Path(os.environ[FOLDER])
        note(folder, "engine", text=broker.workplace.presence.name)
        try:
            ProcessEngine(broker, workflows, processes=2).work(block=True)
        finally:
            note(folder, "left")  # sooner than who keeps it sees that it has ended


def driver(store: Path, seed: int, until: float) -> None:
    """Dispatch runs until a moment, in monotonic seconds, and wait until all have ended."""
    plans = make_workflows(seed)
    schemas = {plan.name: build(plan, seed).to_schema() for plan in plans}
    folder = Path(os.environ[FOLDER])
    rng = Random(f"{seed}/pace")
    open_runs: deque[str] = deque()
    number = 0
    with _patiently(lambda: LocalBroker(store), until) as broker:
        while time.monotonic() < until:
            if len(open_runs) >= _OPEN:
                _see_to_the_end(broker, open_runs.popleft(), folder, until + SETTLING)
            number += 1
            plan = workflow_of(seed, number, plans)
            try:
                run = broker.dispatch_workflow(schemas[plan.name], {"number": number})
            except FuselineError as error:  # nobody has promised anything: another run, with a number of its own
                note(folder, "refused", attempt=number, text=repr(error))
                time.sleep(_PAUSE)
            else:
                note(folder, "acked", run, attempt=number)
                open_runs.append(run)
            time.sleep(rng.expovariate(1 / 0.03))
        while open_runs:
            _see_to_the_end(broker, open_runs.popleft(), folder, until + SETTLING)


def _patiently(connect: Callable[[], LocalBroker], until: float) -> LocalBroker:
    while True:
        try:
            return connect()
        except FuselineError:
            if time.monotonic() >= until:
                raise
            time.sleep(_PAUSE)


def _see_to_the_end(broker: LocalBroker, run: str, folder: Path, until: float) -> None:
    """Wait until a run has ended, and note that we were told."""
    while (left := until - time.monotonic()) > 0:
        try:
            broker.result(run, timeout=left)
            note(folder, "settled", run, text="SUCCEEDED")
            return
        except RunFailed:
            note(folder, "settled", run, text="FAILED")
            return
        except FuselineError as error:  # the broker could not write, say; the run is still there
            note(folder, "asked", run, text=repr(error))
            time.sleep(_PAUSE)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    role, store, seed, until = sys.argv[1:]
    {"broker": broker, "engine": engine, "driver": driver}[role](Path(store), int(seed), float(until))

"""Session: some minutes of chaos, and what came of it.

::

    keeper ──▶ broker, engines, driver        programs of their own, which the tormentor
    watcher ◀─ events ─ broker                hits, and their children and helpers, too
    journal ◀─ steps, programs

When the time is over nothing is hit any more, the driver sees all of its runs end, everything is closed, and then the
history is gathered and checked.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from fuseline.broker import LocalBroker
from fuseline.broker.startup import log_of
from fuseline.records import Move
from fuseline.states import State

from .check import Violation, check
from .history import Found, History
from .journal import read_journal
from .keeper import Keeper
from .leftovers import age, end_all, find_leftovers, shared_memory, wait_gone
from .plan import Signal, digest, engines_of, make_plots
from .programs import SETTLING
from .steps import FOLDER
from .tormentor import Tormentor
from .watcher import Watcher

__all__ = ["Session"]

#: Seconds between two looks at everything, and between two lines that tell how it goes.
_TURN = 0.02
_TELLING = 5.0


class Session:
    """See above.

    Args:
        folder: where all files of it lie, and nothing else.
    """

    def __init__(self, seed: int, seconds: float, folder: Path) -> None:
        self.seed = seed
        self.folder = folder
        self._store = folder / "runs.db"
        self._memory = shared_memory()
        begin = time.monotonic()
        self._begin = begin
        self._until = begin + seconds
        self.keeper = Keeper(folder, str(self._store), str(seed), str(self._until))
        self.tormentor = Tormentor(make_plots(seed, seconds), begin, lambda: self.keeper.pids("engine"), folder)
        self.violations: list[Violation] = []
        self.history = History(seed, [], {})

    def run(self, tell: Callable[[str], None]) -> None:
        """Do all of it. Blocks; ``violations`` and ``history`` are there afterwards."""
        self._own_environment()
        try:
            self._work(tell)
            tell("all runs have ended; closing, and checking")
            lines = read_journal(self.folder)
            wait_gone(self.folder)
            age(self.folder)
            self._gather()
            self.violations += check(self.history)
            self.violations += self._find_bugs()
            pids = {line.pid for line in lines} | {fault.pid for fault in self.tormentor.faults}
            self.violations += find_leftovers(self.folder, pids, self._memory)
        finally:
            end_all(self.folder)

    def _own_environment(self) -> None:
        """Have the brokers that the watcher starts be like all others."""
        environment = self.keeper.environment()
        ours = (FOLDER, "TMPDIR", "PYTHONPATH", "XDG_RUNTIME_DIR", "FUSELINE_CHECKED")
        os.environ.update({name: environment[name] for name in ours})
        tempfile.tempdir = None

    # -- working ------------------------------------------------------------------------------------------------------

    def _work(self, tell: Callable[[str], None]) -> None:
        keeper = self.keeper
        for name in ("broker", "driver", *(f"engine-{number}" for number in range(engines_of(self.seed)))):
            keeper.start(name)
        watcher = Watcher(self._store)
        self.history.heard = watcher.heard
        try:
            self._torment(tell)
        finally:
            self.tormentor.relent()
            problems = keeper.stop("driver") + keeper.stop("engine")
            watcher.stop()
            problems += keeper.stop("broker")
        self.violations += [Violation("left over", "program", problem) for problem in problems]

    def _torment(self, tell: Callable[[str], None]) -> None:
        """Keep the programs and hit them until the time is over, and keep them on until all runs have ended."""
        tell_at = self._begin + _TELLING
        while self.keeper.is_kept("driver") and time.monotonic() < self._until + SETTLING:
            self.tormentor.act()
            self.keeper.tend()
            if time.monotonic() >= tell_at:
                tell_at += _TELLING
                tell(self._progress())
            time.sleep(_TURN)

    def _progress(self) -> str:
        lines = read_journal(self.folder)
        kinds = Counter(line.kind for line in lines)
        ended = {line.run for line in lines if line.kind == "settled"}
        ended |= {heard.run for heard in list(self.history.heard) if heard.step is None}
        sent = Counter(fault.signal for fault in self.tormentor.faults)
        faults = ", ".join(f"{sent[signal]} {signal}" for signal in Signal)
        at = time.monotonic() - self._begin
        runs = f"{kinds['acked']} runs dispatched, {len(ended)} settled, {kinds['start']} attempts begun"
        return f"{at:4.0f} s: {runs}; {faults}"

    def _find_bugs(self) -> list[Violation]:
        """Return what brokers have found wrong with themselves; the next one may have hidden it."""
        log = log_of(self._store)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return [Violation("unexpected", "broker", line) for line in lines if "report this as a bug" in line]

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def _gather(self) -> None:
        """Complete the history, and ask the broker how all stands."""
        history = self.history
        history.lines = read_journal(self.folder)
        history.faults = self.tormentor.faults
        history.ends = self.keeper.ends
        epoch = time.time() - time.monotonic()
        with LocalBroker(self._store) as broker:
            self.violations += [Violation("unexpected", "store", problem) for problem in broker.check()]
            for info in broker.list_runs():
                run = info.instance_id
                moves = [_at_monotonic(move, epoch) for move in broker.story(run)]
                result = _digest_of(broker, run) if info.state is State.SUCCEEDED else None
                states = {name: step.state for name, step in info.steps.items()}
                history.found[run] = Found(info.inputs["number"], info.state, states, moves, result)


def _digest_of(broker: LocalBroker, run: str) -> str:
    """Return what stands for the result of a run, or for what keeps it from being read."""
    try:
        return digest(broker.result(run))
    except Exception as error:  # a violation then: the rest of the history is to be checked all the same
        return repr(error)


def _at_monotonic(move: Move, epoch: float) -> Move:
    return Move(
        step_name=move.step_name,
        state=move.state,
        attempt=move.attempt,
        cause=move.cause,
        worker_id=move.worker_id,
        at=move.at - epoch,
    )

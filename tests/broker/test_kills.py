"""Twenty-five kills -9 of random processes while 2,000 steps run: nothing is lost, and nothing happens twice."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import textwrap
from collections import defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from fuseline import State
from fuseline.broker import LocalBroker
from fuseline.testing.gate import HANG

from ..chaos.processes import is_worker
from .conftest import wait_gone
from .workflows import logging

STEPS = 2000
KILLS = 25

WORKER = """
    import sys
    from fuseline import ProcessEngine
    from fuseline.broker import LocalBroker
    sys.path.insert(0, sys.argv[2])
    from workflows import logging

    with LocalBroker(sys.argv[1]) as broker:
        ProcessEngine(broker, [logging()], processes=2).work(block=True)
"""


class Worker:
    """A program that works, and is started again each time it is killed."""

    def __init__(self, store: Path) -> None:
        self._command = [sys.executable, "-c", textwrap.dedent(WORKER), str(store), str(Path(__file__).parent)]
        self.seen: set[int] = set()
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command)

    def children(self) -> list[psutil.Process]:
        try:
            found = [each for each in psutil.Process(self.process.pid).children() if is_worker(each)]
        except psutil.NoSuchProcess:
            found = []
        self.seen |= {self.process.pid, *(each.pid for each in found)}
        return found

    def kill(self) -> None:
        self.children()
        self.process.kill()
        self.process.wait(HANG)


def kill_one(rng: random.Random, worker: Worker, broker: LocalBroker) -> str:
    """Kill a random process of all that there are, and return what it was."""
    what = rng.choice(["worker", "broker", "child", "worker and broker"])
    if what == "child":
        children = worker.children()
        if children:
            with suppress(psutil.NoSuchProcess):
                rng.choice(children).kill()
        else:
            worker.kill()
    if "broker" in what:
        with suppress(ProcessLookupError):  # killed before, and nobody has called since then
            os.kill(broker.pid, signal.SIGKILL)
    if "worker" in what:
        worker.kill()
    if worker.process.poll() is not None:
        worker.start()
    return what


class Pace:
    """Two named pipes: a step takes a byte from one before it begins, and puts one into the other when it ends."""

    def __init__(self, folder: Path) -> None:
        self.permits, self.ticks = str(folder / "permits"), str(folder / "ticks")
        for path in (self.permits, self.ticks):
            os.mkfifo(path)
        self._permits, self._ticks = (os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in (self.permits, self.ticks))

    def allow(self, count: int) -> None:
        os.write(self._permits, b"." * count)

    def wait_ended(self, count: int) -> None:
        """Wait until so many steps have ended."""
        while count > 0:
            readable, _, _ = select.select([self._ticks], [], [], HANG)
            assert readable, "no step has ended for a long time"
            count -= len(os.read(self._ticks, count))

    def close(self) -> None:
        os.close(self._permits)
        os.close(self._ticks)


@pytest.mark.parametrize("seed", [1])
def test_nothing_is_lost_and_nothing_happens_twice(store: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    log = tmp_path / "log"
    with ExitStack() as stack, LocalBroker(store, durability="process") as broker:
        pace = Pace(tmp_path)
        stack.callback(pace.close)
        common = {"log": str(log), "permits": pace.permits, "ticks": pace.ticks}
        runs = broker.dispatch_many(logging().to_schema(), [{**common, "number": i} for i in range(STEPS)])
        worker = Worker(store)
        stack.callback(worker.kill)
        killed = []
        share = STEPS // KILLS
        for _ in range(KILLS):
            pace.allow(share)
            pace.wait_ended(rng.randrange(share // 2))  # those that are killed take their permits along
            killed.append(kill_one(rng, worker, broker))
        pace.allow(STEPS)
        for number, run in enumerate(runs):
            assert broker.result(run, timeout=HANG) == number, f"seed {seed}, killed {killed}"
        worker.kill()
        check(broker, runs, log)
        for pid in worker.seen:
            wait_gone(pid)
    wait_gone(broker.pid)


def check(broker: LocalBroker, runs: list[str], log: Path) -> None:
    events: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for line in log.read_text().splitlines():
        kind, number, pid = line.split()
        events[number].append((kind, pid))
    assert len(events) == STEPS
    for number, run in enumerate(runs):
        told = [move for move in broker.story(run) if move.step_name == "Log"]
        assert [move.state for move in told].count(State.SUCCEEDED) == 1
        assert told[-1].state is State.SUCCEEDED
        assert_no_overlap(events[str(number)])


def assert_no_overlap(events: list[tuple[str, str]]) -> None:
    """Once an attempt was followed by another one, nothing is heard of it any more."""
    last = ""
    over: set[str] = set()
    for kind, pid in events:
        assert pid not in over, events
        if kind == "start" and last and pid != last:
            over.add(last)
        last = pid

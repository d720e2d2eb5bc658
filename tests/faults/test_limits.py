"""A step over its memory limit ends with its own error, and others do not notice."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fuseline import Broker, LocalBroker, MemoryBroker, ProcessEngine, RunFailed, Step, Workflow, current_run
from fuseline.errors import StepOutOfMemory
from fuseline.policies import MemoryLimitPolicy, RetryPolicy, StepTimeoutPolicy
from fuseline.processes import memory
from fuseline.testing import Gate
from fuseline.testing.gate import HANG

sys.path.insert(0, str(Path(__file__).parent))  # children get the path too, so that they can import the steps

from hostile import Good

MB = 2**20
LIMIT = 250 * MB
#: What a step takes that takes too much: not more than any machine has, if the limit does not work.
TOO_MUCH = 400 * MB
#: A step that nothing has ended by then is ended by this: a net.
NET = StepTimeoutPolicy(HANG)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture(params=["memory", "local"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    if request.param == "memory":
        yield MemoryBroker()
        return
    with LocalBroker(tmp_path / "runs.db") as broker:
        yield broker
        pid = broker.pid
    wait_gone(pid)


def wait_gone(pid: int) -> None:
    try:
        psutil.Process(pid).wait(HANG)
    except psutil.NoSuchProcess:
        pass


# -- memory -----------------------------------------------------------------------------------------------------------


def fill(size: int) -> list[bytes]:
    """Take memory in small pieces, each of them touched."""
    return [b"x" * MB for _ in range(size // MB)]


class Take(Step):
    """Takes too much memory in one of several ways, up to an attempt, and keeps it until it is killed."""

    def run_step(self, how: str, until_attempt: int = 10**9) -> Any:
        run = current_run()
        assert run is not None
        assert run.attempt is not None
        if run.attempt > until_attempt:
            return os.getpid()
        if how == "at once":
            return len(bytes(8 * 2**30))
        if how == "slowly":
            kept = fill(TOO_MUCH)
        else:
            use = f"x = [b'x' * 2**20 for _ in range({TOO_MUCH // MB})]; import time; time.sleep(3600)"
            in_session = how == "in a grandchild of another session"
            kept = [subprocess.Popen([sys.executable, "-c", use], start_new_session=in_session)]
        while kept:
            signal.pause()
        return None


WAYS = [
    "slowly",
    pytest.param("at once", marks=linux_only),
    "in a grandchild",
    "in a grandchild of another session",
]


def run_among_siblings(broker: Broker, hostile: Workflow, **inputs: object) -> str:
    """Return the run of ``hostile``, which has ended; others beside it have succeeded."""
    good = Workflow(outputs=[Good()])
    before = broker.dispatch_many(good.to_schema(), [{"value": i} for i in range(10)])
    bad = broker.dispatch_workflow(hostile.to_schema(), inputs)
    after = broker.dispatch_many(good.to_schema(), [{"value": i} for i in range(10)])
    ProcessEngine(broker, [good, hostile], processes=2).work()
    assert [broker.result(run) for run in before + after] == [2 * i for i in range(10)] * 2
    return bad


@pytest.mark.parametrize("how", WAYS)
def test_a_step_over_its_limit_is_ended_with_all_it_started_and_its_siblings_succeed(broker: Broker, how: str) -> None:
    before = set(psutil.pids())
    workflow = Workflow(outputs=[Take(policies=[MemoryLimitPolicy(LIMIT), NET])])
    bad = run_among_siblings(broker, workflow, how=how)
    with pytest.raises(RunFailed) as caught:
        broker.result(bad)
    error = caught.value.__cause__
    assert isinstance(error, StepOutOfMemory)
    assert (error.limit, error.instance_id, error.attempt) == (LIMIT, bad, 1)
    assert error.used > (0 if how == "at once" else LIMIT)
    left = [p for p in psutil.process_iter() if p.pid not in before and "3600" in " ".join(_command(p))]
    assert left == []


@pytest.mark.parametrize("how", WAYS)
def test_a_step_over_its_limit_is_retried_like_any_failure(how: str) -> None:
    policies = [MemoryLimitPolicy(LIMIT), RetryPolicy(1, retry_on=MemoryError), NET]
    broker = MemoryBroker()
    bad = run_among_siblings(broker, Workflow(outputs=[Take(policies=policies)]), how=how, until_attempt=1)
    assert broker.result(bad)
    assert broker.get_run(bad).steps["Take"].attempts == 2


class Use(Step):
    """Uses less than its limit, and returns when it is let go."""

    def run_step(self, go: str, file: str) -> int:
        kept = fill(50 * MB)
        with open(file, "r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
            kept.append(mapped[:1])
        with open(go) as pipe:
            pipe.read()
        return len(kept)


def test_a_step_under_its_limit_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, file = str(tmp_path / "go"), str(tmp_path / "file")
    os.mkfifo(go)
    with open(file, "wb") as sparse:
        sparse.truncate(8 * 2**30)  # of which it maps all, and needs a page
    looks: list[int] = []

    def look(leader: int) -> int:
        looks.append(before(leader))
        if len(looks) == 3:
            os.close(os.open(go, os.O_WRONLY))
        return looks[-1]

    before = memory.tree_memory
    monkeypatch.setattr(memory, "tree_memory", look)
    workflow = Workflow(outputs=[Use(policies=[MemoryLimitPolicy(LIMIT), NET])])
    assert workflow.run({"go": go, "file": file}, processes=1) == 51
    assert all(0 < used < LIMIT for used in looks)


def test_nobody_looks_at_a_step_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(leader: int) -> int:
        raise AssertionError("a look")

    monkeypatch.setattr(memory, "tree_memory", look)
    with Gate() as gate:
        opener = threading.Thread(target=lambda: (gate.wait_entered(), gate.open()))
        opener.start()
        assert Workflow(outputs=[Held(policies=[NET])]).run({"gate": gate}, processes=1) == "let go"
        opener.join()


@linux_only
def test_children_and_what_they_start_go_before_their_program_if_the_machine_has_no_memory_left() -> None:
    def score(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    child, grandchild = Workflow(outputs=[Scores()]).run(processes=1)
    assert child == grandchild == min(1000, score("self") + 500)


class Held(Step):
    def run_step(self, gate: Gate) -> str:
        gate.enter()
        return "let go"


class Scores(Step):
    def run_step(self) -> list[int]:
        show = ["cat", "/proc/self/oom_score_adj"]
        return [int(Path(show[1]).read_text()), int(subprocess.check_output(show))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []

"""The large values of a broker in this program: where they are, how long, and who removes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from fuseline import MemoryBroker, ProcessEngine, Step, Workflow
from fuseline.broker import vault
from fuseline.errors import RunFailed, StoreError
from fuseline.workplace import LARGE

_SIZE = 4 * LARGE


class Make(Step):
    def run_step(self) -> bytearray:
        return bytearray(b"a" * _SIZE)


class Count(Step):
    def run_step(self, made: Any) -> int:
        return len(made)


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Let values be in folders of this test: the first choice, and what is left if there is no room."""
    homes = tmp_path / "memory", tmp_path / "disk"
    for home in homes:
        home.mkdir()
    monkeypatch.setattr(vault, "_SHARED_MEMORY", homes[0])
    monkeypatch.setattr(vault, "_temporary_folder", lambda: homes[1])
    return homes


def values_in(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


def broker_with(workflow: Workflow, runs: int = 1) -> tuple[MemoryBroker, list[str]]:
    broker = MemoryBroker()
    ids = broker.dispatch_many(workflow.to_schema(), [{}] * runs)
    return broker, list(ids)


def test_a_value_is_removed_when_its_last_reader_has_ended(homes: tuple[Path, Path]) -> None:
    seen: list[int] = []

    class Watch(Count):
        def run_step(self, made: Any) -> int:
            seen.append(len(values_in(homes[0])))
            return len(made)

    first, second, last = Make(), Watch(), Watch()
    first >> [second, last]
    workflow = Workflow(outputs=[second, last], name="watched", executor="inline")
    broker, [run] = broker_with(workflow)
    ProcessEngine(broker, [workflow]).work()
    assert broker.result(run) == [_SIZE, _SIZE]
    assert seen == [1, 1]
    assert values_in(homes[0]) == []


def test_an_output_stays_until_its_run_is_forgotten(homes: tuple[Path, Path]) -> None:
    workflow = Workflow(outputs=[Make()], name="kept")
    broker, [run, other] = broker_with(workflow, runs=2)
    ProcessEngine(broker, [workflow], processes=2).work()
    assert len(values_in(homes[0])) == 2
    assert broker.result(run) == broker.result(run) == bytearray(b"a" * _SIZE)
    broker.forget(run)
    assert len(values_in(homes[0])) == 1
    assert broker.result(other) == bytearray(b"a" * _SIZE)


def test_inputs_are_values_as_well(homes: tuple[Path, Path]) -> None:
    workflow = Workflow(outputs=[Count()], name="input")
    broker = MemoryBroker()
    run = broker.dispatch_workflow(workflow.to_schema(), {"made": b"b" * _SIZE})
    assert len(values_in(homes[0])) == 1
    ProcessEngine(broker, [workflow], processes=1).work()
    assert broker.result(run) == _SIZE
    broker.forget(run)
    assert values_in(homes[0]) == []


def test_nothing_is_left_when_the_broker_is_gone(homes: tuple[Path, Path]) -> None:
    workflow = Workflow(outputs=[Make()], name="left")
    broker, _ = broker_with(workflow)
    ProcessEngine(broker, [workflow], processes=1).work()
    assert len(values_in(homes[0])) == 1
    del broker
    assert [list(path.iterdir()) for path in homes[0].iterdir()] == [[]]


def test_where_memory_is_full_a_value_goes_to_the_disk(
    homes: tuple[Path, Path],
) -> None:
    make, count = Make(), Count()
    make >> count
    workflow = Workflow(outputs=[make, count], name="full", executor="inline")
    broker, [run] = broker_with(workflow)
    place = broker.workplace
    assert place.values is not None
    assert place.overflow is not None
    place.values.touch()  # no folder: nothing can be written in there
    ProcessEngine(broker, [workflow]).work()
    assert len(values_in(homes[1])) == 1
    assert broker.result(run) == [bytearray(b"a" * _SIZE), _SIZE]
    broker.forget(run)
    assert values_in(homes[1]) == []


def test_where_there_is_no_room_at_all_the_step_says_so(homes: tuple[Path, Path]) -> None:
    workflow = Workflow(outputs=[Make()], name="no-room", executor="inline")
    broker, [run] = broker_with(workflow)
    for folder in (broker.workplace.values, broker.workplace.overflow):
        assert folder is not None
        folder.touch()
    ProcessEngine(broker, [workflow]).work()
    with pytest.raises(RunFailed, match=r"cannot keep the result of step 'Make' .*Make room there"):
        broker.result(run)


_KILLED = """
import os, signal
from fuseline import MemoryBroker, ProcessEngine, Workflow
from tests.broker.test_vault import Make

workflow = Workflow(outputs=[Make()], name="killed")
broker = MemoryBroker()
broker.dispatch_workflow(workflow.to_schema())
ProcessEngine(broker, [workflow], processes=1).work()
print(broker.workplace.values, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_program_has_left_is_removed_by_the_next() -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED], capture_output=True, text=True, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = Path(killed.stdout.strip())
    assert len(values_in(folder)) == 1
    vault.Vault().close()
    assert not folder.exists()


@pytest.fixture(params=["/proc", "no /proc"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A system that tells of its processes in files, as Linux does, or one that does not."""
    if request.param == "no /proc":
        exists = os.path.exists

        def refuse(path: str, *args: object) -> None:
            raise FileNotFoundError(path)

        monkeypatch.setattr(vault, "open", refuse, raising=False)
        monkeypatch.setattr(vault.os, "readlink", refuse)
        monkeypatch.setattr(vault.os.path, "exists", lambda path: path != "/proc/self/stat" and exists(path))
    return str(request.param)


def test_what_others_have_that_live_stays(homes: tuple[Path, Path], system: str) -> None:
    first, second = vault.Vault(), vault.Vault()
    assert first.workplace.values is not None
    base = first.workplace.values.parent
    first.workplace.values.mkdir()
    space, pid, start, _ = first.workplace.values.name.split("-")
    other_space, unknown = base / f"1{space}-{pid}-0-{uuid.uuid4().hex}", base / "something else"
    reused = base / f"{space}-{pid}-1{start}-{uuid.uuid4().hex}"
    gone = base / f"{space}-{2**22 + 1}-{start}-{uuid.uuid4().hex}"  # more than any process of Linux has
    for each in (other_space, unknown, reused, gone):
        each.mkdir()
    vault.Vault().close()
    assert first.workplace.values.exists()
    assert other_space.exists()
    assert unknown.exists()
    assert not reused.exists()
    assert not gone.exists()
    for each in (first, second):
        each.close()
        each.close()
    assert not first.workplace.values.exists()


@pytest.mark.parametrize("kind", ["file", "open to others"])
def test_a_folder_that_may_be_somebody_elses_is_not_used(homes: tuple[Path, Path], kind: str) -> None:
    base = homes[0] / f"fuseline-{os.getuid()}"
    if kind == "file":
        base.touch()
    else:
        base.mkdir()
        base.chmod(0o777)
    with pytest.raises(StoreError, match=r"no folder for values can be made|a folder of yours that nobody else can"):
        vault.Vault()

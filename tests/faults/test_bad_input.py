"""Input that makes no sense, or is far too much: an error that names it, or no harm; on both brokers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fuseline import ProcessEngine, Step, Workflow
from fuseline.broker import Broker, LocalBroker, MemoryBroker
from fuseline.cli.text import printable
from fuseline.errors import FuselineError, UnknownRunError, UnknownWorkerError, WorkflowError
from fuseline.schema import StepSchema, WorkflowSchema

from ..broker.conftest import wait_gone
from ..broker.workflows import Add
from .housings import KINDS, open_broker

ODD = {
    "slash": "a/b",
    "dots": "../../etc/passwd",
    "nul": "a\0b",
    "newline": "a\nb",
    "html": "<script>alert(1)</script>",
    "terminal escape": "\x1b]0;title\x07\x1b[2J",
    "sql": "'; DROP TABLE runs; --",
    "format": "%s%n{0.__class__}",
    "10 kB": "x" * 10_240,
    "surrogate": "a\ud800b",
    "empty": "",
}
odd = pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())


@pytest.fixture(params=KINDS, scope="module")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One for all texts: nothing that is asked may be the end of it."""
    with open_broker(request.param, tmp_path_factory.mktemp("store")) as broker:
        broker.unregister_worker(broker.register_worker([]))  # from then on it shows that it is there
        yield broker


@odd
@pytest.mark.parametrize(
    "ask",
    [
        lambda broker, text: broker.get_run(text),
        lambda broker, text: broker.result(text),
        lambda broker, text: broker.cancel(text),
        lambda broker, text: broker.forget(text),
        lambda broker, text: broker.events(text),
    ],
    ids=["get_run", "result", "cancel", "forget", "events"],
)
def test_an_odd_id_of_a_run_is_refused_by_name(shared: Broker, ask: Callable[[Broker, str], Any], text: str) -> None:
    with pytest.raises(FuselineError) as caught:
        ask(shared, text)
    assert isinstance(caught.value, UnknownRunError) or text == ODD["surrogate"]
    assert printable(str(caught.value)) == str(caught.value)
    assert "\n" not in str(caught.value)
    run = shared.dispatch_workflow(Workflow(outputs=[Add()], name="add").to_schema(), {"a": 1})
    assert shared.get_run(run).instance_id == run  # and nothing was lost


@odd
def test_an_odd_id_of_a_worker_is_refused(shared: Broker, text: str) -> None:
    for ask in (shared.get_step, shared.unregister_worker, shared.keep_alive, shared.unsettled):
        with pytest.raises(UnknownWorkerError):
            ask(text)


class Trail(Step):
    """Passes on the names it has seen."""

    def run_step(self, *seen: list[str]) -> list[str]:
        return [name for names in seen for name in names] + [self.name]


FINE = [
    text for key, text in ODD.items() if key not in ("nul", "newline", "terminal escape", "10 kB", "surrogate", "empty")
]


@pytest.mark.parametrize("kind", KINDS)
def test_odd_names_of_steps_and_workflows_are_names_and_nothing_else(tmp_path: Path, kind: str) -> None:
    steps = [Trail(name=name) for name in (*FINE, ".", "..", "~", "runs.db", "-rf", "%00")]
    for step, after in itertools.pairwise(steps):
        step >> after
    workflow = Workflow(outputs=[steps[-1]], name="../<b>'; DROP TABLE runs; --", version="../1")
    with open_broker(kind, tmp_path) as broker:
        schema = workflow.to_schema()
        run = broker.dispatch_workflow(schema)
        ProcessEngine(broker, [workflow], processes=1).work()
        assert broker.result(run) == [step.name for step in steps]
        assert [info.instance_id for info in broker.list_runs(workflow_id=schema.workflow_id)] == [run]
    assert {path.name for path in tmp_path.iterdir()} <= {"runs.db", "runs.db.lock", "runs.db.files"}
    assert [path for path in tmp_path.rglob("*") if "DROP" in path.name] == []


def schema_of(*steps: tuple[str, tuple[str, ...]], outputs: tuple[str, ...] = ("a",)) -> Callable[[], WorkflowSchema]:
    """Return what makes a schema that no workflow would: of another program, say."""
    made = tuple(StepSchema(name=name, kind="Work", predecessors=before, parameters=()) for name, before in steps)
    return lambda: WorkflowSchema(workflow_id="w", name="w", steps=made, outputs=outputs)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (schema_of(("a", ("b",)), ("b", ("a",))), "cycle: (a -> b -> a|b -> a -> b)"),
        (schema_of(("a", ("a",))), "a -> a"),
        (schema_of(("a", ()), ("a", ())), "'a'"),
        (schema_of(("a", ("nobody",))), "'nobody'"),
        (schema_of(("a", ()), outputs=("nobody",)), "'nobody'"),
        (schema_of(outputs=()), "no steps"),
    ],
    ids=["cycle", "self edge", "duplicate step", "unknown predecessor", "unknown output", "no steps"],
)
def test_a_graph_that_is_none_is_refused_by_both_brokers_with_the_culprit(
    shared: Broker, make: Callable[[], WorkflowSchema], named: str
) -> None:
    before = len(shared.list_runs())
    with pytest.raises(WorkflowError, match=named):
        shared.dispatch_workflow(make())
    with pytest.raises(WorkflowError, match=named):
        shared.register_worker([make()])
    assert len(shared.list_runs()) == before


class Count(Step):
    def run_step(self, *before: int) -> int:
        return sum(before) + 1


def chain(length: int) -> Workflow:
    steps = [Count() for _ in range(length)]
    for step, after in itertools.pairwise(steps):
        step >> after
    return Workflow(outputs=[steps[-1]], name="chain")


def test_a_chain_10_000_deep_runs_to_its_end() -> None:
    broker = MemoryBroker()
    workflow = chain(10_000)
    run = broker.dispatch_workflow(workflow.to_schema())
    ProcessEngine(broker, [workflow], processes=1, executor="inline").work()
    assert broker.result(run) == 10_000


def test_100_000_steps_are_taken_by_a_broker_process(tmp_path: Path) -> None:
    steps = tuple(StepSchema(name=f"s{i}", kind="Work", predecessors=(), parameters=()) for i in range(100_000))
    schema = WorkflowSchema(workflow_id="wide", name="wide", steps=steps, outputs=("s0",))
    with LocalBroker(tmp_path / "runs.db") as broker:
        run = broker.dispatch_workflow(schema)
        worker = broker.register_worker([schema])
        assert [each.step_name for each in broker.get_steps(worker, 3)] == ["s0", "s1", "s2"]
        broker.unregister_worker(worker)
        assert broker.find_runs("") == [run]
    wait_gone(broker.pid)

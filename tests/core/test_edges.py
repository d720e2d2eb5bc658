"""Edges between steps: how they are drawn, and what is refused where it is drawn."""

from __future__ import annotations

import pytest

from fuseline import Depends, Step, Workflow
from fuseline.errors import CycleError, WorkflowError


class Load(Step):
    def run_step(self, *parts):
        return self.name


def edges(workflow: Workflow) -> dict[str, tuple[str, ...]]:
    return {step.name: step.predecessors for step in workflow.to_schema().steps}


def named(names: str) -> list[Load]:
    return [Load(name=name) for name in names.split()]


def test_next_draws_an_edge_and_returns_the_successor():
    a, b = named("a b")
    assert a.next(b) is b
    assert edges(Workflow(b)) == {"a": (), "b": ("a",)}


def test_arrows_chain():
    a, b, c = named("a b c")
    assert a >> b >> c is c
    assert edges(Workflow(c)) == {"a": (), "b": ("a",), "c": ("b",)}


def test_an_arrow_to_a_list_and_from_a_list_draws_all_edges():
    a, b, c, d = named("a b c d")
    assert a >> [b, c] == [b, c]
    assert [b, c] >> d is d
    assert edges(Workflow(d)) == {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}


def test_an_arrow_through_a_list_makes_a_diamond_in_one_line():
    a, b, c, d = named("a b c d")
    a >> (b, c) >> d
    assert edges(Workflow(d))["d"] == ("b", "c")


def test_an_edge_drawn_twice_counts_once_and_keeps_its_first_place():
    a, b, c = named("a b c")
    a >> c
    b >> c
    a >> c
    assert edges(Workflow(c))["c"] == ("a", "b")


def test_edges_come_before_depends_in_the_order_of_predecessors():
    a, b = named("a b")

    class Report(Step):
        def run_step(self, x=Depends(a)): ...

    report = Report()
    b >> report
    assert edges(Workflow(report))["Report"] == ("b", "a")


def test_an_edge_drawn_later_does_not_change_a_workflow():
    a, b = named("a b")
    workflow = Workflow(b)
    a >> b
    assert edges(workflow) == {"b": ()}
    assert edges(Workflow(b)) == {"a": (), "b": ("a",)}


@pytest.mark.parametrize("other", [None, "b", 7, Load])
def test_an_edge_to_something_else_than_a_step_is_refused(other):
    [a] = named("a")
    with pytest.raises(WorkflowError, match=r"step 'a': an edge leads to a step, not to"):
        a.next(other)
    with pytest.raises(WorkflowError):
        a >> [other]
    with pytest.raises((WorkflowError, TypeError)):
        a >> other
    assert edges(Workflow(a)) == {"a": ()}


def test_a_class_instead_of_a_step_is_named_with_what_to_write():
    [a] = named("a")
    with pytest.raises(WorkflowError, match=r"Make an instance of it: Load\(\)"):
        a >> Load


@pytest.mark.parametrize("other", [None, "b", 7, Load])
def test_an_edge_from_something_else_than_a_step_is_refused(other):
    [a] = named("a")
    with pytest.raises((WorkflowError, TypeError)):
        [other] >> a
    assert edges(Workflow(a)) == {"a": ()}


def test_depends_on_something_else_than_a_step_is_refused():
    with pytest.raises(WorkflowError, match=r"Depends\(\) takes a step"):
        Depends("load")


def test_an_edge_to_itself_is_refused_where_it_is_drawn():
    [a] = named("a")
    with pytest.raises(CycleError, match="step 'a' cannot wait for itself") as caught:
        a >> a
    assert caught.value.cycle == ("a", "a")
    assert edges(Workflow(a)) == {"a": ()}


def test_a_cycle_is_named_in_the_direction_of_its_edges():
    clean, join, fit = named("clean join fit")
    clean >> join >> clean
    join >> fit
    with pytest.raises(CycleError, match=r"workflow 'etl' has a cycle: (clean -> join -> clean|join -> clean -> join)"):
        Workflow(fit, name="etl")


def test_a_cycle_of_10_000_is_found_and_its_message_stays_short():
    steps = [Load(name=f"s{i}") for i in range(10_000)]
    for before, after in zip(steps, [*steps[1:], steps[0]], strict=True):
        before >> after
    with pytest.raises(CycleError) as caught:
        Workflow(steps[0])
    assert len(caught.value.cycle) == 10_001
    assert len(str(caught.value)) < 300

"""Orders and cycles of graphs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

import pytest

from fuseline.graph import order_before

Graph = Mapping[str, Sequence[str]]


def order(graph: Graph, *roots: str) -> list[str]:
    found, cycle = order_before(roots, graph.__getitem__)
    assert cycle is None
    return found


def cycle_of(graph: Graph, *roots: str) -> list[str]:
    _, cycle = order_before(roots, graph.__getitem__)
    assert cycle is not None
    return cycle


def test_each_node_comes_after_its_predecessors():
    graph = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
    assert order(graph, "d") == ["a", "b", "c", "d"]


def test_predecessors_are_visited_in_the_order_given():
    graph = {"a": [], "b": ["a"], "c": ["a"], "d": ["c", "b"]}
    assert order(graph, "d") == ["a", "c", "b", "d"]


def test_roots_are_visited_in_the_order_given():
    graph = {"a": [], "b": [], "c": ["a"]}
    assert order(graph, "b", "c") == ["b", "a", "c"]
    assert order(graph, "c", "b") == ["a", "c", "b"]


def test_what_no_root_depends_on_is_left_out():
    graph = {"a": [], "b": ["a"], "beside": ["a"], "after": ["b"]}
    assert order(graph, "b") == ["a", "b"]


def test_a_root_that_another_root_depends_on_appears_once():
    graph = {"a": [], "b": ["a"]}
    assert order(graph, "b", "a", "b") == ["a", "b"]


def test_no_roots_give_an_empty_order():
    assert order_before([], {}.__getitem__) == ([], None)


def test_an_edge_drawn_twice_counts_once():
    assert order({"a": [], "b": ["a", "a"]}, "b") == ["a", "b"]


@pytest.mark.parametrize("width", [1, 2, 50])
def test_a_ladder_of_diamonds_is_walked_once_and_not_once_per_path(width):
    levels = 200
    graph = {
        f"{level}.{i}": [f"{level - 1}.{j}" for j in range(width)] if level else []
        for level in range(levels)
        for i in range(width)
    }
    asked: list[str] = []

    def predecessors(node: str) -> Sequence[str]:
        asked.append(node)
        return graph[node]

    found, cycle = order_before([f"{levels - 1}.{i}" for i in range(width)], predecessors)
    assert cycle is None
    assert len(found) == len(set(found)) == levels * width
    assert sorted(asked) == sorted(graph)


def test_a_chain_of_20_000_needs_no_recursion():
    last = 20_000
    found, cycle = order_before([last], lambda node: [node - 1] if node else [])
    assert cycle is None
    assert found == list(range(last + 1))


def test_the_order_depends_on_the_graph_alone():
    rng = random.Random(7)
    names = [f"n{i}" for i in range(60)]
    graph = {name: rng.sample(names[:i], min(i, 3)) for i, name in enumerate(names)}
    first = order(graph, *names[-5:])
    shuffled = list(graph.items())
    rng.shuffle(shuffled)
    assert order(dict(shuffled), *names[-5:]) == first
    place = {name: i for i, name in enumerate(first)}
    assert all(place[before] < place[name] for name in first for before in graph[name])


def test_a_cycle_is_named_in_the_direction_of_its_edges():
    graph = {"clean": ["join"], "fit": ["clean"], "join": ["fit"]}  # clean -> fit -> join -> clean
    cycle = cycle_of(graph, "join")
    assert cycle[0] == cycle[-1]
    assert set(itertools.pairwise(cycle)) == {("clean", "fit"), ("fit", "join"), ("join", "clean")}


def test_a_cycle_of_two_is_named():
    assert cycle_of({"a": ["b"], "b": ["a"]}, "a") == ["a", "b", "a"]


def test_a_node_before_itself_is_a_cycle_of_one():
    assert cycle_of({"a": [], "b": ["a", "b"]}, "b") == ["b", "b"]


def test_a_cycle_upstream_is_found_and_named_without_what_leads_to_it():
    graph = {"a": ["c"], "b": ["a"], "c": ["b"], "d": ["c"], "e": ["d"]}
    cycle = cycle_of(graph, "e")
    assert set(cycle) == {"a", "b", "c"}
    assert all(before in graph[after] for before, after in itertools.pairwise(cycle))


def test_a_cycle_that_no_root_depends_on_does_no_harm():
    assert order({"a": [], "b": ["c"], "c": ["b"]}, "a") == ["a"]


def test_a_cycle_of_10_000_is_named_whole():
    size = 10_000
    _, cycle = order_before([0], lambda node: [(node - 1) % size])
    assert cycle is not None
    assert len(cycle) == size + 1
    assert all((before + 1) % size == after for before, after in itertools.pairwise(cycle))


def test_two_paths_to_one_node_are_no_cycle():
    graph = {"a": [], "b": ["a"], "c": ["b", "a"], "d": ["a", "c", "b"]}
    assert order(graph, "d") == ["a", "b", "c", "d"]

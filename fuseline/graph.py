"""Orders and cycles of a graph, without recursion: a chain of 10,000 steps is an ordinary graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

__all__ = ["order_before"]

Node = TypeVar("Node", bound=Hashable)


def order_before(
    roots: Iterable[Node], predecessors: Callable[[Node], Iterable[Node]]
) -> tuple[list[Node], list[Node] | None]:
    """Return all nodes that ``roots`` depend on, and ``roots``, each after its predecessors.

    The order depends on the graph alone, so every program that builds the same graph gets the same one. Depth first,
    O(nodes + edges).

    Returns:
        The order, and None. If there is a cycle, an incomplete order and the nodes along the cycle, in the direction of
        its edges, the first one repeated at the end.
    """
    order: list[Node] = []
    done: set[Node] = set()
    path: dict[Node, None] = {}  # nodes between a root and the one at hand, in this order
    for root in roots:
        if root in done:
            continue
        path[root] = None
        stack = [(root, iter(predecessors(root)))]
        while stack:
            node, rest = stack[-1]
            for before in rest:
                if before in path:
                    nodes = list(path)
                    circle = nodes[nodes.index(before) :]
                    # The path leads against the edges: from a node to what it depends on.
                    return order, [before, *reversed(circle)]
                if before not in done:
                    path[before] = None
                    stack.append((before, iter(predecessors(before))))
                    break
            else:
                stack.pop()
                del path[node]
                done.add(node)
                order.append(node)
    return order, None

"""Tickets: each is taken by one of the two who may, whatever happens in between."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fuseline.processes.tickets import Tickets


@pytest.fixture
def ends() -> Iterator[tuple[Tickets, Tickets]]:
    """The program's end, and what the child makes of its own."""
    program = Tickets()
    child = Tickets(os.dup(program._read_fd))
    yield program, child
    program.close()
    child.close()


def test_the_child_begins_what_was_issued_in_order(ends: tuple[Tickets, Tickets]) -> None:
    program, child = ends
    program.issue((3, 5))
    program.issue((2**63,))
    assert [child.redeem(token) for token in (3, 5, 2**63)] == [True, True, True]
    assert program.take_back(9) == []


def test_the_child_does_not_begin_what_was_taken_back(ends: tuple[Tickets, Tickets]) -> None:
    program, child = ends
    program.issue((1, 2, 3))
    assert program.take_back(2) == [1, 2]
    program.issue((4,))
    assert [child.redeem(token) for token in (1, 2, 3, 4)] == [False, False, True, True]


def test_one_that_is_issued_again_is_begun_once(ends: tuple[Tickets, Tickets]) -> None:
    program, child = ends
    program.issue((1,))
    assert program.take_back(1) == [1]
    program.issue((1,))
    assert [child.redeem(1), child.redeem(1)] == [True, False]


def test_in_a_race_each_is_taken_once(ends: tuple[Tickets, Tickets]) -> None:
    program, child = ends
    count = 20_000
    begun_read, begun_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        begun = bytes(child.redeem(token) for token in range(1, count + 1) if os.read(begun_read, 1))
        os.write(begun_write, begun)  # fits a pipe
        os._exit(0)
    taken: set[int] = set()
    for token in range(1, count + 1):
        program.issue((token,))
        os.write(begun_write, b"x")
        if token % 3 == 0:
            taken.update(program.take_back(1))
    os.waitpid(pid, 0)
    begun = b""
    while len(begun) < count:
        begun += os.read(begun_read, count)
    os.close(begun_read)
    os.close(begun_write)
    assert {token for token in range(1, count + 1) if not begun[token - 1]} == taken

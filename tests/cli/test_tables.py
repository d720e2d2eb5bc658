"""Tables that fit the terminal."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from fuseline.cli.tables import Column, table_lines


def columns() -> list[Column]:
    return [
        Column(title="id", cells=["0123456789abcdef", "fedcba9876543210"]),
        Column(title="name", cells=["a rather long name of a workflow", "short"], least=8, rank=1),
        Column(title="took", cells=["1.2 s", "3 ms"], rank=2, right=True),
        Column(title="reason", cells=["", "ValueError: " + "x" * 100], least=16, rank=3),
        Column(title="empty", cells=["", ""]),
    ]


@pytest.mark.parametrize("width", [200, 120, 80, 60, 50, 40, 30])
def test_a_table_is_never_wider_than_the_terminal(width: int) -> None:
    lines = [line.plain for line in table_lines(columns(), width)]
    assert len(lines) == 3
    assert max(map(cell_len, lines)) <= width
    assert "0123456789abcdef" in lines[1]
    assert "empty" not in lines[0]


@pytest.mark.parametrize("name", ["customer-feature-building-nightly", "顧客特徴構築夜間" * 2])
def test_two_columns_that_are_cut_do_not_take_each_others_room(name: str) -> None:
    table = [
        Column(title="run", cells=["0123456789abcdef"]),
        Column(title="workflow", cells=[name], least=8, rank=1),
        Column(title="reason", cells=["step number two of many: ValueError: " + "x" * 60], least=16, rank=2),
    ]
    for width in range(40, 140):
        lines = [line.plain for line in table_lines(table, width)]
        assert max(map(cell_len, lines)) <= width


def test_what_fits_is_not_cut() -> None:
    head, first, second = (line.plain for line in table_lines(columns(), 200))
    assert head.split() == ["id", "name", "took", "reason"]
    assert first == "0123456789abcdef  a rather long name of a workflow  1.2 s"
    assert second.endswith("x" * 100)


def test_less_important_columns_go_before_others_are_cut_too_far() -> None:
    head, _, second = (line.plain for line in table_lines(columns(), 52))
    assert head.split() == ["id", "name", "took", "reason"]
    assert second.endswith("…")
    head, first, _ = (line.plain for line in table_lines(columns(), 40))
    assert head.split() == ["id", "name", "took"]
    assert "…" in first


def test_wide_characters_count_twice() -> None:
    table = [Column(title="name", cells=["漢字" * 10, "x"], least=8), Column(title="n", cells=["1", "2"])]
    lines = [line.plain for line in table_lines(table, 20)]
    assert max(map(cell_len, lines)) <= 20
    assert {line.rindex(line[-1]) and cell_len(line) for line in lines} == {20}


def test_markup_and_control_characters_are_shown() -> None:
    table = [Column(title="name", cells=["[red]x[/red]\x1b[1m"])]
    assert [line.plain for line in table_lines(table, 80)][1] == "[red]x[/red]\\x1b[1m"

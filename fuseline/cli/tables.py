"""Tables that fit the terminal: some columns are never cut, some are cut with an ellipsis, some may be left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from fuseline.cli.text import printable

__all__ = ["STATE_STYLES", "Column", "table_lines"]

STATE_STYLES = {
    "SUCCEEDED": "green",
    "FAILED": "bold red",
    "RUNNING": "cyan",
    "RETRYING": "yellow",
    "CANCELLED": "yellow",
    "SKIPPED": "dim",
    "PENDING": "dim",
    "READY": "dim",
}

_GAP = 2  #: blanks between columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table."""

    title: str
    cells: Sequence[str]
    least: int | None = None  #: characters that it may be cut to; None if it is never cut
    rank: int = 0  #: where the terminal is narrow, columns with a low one go before others; 0 stays
    right: bool = False  #: whether it is aligned on the right
    style: Callable[[str], str] = lambda cell: ""

    @property
    def wanted(self) -> int:
        """The width in which nothing has to be cut."""
        return max(cell_len(text) for text in [self.title, *map(_one_line, self.cells)])

    @property
    def needed(self) -> int:
        """The width below which it cannot go."""
        return self.wanted if self.least is None else min(self.wanted, self.least)


def table_lines(columns: Sequence[Column], width: int) -> Iterator[Text]:
    """Yield the head and the rows of a table at most ``width`` characters wide, if that can be.

    Columns without anything in them are left out.
    """
    shown: list[Column] = []
    for column in sorted(columns, key=lambda column: column.rank):
        fits = _total([each.needed for each in [*shown, column]]) <= width
        if any(column.cells) and (fits or column.rank == 0):
            shown.append(column)
    shown.sort(key=columns.index)
    widths = _share(shown, width)
    yield _line(shown, widths, [Text(column.title, "bold") for column in shown])
    for row in zip(*(column.cells for column in shown), strict=True):
        cells = [Text(_one_line(cell), column.style(cell)) for column, cell in zip(shown, row, strict=True)]
        yield _line(shown, widths, cells)


def _one_line(cell: str) -> str:
    return printable(cell).replace("\n", " ")


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * max(0, len(widths) - 1)


def _share(columns: Sequence[Column], width: int) -> list[int]:
    """Return the widths of columns: what is left by those that are never cut is shared by the others."""
    widths = {id(column): column.needed for column in columns}
    flexible = sorted((c for c in columns if c.least is not None), key=lambda column: column.wanted)
    while flexible:
        column = flexible.pop(0)
        spare = max(0, width - _total(list(widths.values())))
        fair = (spare + sum(widths[id(each)] for each in [column, *flexible])) // (len(flexible) + 1)
        widths[id(column)] = max(column.needed, min(column.wanted, column.needed + spare, fair))
    return [widths[id(column)] for column in columns]


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[Text]) -> Text:
    line = Text()
    for place, (column, width, cell) in enumerate(zip(columns, widths, cells, strict=True)):
        cell.truncate(width, overflow="ellipsis")
        blanks = " " * (width - cell.cell_len)
        line.append(" " * _GAP if place else "")
        line.append_text(Text.assemble(blanks, cell) if column.right else Text.assemble(cell, blanks))
    line.rstrip()
    return line

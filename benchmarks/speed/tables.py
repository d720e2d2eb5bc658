"""The medians as a table: a line per work, a column per library."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence

from rich.table import Table

from benchmarks.speed.libraries import Library
from benchmarks.speed.results import Results
from benchmarks.speed.works import Kind

__all__ = ["as_markdown", "as_table", "versions"]

_NOT_ASKED = "-"


def as_table(results: Results, libraries: Sequence[Library], kinds: Sequence[Kind]) -> Table:
    table = Table(title="Median time, two worker processes, warm pools", caption=versions(libraries))
    head, *lines = _lines(results, libraries, kinds)
    for title in head:
        table.add_column(title.replace("`", ""))
    for line in lines:
        table.add_row(*(cell.replace("*", "") for cell in line))
    return table


def as_markdown(results: Results, libraries: Sequence[Library], kinds: Sequence[Kind]) -> str:
    head, *lines = _lines(results, libraries, kinds)
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + f"\n\n{versions(libraries)}"


def versions(libraries: Iterable[Library]) -> str:
    installed = {each.distribution: f"{each.title} {each.version()}" for each in libraries if each.version()}
    return ", ".join([f"Python {platform.python_version()}", *installed.values()])


def _lines(results: Results, libraries: Sequence[Library], kinds: Sequence[Kind]) -> Iterable[list[str]]:
    columns = {library.title: [each for each in libraries if each.title == library.title] for library in libraries}
    yield ["work", *columns, "of the best other"]
    for kind in kinds:
        best = results.best_peer(kind.name)
        cells = []
        for column in columns.values():
            cell = _NOT_ASKED
            for library in column:
                if (value := results.median(kind.name, library.name)) is not None:
                    cell = _show(results, kind, library, value)
                    if best is not None and best[0] == library.name:
                        cell = f"**{cell}**"
                elif results.problem(library.name, kind.name) is not None:
                    cell = "fails"
            cells.append(cell)
        ratio = results.ratio(kind.name)
        yield [_title(results, kind), *cells, _NOT_ASKED if ratio is None else f"{ratio:.2f} x"]


def _title(results: Results, kind: Kind) -> str:
    unit = "seconds" if kind.name == "array" else "share of the ideal" if kind.ideal else "µs per step"
    return f"`{kind.name}`: {kind.title}; {unit}"


def _show(results: Results, kind: Kind, library: Library, value: float) -> str:
    size = results.sizes[kind.name]
    least, most = results.spread(kind.name, library.name)
    if kind.ideal is not None:
        return f"{kind.ideal(size) / value:.1%}"
    if kind.name == "array":
        return f"{value:.2f} ({least:.2f} to {most:.2f})"
    return f"{value / size * 1e6:.0f} ({least / size * 1e6:.0f} to {most / size * 1e6:.0f})"

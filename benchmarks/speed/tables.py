"""The medians as tables: a line per work, a column per library."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib import metadata

from rich.table import Table

from benchmarks.speed.libraries import Library
from benchmarks.speed.results import Results
from benchmarks.speed.works import OURS, Kind

__all__ = ["as_markdown", "as_tables", "shown", "versions"]

_NOT_ASKED = "-"
_TITLES = {
    "work": "Median time, two worker processes, warm pools",
    "start": "Beginnings and ends",
    "growth": "Growth",
}


def as_tables(results: Results, libraries: Sequence[Library], kinds: Sequence[Kind]) -> Iterator[Table]:
    """Yield a table for the terminal for each group of kinds: a line per work and library, which fits any width."""
    for group, members in _groups(results, kinds):
        table = Table(title=_TITLES[group])
        for title in ("work", "library", "median (least to most)", "fuseline takes"):
            table.add_column(title)
        for kind in members:
            ours = results.ours(kind.name)
            name = f"{kind.name}: {kind.describe(results.sizes[kind.name])}".replace("`", "")
            for library in libraries:
                value = results.median(kind.name, library.name)
                if value is not None:
                    is_other = library.name not in OURS and ours is not None
                    beside = f"{ours / value:.2f} of it" if is_other and ours is not None else ""
                    table.add_row(name, library.title.replace("`", ""), shown(results, kind, library.name), beside)
                    name = ""
                elif results.problem(library.name, kind.name) is not None:
                    table.add_row(name, library.title.replace("`", ""), "fails", "")
                    name = ""
            table.add_section()
        yield table


def as_markdown(results: Results, libraries: Sequence[Library], kinds: Sequence[Kind], group: str) -> str:
    """Return the table of one group."""
    for name, members in _groups(results, kinds):
        if name == group:
            head, *lines = _lines(results, libraries, members)
            rows = [head, ["---"] * len(head), *lines]
            return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return ""


def versions(libraries: Iterable[Library]) -> str:
    """Return what was compared, and what arrays are made with: names and versions."""
    installed = {each.distribution: f"{each.title} {each.version()}" for each in libraries if each.version()}
    with suppress(metadata.PackageNotFoundError):
        installed["numpy"] = f"numpy {metadata.version('numpy')}"
    return ", ".join([f"Python {platform.python_version()}", *installed.values()])


def _groups(results: Results, kinds: Sequence[Kind]) -> Iterator[tuple[str, list[Kind]]]:
    for group in _TITLES:
        members = [kind for kind in kinds if kind.group == group and kind.name in results.sizes]
        if members:
            yield group, members


def _lines(results: Results, libraries: Sequence[Library], kinds: Sequence[Kind]) -> Iterator[list[str]]:
    columns: dict[str, list[Library]] = {}
    for library in libraries:
        if any((kind.name, library.name) in results.measured for kind in kinds):
            columns.setdefault(library.title, []).append(library)
    ratios = [results.ratio(kind.name) for kind in kinds]
    has_ratios = any(ratio is not None for ratio in ratios)
    yield ["", *columns, *(["of the best other"] if has_ratios else [])]
    for kind, ratio in zip(kinds, ratios, strict=True):
        best = results.best_peer(kind.name)
        cells = [_cell(results, kind, column, best) for column in columns.values()]
        told = _NOT_ASKED if ratio is None else f"{ratio:.2f} x"
        yield [f"`{kind.name}`: {kind.describe(results.sizes[kind.name])}", *cells, *([told] if has_ratios else [])]


def _cell(results: Results, kind: Kind, column: Sequence[Library], best: tuple[str, float] | None) -> str:
    for library in column:
        if (kind.name, library.name) in results.measured:
            text = shown(results, kind, library.name)
            return f"**{text}**" if best is not None and best[0] == library.name else text
        if results.problem(library.name, kind.name) is not None:
            return "fails"
    return _NOT_ASKED


def shown(results: Results, kind: Kind, library: str) -> str:
    """Return a median in the unit of its kind, with the least and the most."""
    size = results.sizes[kind.name]
    value = results.median(kind.name, library)
    assert value is not None
    least, most = results.spread(kind.name, library)
    if kind.unit == "share of the ideal":
        assert kind.ideal is not None
        return f"{kind.ideal(size) / value:.1%}"
    factor, digits = {"µs per step": (1e6 / size, 0), "seconds": (1, 2), "ms": (1e3, 0), "bytes per step": (1, 0)}[
        kind.unit
    ]
    texts = [f"{each * factor:.{digits}f}" for each in (value, least, most)]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} ({texts[1]} to {texts[2]})"

"""The verdicts as a table: a line per hostile step, a column per library."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from benchmarks.torture.hosts import AFTERMATH
from benchmarks.torture.libraries import Library
from benchmarks.torture.steps import HOSTILE, ORPHANS
from benchmarks.torture.verdicts import CONTAINED, Verdict

__all__ = ["Results"]

_NOT_INSTALLED = "not installed"


@dataclass(slots=True, kw_only=True)
class Results:
    """What was asked, and what has come out so far."""

    libraries: Sequence[Library]
    steps: Sequence[str]  #: names of hostile steps; ORPHANS, if it is there, comes last
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)  #: {(library, step): …}

    def is_all_good(self, library: str) -> bool:
        return all(self.verdicts[library, step].is_good for step in self.steps)

    def as_table(self) -> Table:
        table = Table(title="One hostile step among good ones, on two workers", caption=self.versions())
        head, *lines = self._lines()
        for title in head:
            table.add_column(_plain(title))
        for line in lines:
            table.add_row(*map(_plain, line))
        return table

    def as_markdown(self) -> str:
        head, *lines = self._lines()
        rows = [head, ["---"] * len(head), *([line[0], *map(_bold, line[1:])] for line in lines)]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows) + f"\n\n{self.versions()}"

    def as_plain_data(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": {library.name: library.version() for library in self.libraries},
            "verdicts": [
                {"library": library, "step": step, **asdict(verdict)}
                for (library, step), verdict in self.verdicts.items()
            ],
        }

    def versions(self) -> str:
        installed = [f"{lib.title.strip('`')} {lib.version()}" for lib in self.libraries if lib.version()]
        return ", ".join([f"Python {platform.python_version()}", *installed])

    def _lines(self) -> Iterable[list[str]]:
        hostile = [step for step in self.steps if step != ORPHANS]
        yield ["when one step of many …", *(library.title for library in self.libraries)]
        for step in hostile:
            yield [HOSTILE[step].title, *(self._cell(library, step) for library in self.libraries)]
        if hostile:
            yield [f"contained of {len(hostile)}", *(self._count(library, hostile) for library in self.libraries)]
        if ORPHANS in self.steps:
            title = f"processes alive {AFTERMATH:g} s after SIGKILL of the program"
            yield [title, *(self._cell(library, ORPHANS) for library in self.libraries)]

    def _cell(self, library: Library, step: str) -> str:
        return self.verdicts[library.name, step].text if library.version() is not None else _NOT_INSTALLED

    def _count(self, library: Library, hostile: Iterable[str]) -> str:
        if library.version() is None:
            return _NOT_INSTALLED
        return str(sum(self.verdicts[library.name, step].is_good for step in hostile))


def _plain(markdown: str) -> str:
    return markdown.replace("`", "")


def _bold(cell: str) -> str:
    return f"**{cell}**" if cell == CONTAINED else cell

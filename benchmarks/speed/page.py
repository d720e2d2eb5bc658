"""Puts what was measured into the page about it, between two marks; what is around them was written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.speed.libraries import Library
from benchmarks.speed.picture import draw
from benchmarks.speed.results import Results
from benchmarks.speed.tables import as_markdown, shown, versions
from benchmarks.speed.targets import TARGETS
from benchmarks.speed.works import Kind

__all__ = ["PAGE", "write_page"]

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
_BEGIN, _END = "<!-- measured: written by make bench -->", "<!-- end of what was measured -->"


def write_page(results: Results, libraries: Sequence[Library], kinds: Sequence[Kind]) -> None:
    """Write numbers and picture.

    Raises:
        ValueError: the page has no place for them.
    """
    text = PAGE.read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{PAGE} has no lines {_BEGIN!r} and {_END!r}.")
    draw(results, libraries, kinds, PAGE.with_suffix(".png"))
    parts = "\n\n".join(filter(None, _parts(results, libraries, kinds)))
    PAGE.write_text(f"{before}{_BEGIN}\n\n{parts}\n\n{_END}{after}")


def _parts(results: Results, libraries: Sequence[Library], kinds: Sequence[Kind]) -> Iterator[str]:
    yield "![What a step costs in each library, and in fuseline by size](performance.png)"
    yield as_markdown(results, libraries, kinds, "work")
    yield as_markdown(results, libraries, kinds, "start")
    yield as_markdown(results, libraries, kinds, "growth")
    yield _targets(results, {kind.name: kind for kind in kinds})
    failed = [f"`{work}` in {library}: {problem}" for (work, library), problem in results.problems.items()]
    yield "\n".join(f"- {line}" for line in failed)
    yield f"{versions(libraries)}. {results.machine}."


def _targets(results: Results, kinds: dict[str, Kind]) -> str:
    rows = [["aim", "measured", "reached"], ["---"] * 3]
    for target in TARGETS:
        value = target.value(results)
        if value is None:
            continue
        told = f"{value:.2f} x" if target.is_ratio else shown(results, kinds[target.work], target.library)
        rows.append([target.title, told, "yes" if target.is_met(value) else "**no**"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

"""A bar on standard error that says how far runs are; nothing is drawn where that is no terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fuseline.cli.follow import Tally
from fuseline.cli.text import plural, printable, shorten

__all__ = ["RunBar"]

#: Columns of a terminal below which there is a short bar only.
_NARROW = 70


class _SteadyConsole(Console):
    """Leaves the cursor alone: if this process is killed, nobody would show it again."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class RunBar:
    """Shows steps if there is one run, and runs if there are several. Use it in a ``with`` statement.

    Args:
        name: of the workflow.
        total: steps or runs.
        noun: ``"step"`` or ``"run"``.
    """

    def __init__(self, name: str, total: int, noun: str) -> None:
        console = _SteadyConsole(stderr=True, markup=False, highlight=False, emoji=False)
        is_wide = console.width >= _NARROW
        self._noun = noun
        self._total = total
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20 if is_wide else 8),
            TextColumn("{task.fields[counts]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        name = shorten(printable(name), 24 if is_wide else 10)
        self._task = self._progress.add_task(name, total=max(1, total), counts=self._counts(Tally(), 0))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, steps: Tally, runs: Tally) -> None:
        """Draw how far it is, soon."""
        tally = steps if self._noun == "step" else runs
        settled = tally.done + tally.failed + tally.cancelled
        self._progress.update(self._task, completed=settled, counts=self._counts(tally, steps.retried))

    def _counts(self, tally: Tally, retried: int) -> str:
        settled = tally.done + tally.failed + tally.cancelled
        text = f"{settled:,}/{plural(self._total, self._noun)}"
        text += f", {tally.failed:,} failed" if tally.failed else ""
        return text + (f", {retried:,} {'retry' if retried == 1 else 'retries'}" if retried else "")

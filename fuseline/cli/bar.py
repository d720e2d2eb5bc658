"""A bar on standard error that says how far runs are; nothing is drawn where that is no terminal.

Child processes write to the same terminal, when they like. So the cursor stays where their text ends, and the bar is
drawn some rows below it. What they print moves down towards the bar, and the next drawing, which begins by erasing all
below the cursor, puts it further down. Only one of many lines that are printed in one go may keep a rest of it.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fuseline.cli.follow import Tally
from fuseline.cli.text import plural, printable, shorten

__all__ = ["RunBar"]

#: Columns of a terminal below which there is a short bar only.
_NARROW = 70
#: Seconds between two drawings.
_INTERVAL = 0.1
#: Rows between the cursor and the bar, which lines that are printed in one go may fill.
_ROWS = 3

_ERASE = "\x1b[J"  #: what is to the right of the cursor and below
_SCROLL = "\x1bD"  #: a row down, in the same column; on the last row, all goes up
_KEEP, _BACK = "\x1b7", "\x1b8"


class RunBar:
    """Shows steps if there is one run, and runs if there are several. Use it in a ``with`` statement.

    Args:
        name: of the workflow.
        total: steps or runs.
        noun: ``"step"`` or ``"run"``.
    """

    def __init__(self, name: str, total: int, noun: str) -> None:
        self._console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        is_wide = self._console.width >= _NARROW
        self._noun = noun
        self._total = total
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20 if is_wide else 8),
            TextColumn("{task.fields[counts]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=False,
        )
        name = shorten(printable(name), 24 if is_wide else 10)
        self._task = self._progress.add_task(name, total=max(1, total), counts=self._counts(Tally(), 0))
        self._is_shown = self._console.is_terminal and not self._console.is_dumb_terminal
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_drawing, name="fuseline-bar", daemon=True)

    def __enter__(self) -> Self:
        if self._is_shown:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_shown:
            self._ended.set()
            self._thread.join()

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

    def _keep_drawing(self) -> None:
        try:
            while not self._ended.is_set():
                self._write(self._drawing())
                self._ended.wait(_INTERVAL)
            self._write(_ERASE)
        except OSError:  # the terminal is gone
            pass

    def _drawing(self) -> str:
        """Return what draws the bar below the cursor, and leaves that where it is."""
        rows = max(1, min(_ROWS + 1, self._console.height - 1))
        with self._console.capture() as captured:
            self._console.print(self._progress.get_renderable(), end="")
        bar = captured.get().strip("\n")
        return f"{_ERASE}{_SCROLL * rows}\x1b[{rows}A{_KEEP}\x1b[{rows}B\r{bar}{_BACK}"

    def _write(self, text: str) -> None:
        """Write at once, so that what others print does not get into it."""
        self._console.file.write(text)
        self._console.file.flush()

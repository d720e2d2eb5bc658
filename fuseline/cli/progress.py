"""The line that says how far the work on many files is."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from fuseline.policies import WorkflowPolicy
from fuseline.states import State
from fuseline.workflow import Workflow

__all__ = ["FileProgress"]

#: Seconds between two drawings: smooth to the eye, and too few to cost anything.
_INTERVAL = 0.1
#: Characters of the bar.
_BAR = 30


class FileProgress(WorkflowPolicy):
    """Redraws a line on standard error as runs end, and removes it at the end; silent where that is no terminal.

    Args:
        sizes: of the files, in the order in which they are worked on. The bar shows their share, not that of the
            number of files: a large file takes longer.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._label = ""
        self._done_sizes = [0, *itertools.accumulate(sizes)]
        self._done = 0
        self._is_shown = sys.stderr.isatty()
        self._started: float | None = None  #: of what is under way first
        self._draw_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def on_workflow_finished(self, workflow: Workflow, state: State) -> None:
        self.count()

    def begin(self, label: str) -> None:
        """Say what is under way from now on."""
        self._label = label
        self._draw_at = 0.0
        self._draw()

    def count(self) -> None:
        """One more file is done."""
        self._done += 1
        self._draw()

    def _draw(self) -> None:
        now = time.monotonic()
        self._started = self._started or now
        if not self._is_shown or now < self._draw_at:
            return
        self._draw_at = now + _INTERVAL
        share = self._done_sizes[self._done] / max(1, self._done_sizes[-1])
        bar = ("#" * int(_BAR * share)).ljust(_BAR, ".")
        sys.stderr.write(f"\r{self._label:<10} [{bar}] {share:4.0%}, {now - self._started:.1f} s\x1b[K")
        sys.stderr.flush()

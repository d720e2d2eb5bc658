"""Seeds: what an attempt draws from ``random`` and ``numpy.random`` depends on its run and its step alone."""

from __future__ import annotations

import random
from types import ModuleType

from fuseline.processes.on_import import on_import

__all__ = ["Seeds"]

#: The module in which numpy keeps the generator behind its functions.
_NUMPY = "numpy.random.mtrand"


class Seeds:
    """Seeds the generators that all of a process shares; also numpy's, if that is imported in the middle of a step."""

    def __init__(self) -> None:
        self._seed = 0
        self._numpy: ModuleType | None = None
        on_import(_NUMPY, self._has_numpy)

    def _has_numpy(self, module: ModuleType) -> None:
        self._numpy = module
        module.seed(self._seed)

    def plant(self, seed: int) -> None:
        """Start both generators from this seed."""
        self._seed = seed
        random.seed(seed)
        if self._numpy is not None:
            self._numpy.seed(seed)

"""Seeds: what an attempt draws from ``random`` and ``numpy.random`` depends on its run and its step alone."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import random
import sys
from collections.abc import Sequence
from types import ModuleType

__all__ = ["Seeds"]

#: The module in which numpy keeps the generator behind its functions.
_NUMPY = "numpy.random.mtrand"


class Seeds(importlib.abc.MetaPathFinder):
    """Seeds the generators that all of a process shares; also numpy's, if that is imported in the middle of a step."""

    def __init__(self) -> None:
        self._seed = 0
        sys.meta_path.insert(0, self)

    def plant(self, seed: int) -> None:
        """Start both generators from this seed."""
        self._seed = seed
        random.seed(seed)
        if (numpy := sys.modules.get(_NUMPY)) is not None:
            numpy.seed(seed)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Have numpy's generator seeded as soon as it is there. All other imports go their usual way."""
        if fullname != _NUMPY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _SeedingLoader(spec.loader, self._seed)
        return spec


class _SeedingLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, seed: int) -> None:
        self._loader = loader
        self._seed = seed

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        module.seed(self._seed)

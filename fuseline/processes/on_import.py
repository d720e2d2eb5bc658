"""Doing something to a module as soon as it is imported, if it ever is: a child that imports little starts fast."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["on_import"]


def on_import(name: str, do: Callable[[Any], None]) -> None:
    """Have ``do(module)`` called once, after the code of module ``name`` has run; now, if it has."""
    if (module := sys.modules.get(name)) is not None:
        do(module)
    else:
        sys.meta_path.insert(0, _Finder(name, do))


class _Finder:
    """Finds one module where it would be found anyway, and leaves with that."""

    def __init__(self, name: str, do: Callable[[Any], None]) -> None:
        self._name = name
        self._do = do

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None  # somebody after us may find it
        sys.meta_path.remove(self)
        loader: Any = _Loader(spec.loader, self._do)
        spec.loader = loader
        return spec


class _Loader:
    def __init__(self, loader: Any, do: Callable[[Any], None]) -> None:
        self._loader = loader
        self._do = do

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._do(module)

"""Packages whose names are imported on first use, so that who needs one of them does not wait for all."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for a package.

    Args:
        modules: ``{name: full name of the module that it is in}``
    """
    names = sys.modules[package].__dict__

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        names[name] = value
        return value

    return get, lambda: sorted({*names, *modules})

"""Parameters that the commands have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

__all__ = ["Names"]


class Names(click.ParamType):
    """Names of a mapping with commas between them; becomes a list in the order of the mapping."""

    name = "name,…"

    def __init__(self, known: Mapping[str, object]) -> None:
        self._known = list(known)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list):
            return value
        names = value.split(",")
        for name in names:
            if name not in self._known:
                self.fail(f"{name!r} is none of {', '.join(self._known)}", param, ctx)
        return [name for name in self._known if name in names]

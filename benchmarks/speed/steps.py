"""The steps that carry tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fuseline import Step

__all__ = ["Call"]


class Call(Step):
    """Calls ``function(*arguments, *results of its predecessors)``."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.function = function
        self.arguments = arguments

    def run_step(self, *results: Any) -> Any:
        return self.function(*self.arguments, *results)

"""Things that are hard to send; importable by children, which then load nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fuseline import Step


class Call(Step):
    def run_step(self, call: Callable[..., Any], argument: Any = 1) -> Any:
        return call(argument)


class Adder:
    def __init__(self, number: int) -> None:
        self.number = number

    def add(self, other: int) -> int:
        return self.number + other


class FrozenError(Exception):
    """Takes no attributes, not even a cause."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot assign to {name}")


@dataclass(frozen=True)
class FrozenDataError(Exception):
    """Does not load, because loading an exception sets its attributes; that is so without any library, too."""

    code: int


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class LockedError(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()

"""What a program tells the broker process that it starts, and where that writes what it has to say."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fuseline.broker.store.file import Durability

__all__ = ["Start", "log_of"]


class Start(msgspec.Struct):
    """What a broker process in the background is told at its start."""

    fd: int  #: the inherited end of the private link of the program that starts it
    path: str | None  #: of the store
    durability: Durability
    keep_for: float | None
    keep_runs: int | None


def log_of(path: Path) -> Path:
    """Return where the broker of a store writes what it has to say, if it is in the background."""
    return path.with_name(path.name + ".files") / "broker.log"

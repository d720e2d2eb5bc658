"""Times as people say them."""

from __future__ import annotations

import re
import time

__all__ = ["ago", "clock", "duration", "parse_age", "size"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_age(text: str) -> float:
    """Return the seconds of ``"30d"``, ``"12h"``, ``"90m"``, ``"2w"``, ``"45s"`` or ``"3600"``.

    Raises:
        ValueError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip(), re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is no span of time. Write 30d, 12h, 90m, or a number of seconds.")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def duration(seconds: float) -> str:
    """Return a span of time in its largest one or two units: ``"0.25 s"``, ``"4 min 10 s"``, ``"3 d 4 h"``."""
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, large, small in ((3600, "min", "s"), (86400, "h", "min"), (None, "d", "h")):
        if unit is None or whole < unit:
            size = {"min": 60, "h": 3600, "d": 86400}[large]
            rest = whole % size // {"s": 1, "min": 60, "h": 3600}[small]
            return f"{whole // size} {large}" + (f" {rest} {small}" if rest else "")
    raise AssertionError("unreachable")


def ago(then: float, now: float | None = None) -> str:
    """Return how long ago a moment was, in one unit.

    Args:
        then: seconds since the epoch.
        now: likewise; default is this moment.
    """
    seconds = (time.time() if now is None else now) - then
    if seconds < 1:
        return "just now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def clock(then: float, *, date: bool = True) -> str:
    """Return a moment in local time: ``"2026-03-01 12:30:05"``; without its date, to the millisecond."""
    local = time.localtime(then)
    if date:
        return time.strftime("%Y-%m-%d %H:%M:%S", local)
    return time.strftime("%H:%M:%S", local) + f".{int(then % 1 * 1000):03}"


def size(size_bytes: float) -> str:
    """Return a number of bytes as ``"512 B"``, ``"1.2 MB"``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 999.5:
            return f"{size_bytes:.0f} {unit}" if unit == "B" or size_bytes >= 99.5 else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"

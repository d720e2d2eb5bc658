"""Text of the user's, made fit for a terminal or a program."""

from __future__ import annotations

import json
import os
import reprlib
from typing import Any

from fuseline.text import printable

__all__ = ["LONG", "a", "as_json", "as_line", "beginning", "plural", "printable", "short_repr", "shorten"]

#: Characters of a ``repr`` that is for a program, or that cannot be had whole.
LONG = 10_000


def shorten(text: str, length: int) -> str:
    """Return the first line of ``text``, printable, of at most ``length`` characters."""
    first, *more = text.strip().split("\n", 1)
    first = printable(first).replace("\t", " ")
    if len(first) > length:
        return first[: max(0, length - 1)] + "…"
    return first + ("…" if more and len(first) < length else "")


def beginning(text: str, length: int, lines: int) -> str:
    """Return ``text``, or as many characters and lines of its beginning, with an ellipsis."""
    start = "\n".join(text[: length + 1].split("\n")[:lines])[:length]
    return text if start == text else start + "…"


def short_repr(value: Any, length: int = 200) -> str:
    """Return ``repr(value)`` cut to ``length`` characters; of large containers only the first items are asked."""
    shortener = reprlib.Repr()
    shortener.maxlist = shortener.maxtuple = shortener.maxdict = shortener.maxset = 20
    shortener.maxstring = shortener.maxother = shortener.maxlong = length
    try:
        text = shortener.repr(value)
    except Exception as error:  # a __repr__ of the user's
        return f"(its repr raised {type(error).__name__})"
    return shorten(text.replace("\n", " "), length)


def as_json(value: Any, *, ascii_only: bool = True) -> str:
    """Return ``value`` as JSON on one line, of the strict kind, which has no NaN.

    Args:
        ascii_only: write other characters as ``\\u00fc``, so that it stays JSON on its way through any encoding.

    Raises:
        TypeError, ValueError, RecursionError: it has no such form.
    """
    try:
        return json.dumps(value, ensure_ascii=ascii_only, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError):
        raise
    except Exception as error:  # a method of the user's
        raise TypeError(f"{type(value).__name__} has no form in JSON") from error


def as_line(value: Any, *, one_line: bool, ascii_only: bool = False) -> str:
    """Return a result as it is printed: a string as it is, other values as JSON if they can be, else their ``repr``.

    Args:
        one_line: make JSON of a string, and one line of a ``repr``, that has several.
        ascii_only: of JSON.
    """
    if isinstance(value, str) and not (one_line and len(value.splitlines()) > 1):
        return str.__str__(value)
    try:
        return as_json(value, ascii_only=ascii_only)
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        text = repr(value)
    except Exception:  # a __repr__ of the user's, or an int of more digits than Python writes
        text = short_repr(value, LONG)
    return " ".join(text.split("\n")) if one_line else text


def plural(count: int, noun: str) -> str:
    """Return ``"1 run"``, ``"2 runs"``, ``"2,000 runs"``."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def a(noun: str) -> str:
    """Return ``"a float"``, ``"an int"``."""
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def _plain(value: Any) -> Any:
    """Return what stands for ``value`` in JSON.

    Raises:
        TypeError: nothing does.
    """
    import msgspec

    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if callable(to_list := getattr(value, "tolist", None)):  # an array, or one of its numbers
        return to_list()
    plain = msgspec.to_builtins(value, builtin_types=(bytes, bytearray, memoryview))  # which would be base64
    if plain is value:
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    return plain

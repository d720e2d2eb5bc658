"""Text of the user's, made fit for a terminal."""

from __future__ import annotations

__all__ = ["printable", "tail"]


def printable(text: str) -> str:
    """Return ``text`` with escapes for what a terminal would obey instead of showing it; lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t\xa0" else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def tail(text: str, lines: int, characters: int) -> str:
    """Return the end of ``text``: so many lines, and characters, at most."""
    return "\n".join(text[-characters:].splitlines()[-lines:])

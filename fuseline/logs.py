"""Log records of children, on their way to the handlers of their program.

What a program has configured, levels and handlers of any logger, applies to what its steps log, as if they ran in the
program itself. A child is told the levels when it starts; what nobody wants to see never leaves it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, Self

import msgspec

__all__ = ["LogLevels", "Logged", "RecordSender", "hand_on", "one_line"]


class Logged(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A log record of a child."""

    fields: dict[str, Any]  #: of ``logging.LogRecord``; its message is complete, and what is not plain is its ``repr``


class LogLevels(msgspec.Struct, frozen=True):
    """What the loggers of a program let through."""

    levels: dict[str, int] = {}  #: ``{logger: level}`` of those that have one; the root has the empty name
    disabled: int = logging.NOTSET  #: as of ``logging.disable``

    @classmethod
    def current(cls) -> Self:
        """Return those of this program."""
        loggers = logging.root.manager.loggerDict.copy().items()
        levels = {name: each.level for name, each in loggers if isinstance(each, logging.Logger) and each.level}
        return cls({"": logging.root.level, **levels}, logging.root.manager.disable)

    def apply(self) -> None:
        """Make them those of this program."""
        for name, level in self.levels.items():
            logging.getLogger(name or None).setLevel(level)
        logging.disable(self.disabled)


class RecordSender(logging.Handler):
    """Sends records to the program.

    Args:
        send: takes one. It returns False if it cannot now, because it is about to send something else.
    """

    def __init__(self, send: Callable[[Logged], bool]) -> None:
        super().__init__()
        self._send = send
        self._pid = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if os.getpid() != self._pid or not self._send(_travelling(record)):
                # A fork of the child; or the handler of a signal, which must not touch a buffer that may be in use.
                os.write(2, f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)


def _travelling(record: logging.LogRecord) -> Logged:
    fields = {**vars(record), "msg": record.getMessage(), "args": None, "exc_info": None}
    if record.exc_info and not record.exc_text:
        fields["exc_text"] = logging.Formatter().formatException(record.exc_info)
    return Logged({name: _plain(value) for name, value in fields.items()})


def _plain(value: Any) -> Any:
    if value is None or type(value) in (float, bool) or (type(value) is int and abs(value) < 1 << 63):
        return value
    text = value if type(value) is str else repr(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def one_line(logged: Logged) -> str:
    """Return a record in short."""
    level, name, message = (logged.fields.get(field, "?") for field in ("levelname", "name", "msg"))
    return f"{level} {name}: {message}"


def hand_on(logged: Logged) -> None:
    """Give a record of a child to the handlers of this program that want it. Blocks as long as they do."""
    record = logging.makeLogRecord(logged.fields)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)

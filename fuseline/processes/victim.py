"""Whom the kernel ends when the machine has no memory left: a child rather than the program, its guardian or a broker.

What a child was doing is one attempt, which can be tried again; with the others ends everything that runs.
"""

from __future__ import annotations

__all__ = ["be_the_first_victim"]

_PATH = "/proc/self/oom_score_adj"
#: Half of the machine: a child goes before any program that does not use that much more than the child does.
_MORE = 500
_MOST = 1000


def be_the_first_victim(path: str = _PATH) -> None:
    """Let this process, and what it will start, end before its program does. Does nothing where there is no such way.

    A process may raise its score without any right, and not lower it again.
    """
    try:
        with open(path, "r+") as file:
            score = min(_MOST, int(file.read()) + _MORE)
            file.seek(0)
            file.write(str(score))
    except (OSError, ValueError):
        pass

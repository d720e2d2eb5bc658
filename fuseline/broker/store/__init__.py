"""The store: runs in one SQLite file, written by one process.

::

    workflows   a schema, once for each of its versions
    runs        a row for each run
    steps       a row for each step of which an attempt has ended, or that was settled; one that waits needs none
    moves       the story: a row for each move of a step, never changed; that it was handed out is only here. A move
                that follows from what is elsewhere, such as the end of a run, has none
    files       a row for each value that is in a file beside the store

Everything that a batch of events has changed goes into one transaction, and nobody is told before it is committed. What
others rely on (outcomes, dispatches, cancellations) is synced to the disk with ``durability="power"``; claims, which
mean nothing after a power cut, ride along with the next sync.

``file`` is who may open it, ``database`` the connection, ``changes`` what is to be written, ``rows`` how that looks,
``store`` all that is asked and written, ``retention`` how much of it is to stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuseline.lazy import lazy_names

if TYPE_CHECKING:
    from fuseline.broker.store.changes import Changes, Moment
    from fuseline.broker.store.file import Durability
    from fuseline.broker.store.retention import KEEP_ALL, Retention
    from fuseline.broker.store.store import Store

__all__ = ["KEEP_ALL", "Changes", "Durability", "Moment", "Retention", "Store"]

# Programs need what ``file`` knows, and none of the rest.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "KEEP_ALL": "fuseline.broker.store.retention",
        "Changes": "fuseline.broker.store.changes",
        "Durability": "fuseline.broker.store.file",
        "Moment": "fuseline.broker.store.changes",
        "Retention": "fuseline.broker.store.retention",
        "Store": "fuseline.broker.store.store",
    },
)

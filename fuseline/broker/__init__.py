"""Brokers own runs: they decide which step is ready, which is retried and when, and record outcomes.

``base`` is what every broker does; ``memory`` is one that lives in the calling process. ``local`` is a process of its
own, with all that its programs have of it:

- in the programs: ``process`` starts or finds it; ``local``, ``local_worker`` and ``local_stream`` have a link each, of
  a kind of its own
- between them: ``wire`` what is said, ``link`` the two ends, ``door`` who may come in
- in the process: ``server_main`` its start, ``server`` its loop, ``requests`` what programs ask of it, ``housing`` the
  core with a clock and a store, ``absentees`` workers that left without a word, ``inquiries`` what can be asked about
  runs, ``store`` the runs in a file
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuseline.lazy import lazy_names

if TYPE_CHECKING:
    from fuseline.broker.base import Broker, EventStream, RunEvent
    from fuseline.broker.local import LocalBroker
    from fuseline.broker.memory import MemoryBroker
    from fuseline.broker.server_main import serve
    from fuseline.broker.wire import BrokerStatus, WorkerInfo
    from fuseline.messages import ReportAnswer, ReportStatus, RunInfo, StepAssignment, StepInfo, StepReport

__all__ = [
    "Broker",
    "BrokerStatus",
    "EventStream",
    "LocalBroker",
    "MemoryBroker",
    "ReportAnswer",
    "ReportStatus",
    "RunEvent",
    "RunInfo",
    "StepAssignment",
    "StepInfo",
    "StepReport",
    "WorkerInfo",
    "serve",
]

# Imported on first use: the process of a broker needs none of what makes objects of values.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Broker": "fuseline.broker.base",
        "BrokerStatus": "fuseline.broker.wire",
        "EventStream": "fuseline.broker.base",
        "LocalBroker": "fuseline.broker.local",
        "MemoryBroker": "fuseline.broker.memory",
        "ReportAnswer": "fuseline.messages",
        "ReportStatus": "fuseline.messages",
        "RunEvent": "fuseline.broker.base",
        "RunInfo": "fuseline.messages",
        "StepAssignment": "fuseline.messages",
        "StepInfo": "fuseline.messages",
        "StepReport": "fuseline.messages",
        "WorkerInfo": "fuseline.broker.wire",
        "serve": "fuseline.broker.server_main",
    },
)

"""Brokers own runs: they decide which step is ready, which is retried and when, and record outcomes.

``base`` is what every broker does; ``memory`` is one that lives in the calling process. ``local`` is a process of its
own, with all that its programs have of it:

- in the programs: ``local``, ``local_worker`` and ``local_stream``, one for each kind of link
- between them: ``wire`` what is said, ``link`` the two ends, ``door`` who may come in
- in the process: ``server_main`` its start, ``server`` its loop, ``requests`` what programs ask of it, ``housing`` the
  core with a clock and a store, ``absentees`` workers that left without a word, ``inquiries`` what can be asked about
  runs, ``store`` the runs in a file
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
_MODULES = {
    "Broker": "broker.base",
    "BrokerStatus": "broker.wire",
    "EventStream": "broker.base",
    "LocalBroker": "broker.local",
    "MemoryBroker": "broker.memory",
    "ReportAnswer": "messages",
    "ReportStatus": "messages",
    "RunEvent": "broker.base",
    "RunInfo": "messages",
    "StepAssignment": "messages",
    "StepInfo": "messages",
    "StepReport": "messages",
    "WorkerInfo": "broker.wire",
    "serve": "broker.server_main",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fuseline.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

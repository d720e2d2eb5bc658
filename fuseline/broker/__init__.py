"""Brokers own runs: they decide which step is ready, which is retried and when, and record outcomes.

``base`` is what every broker does; ``memory`` is one that lives in the calling process.
"""

from fuseline.broker.base import Broker, EventStream, RunEvent
from fuseline.broker.memory import MemoryBroker
from fuseline.messages import ReportAnswer, ReportStatus, RunInfo, StepAssignment, StepInfo, StepReport

__all__ = [
    "Broker",
    "EventStream",
    "MemoryBroker",
    "ReportAnswer",
    "ReportStatus",
    "RunEvent",
    "RunInfo",
    "StepAssignment",
    "StepInfo",
    "StepReport",
]

"""How a run stands, as plain data: what a broker tells those who ask.

Values and exceptions in a record are the opaque bytes they travel as; whoever asks makes objects of them. Times are
seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from fuseline.states import State
from fuseline.values import ErrorInfo, Value

__all__ = ["RunRecord", "StepRecord"]


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How a step of a run stands."""

    state: State
    attempts: int = 0  #: how often it was started
    result: Value | None = None  #: if it succeeded and the result is still needed
    error: ErrorInfo | None = None  #: what the last attempt raised
    cause: str = ""  #: why it was skipped or cancelled
    started: float | None = None  #: start of the last attempt
    finished: float | None = None


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How a run stands."""

    instance_id: str
    workflow_id: str
    workflow: str  #: the workflow's name
    outputs: tuple[str, ...]  #: names of steps
    state: State
    inputs: Mapping[str, Value]
    steps: Mapping[str, StepRecord]  #: by name, in the order of the schema
    failed: tuple[str, ...] = ()  #: names of steps, in the order in which they failed
    created: float
    started: float | None = None
    finished: float | None = None

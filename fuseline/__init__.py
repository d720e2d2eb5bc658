"""fuseline runs CPU-heavy, multi-step pipelines on one machine.

Define ``Step``s, join them into a ``Workflow``, and ``run()`` it; or hand many runs to a ``Broker`` and let a
``ProcessEngine`` work on them. A map of the package, each part importing only those before it:

- ``errors`` every exception · ``states`` states and legal moves
- ``values`` how objects travel · ``messages`` what travels
- ``schema`` the DAG as data · ``binding`` where parameters get their values · ``policies`` retry, timeout, your own
- ``step``, ``workflow`` the DAG as you write it · ``attempt`` one try of one step
- ``scheduler`` the pure core · ``broker`` its housings
- ``processes`` children, pipes, guardian · ``executors`` where steps run · ``worker`` what runs in a child
- ``engines`` what ties broker and executor together · ``cli`` the command · ``testing`` for writers of backends
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuseline.broker.base import Broker
    from fuseline.broker.local import LocalBroker
    from fuseline.broker.memory import MemoryBroker
    from fuseline.context import RunContext, current_run
    from fuseline.engines import ProcessEngine
    from fuseline.errors import FuselineError, RunFailed, StepCrashed, StepTimedOut
    from fuseline.messages import RunInfo, StepAssignment, StepInfo, StepReport
    from fuseline.schema import StepSchema, WorkflowSchema
    from fuseline.states import State
    from fuseline.step import Depends, Step
    from fuseline.workflow import Workflow

__version__ = "0.1.0"

__all__ = [
    "Broker",
    "Depends",
    "FuselineError",
    "LocalBroker",
    "MemoryBroker",
    "ProcessEngine",
    "RunContext",
    "RunFailed",
    "RunInfo",
    "State",
    "Step",
    "StepAssignment",
    "StepCrashed",
    "StepInfo",
    "StepReport",
    "StepSchema",
    "StepTimedOut",
    "Workflow",
    "WorkflowSchema",
    "__version__",
    "current_run",
]

# Imported on first use: a child that needs only steps, or a program that only asks a broker, starts faster.
_MODULES = {
    "Broker": "broker.base",
    "Depends": "step",
    "FuselineError": "errors",
    "LocalBroker": "broker.local",
    "MemoryBroker": "broker.memory",
    "ProcessEngine": "engines",
    "RunContext": "context",
    "RunFailed": "errors",
    "RunInfo": "messages",
    "State": "states",
    "Step": "step",
    "StepAssignment": "messages",
    "StepCrashed": "errors",
    "StepInfo": "messages",
    "StepReport": "messages",
    "StepSchema": "schema",
    "StepTimedOut": "errors",
    "Workflow": "workflow",
    "WorkflowSchema": "schema",
    "current_run": "context",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

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

from typing import TYPE_CHECKING

from fuseline.lazy import lazy_names

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
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Broker": "fuseline.broker.base",
        "Depends": "fuseline.step",
        "FuselineError": "fuseline.errors",
        "LocalBroker": "fuseline.broker.local",
        "MemoryBroker": "fuseline.broker.memory",
        "ProcessEngine": "fuseline.engines",
        "RunContext": "fuseline.context",
        "RunFailed": "fuseline.errors",
        "RunInfo": "fuseline.messages",
        "State": "fuseline.states",
        "Step": "fuseline.step",
        "StepAssignment": "fuseline.messages",
        "StepCrashed": "fuseline.errors",
        "StepInfo": "fuseline.messages",
        "StepReport": "fuseline.messages",
        "StepSchema": "fuseline.schema",
        "StepTimedOut": "fuseline.errors",
        "Workflow": "fuseline.workflow",
        "WorkflowSchema": "fuseline.schema",
        "current_run": "fuseline.context",
    },
)

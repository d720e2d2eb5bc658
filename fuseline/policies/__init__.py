"""Policies: how steps and workflows run, beyond what their own code says.

``base`` has the two base classes with all hooks, each other module one policy. A new policy is a subclass of
``StepPolicy`` or ``WorkflowPolicy``, in this package or in a user's program.
"""

from fuseline.messages import FailureAction, FailureDecision
from fuseline.policies.base import Policy, StepPolicy, WorkflowPolicy
from fuseline.policies.memory import MemoryLimitPolicy
from fuseline.policies.retry import RetryPolicy
from fuseline.policies.timeout import StepTimeoutPolicy
from fuseline.policies.workflow_timeout import WorkflowTimeoutPolicy

__all__ = [
    "FailureAction",
    "FailureDecision",
    "MemoryLimitPolicy",
    "Policy",
    "RetryPolicy",
    "StepPolicy",
    "StepTimeoutPolicy",
    "WorkflowPolicy",
    "WorkflowTimeoutPolicy",
]

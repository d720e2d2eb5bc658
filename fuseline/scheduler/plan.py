"""A schema compiled for the core: names become numbers, and each question it asks per step becomes a look-up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import msgspec

from fuseline.binding import bind_step, check_inputs
from fuseline.errors import CycleError, DuplicateStepError, WorkflowError
from fuseline.graph import order_before
from fuseline.policies import MemoryLimitPolicy, RetryPolicy, StepTimeoutPolicy, WorkflowTimeoutPolicy
from fuseline.policies.base import built_in_policy
from fuseline.schema import ON_FAILURE, PolicyConfig, WorkflowSchema

__all__ = ["NO_ARGUMENTS", "Arguments", "BoundPlan", "Plan", "timeout_cause", "workflow_timeout"]


class Arguments(msgspec.Struct, frozen=True, gc=False):
    """Where the arguments of a step come from; steps as numbers."""

    from_inputs: tuple[tuple[str, str], ...]  #: (parameter, input)
    from_steps: tuple[tuple[str, int], ...]  #: (parameter, step)
    variadic: tuple[str, tuple[int, ...]] | None  #: (the ``*parameter``, steps)


#: Those of a step that takes nothing.
NO_ARGUMENTS = Arguments((), (), None)


@dataclass(frozen=True, slots=True)
class BoundPlan:
    """What a plan says once the names of the inputs are known."""

    arguments: tuple[Arguments, ...]  #: by step
    #: by step: the steps whose results it uses, each once
    sources: tuple[tuple[int, ...], ...]
    #: by step: by how many steps, and as an output, its result is used
    uses: tuple[int, ...]


class Plan:
    """A workflow as the core sees it. Steps are numbered in the order of the schema.

    Raises:
        WorkflowError: the schema is not one of a DAG. Schemas may come from anywhere, so it is checked again.
    """

    def __init__(self, schema: WorkflowSchema) -> None:
        self.schema = schema
        self.workflow_id = schema.workflow_id
        self.fingerprint = schema.fingerprint
        self.names = tuple(step.name for step in schema.steps)
        self.index = {name: i for i, name in enumerate(self.names)}
        self.stops_on_failure = schema.on_failure == "stop"
        self._check_names()
        index, steps = self.index, schema.steps
        self.predecessors = tuple(
            [
                tuple([index[name] for name in dict.fromkeys(each.predecessors)]) if each.predecessors else ()
                for each in steps
            ]
        )
        self._check_order()
        successors: list[list[int]] = [[] for _ in self.names]
        for i, before in enumerate(self.predecessors):
            for j in before:
                successors[j].append(i)
        #: The last one first, so that steps which become ready together are taken in the order of their edges.
        self.successors = tuple(tuple(reversed(after)) for after in successors)
        self.missing = tuple(map(len, self.predecessors))
        self.roots = tuple(i for i in reversed(range(len(self.names))) if not self.missing[i])
        self.outputs = tuple(self.index[name] for name in schema.outputs)
        self.timeouts = tuple([_timeout(step.policies) if step.policies else None for step in steps])
        self.memory_limits = tuple([_memory_limit(step.policies) if step.policies else None for step in steps])
        self.timeout = workflow_timeout(schema)  #: of a run, in seconds; None for no limit
        self.timeout_cause = timeout_cause(self.timeout)
        #: By step: its retry policies, each with its place among all policies of the step.
        self.retries = tuple([_retries(step.policies) if step.policies else () for step in steps])
        self._bound: dict[frozenset[str], BoundPlan] = {}

    def _check_names(self) -> None:
        schema = self.schema
        if not self.names:
            raise WorkflowError(f"workflow {schema.name!r} has no steps.")
        if len(self.index) < len(self.names):
            twice = next(name for i, name in enumerate(self.names) if self.index[name] != i)
            raise DuplicateStepError(schema.name, twice)
        unknown = {
            *schema.outputs,
            *chain.from_iterable(step.predecessors for step in schema.steps),
        } - self.index.keys()
        if unknown or not schema.outputs:
            what = f"step {min(unknown)!r}, which it does not have" if unknown else "no outputs"
            raise WorkflowError(f"the schema of workflow {schema.name!r} names {what}.")
        for step in schema.steps:
            for parameter in step.parameters:
                if parameter.depends_on is not None and parameter.depends_on not in step.predecessors:
                    raise WorkflowError(
                        f"the schema of workflow {schema.name!r} lets parameter {parameter.name!r} of step "
                        f"{step.name!r} depend on {parameter.depends_on!r}, which is no predecessor of it."
                    )
        if schema.on_failure not in ON_FAILURE:
            raise WorkflowError(f"the schema of workflow {schema.name!r} has on_failure={schema.on_failure!r}.")

    def _check_order(self) -> None:
        if all(not before or max(before) < i for i, before in enumerate(self.predecessors)):
            return  # each step comes after those that it needs, as in every schema that a workflow has made
        schema = self.schema
        before = {step.name: step.predecessors for step in schema.steps}
        _, cycle = order_before(self.names, before.__getitem__)
        if cycle is not None:
            raise CycleError(schema.name, cycle)

    def bind(self, input_names: Iterable[str]) -> BoundPlan:
        """Return where arguments come from in a run with these inputs. O(1) for a set of names seen before.

        Raises:
            UnboundParameterError: a required parameter has no source.
            UnknownInputError: no step takes one of the inputs.
        """
        names = frozenset(input_names)
        bound = self._bound.get(names)
        if bound is None:
            bound = self._bound[names] = self._bind(names)
        return bound

    def _bind(self, names: frozenset[str]) -> BoundPlan:
        check_inputs(self.schema, names)
        arguments: list[Arguments] = []
        sources: list[tuple[int, ...]] = []
        uses = [0] * len(self.names)
        for i, step in enumerate(self.schema.steps):
            if len(step.parameters) == 1 and step.parameters[0].variadic:
                # Most large workflows are of such steps: what takes all takes them as they are.
                before = self.predecessors[i]
                arguments.append(Arguments((), (), (step.parameters[0].name, before)))
                sources.append(before)
                for j in before:
                    uses[j] += 1
                continue
            bindings = bind_step(step, names)
            if not bindings:
                arguments.append(NO_ARGUMENTS)
                sources.append(())
                continue
            from_inputs = tuple((b.parameter, b.from_input) for b in bindings if b.from_input is not None)
            from_steps = tuple((b.parameter, self.index[b.from_step]) for b in bindings if b.from_step is not None)
            variadic = None
            for b in bindings:
                if b.from_steps is not None:
                    variadic = (b.parameter, tuple(self.index[name] for name in b.from_steps))
            arguments.append(Arguments(from_inputs, from_steps, variadic))
            used = dict.fromkeys([i for _, i in from_steps] + list(variadic[1] if variadic else ()))
            sources.append(tuple(used))
            for j in used:
                uses[j] += 1
        for i in self.outputs:
            uses[i] += 1
        return BoundPlan(tuple(arguments), tuple(sources), tuple(uses))


def _timeout(policies: tuple[PolicyConfig, ...]) -> float | None:
    limits = (built_in_policy(policy, StepTimeoutPolicy) for policy in policies)
    return min((limit.seconds for limit in limits if limit is not None), default=None)


def _memory_limit(policies: tuple[PolicyConfig, ...]) -> int | None:
    limits = (built_in_policy(policy, MemoryLimitPolicy) for policy in policies)
    return min((limit.bytes for limit in limits if limit is not None), default=None)


def workflow_timeout(schema: WorkflowSchema) -> float | None:
    """Return the seconds that a run may take, from the start of its first step; None if there is no limit."""
    limits = (built_in_policy(policy, WorkflowTimeoutPolicy) for policy in schema.policies)
    return min((limit.seconds for limit in limits if limit is not None), default=None)


def timeout_cause(timeout: float | None) -> str:
    """Return why a run that has had its time was ended; empty without a limit."""
    return "" if timeout is None else f"the run took longer than its WorkflowTimeoutPolicy({timeout:g}) allows"


def _retries(policies: tuple[PolicyConfig, ...]) -> tuple[tuple[int, RetryPolicy], ...]:
    # A subclass is somebody's own code, and not to be imported here: the core goes by what it is a kind of.
    found = []
    for place, config in enumerate(policies):
        policy = built_in_policy(config, RetryPolicy)
        if policy is not None:
            found.append((place, policy))
    return tuple(found)

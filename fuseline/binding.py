"""Where each parameter of ``run_step`` gets its value from: a function of the schema and the names of the inputs.

In this order: a ``Depends(step)`` default; the workflow input of the parameter's name; the result of the predecessor of
that name; the results of the remaining predecessors, in the order in which their edges were drawn, to the remaining
required parameters, and what is left of them to a ``*parameter``; the parameter's own default.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fuseline.errors import UnboundParameterError, UnknownInputError
from fuseline.schema import StepSchema, WorkflowSchema

__all__ = ["Binding", "bind_step", "bind_workflow", "check_inputs"]


@dataclass(frozen=True, slots=True)
class Binding:
    """Where one parameter of a step gets its value from; exactly one of the three sources is given."""

    parameter: str
    from_input: str | None = None  #: a workflow input
    from_step: str | None = None  #: the result of a step
    from_steps: tuple[str, ...] | None = None  #: the results of several, for a ``*parameter``


def bind_workflow(schema: WorkflowSchema, input_names: Iterable[str]) -> tuple[tuple[Binding, ...], ...]:
    """Return the bindings of every step, in the order of ``schema.steps``, for a run with these inputs.

    Raises:
        UnknownInputError: no step takes one of the inputs.
        UnboundParameterError: a required parameter has no source.
    """
    names = frozenset(input_names)
    check_inputs(schema, names)
    return tuple(bind_step(step, names) for step in schema.steps)


def check_inputs(schema: WorkflowSchema, names: frozenset[str]) -> None:
    """Make sure that each of these inputs is taken by a step.

    Raises:
        UnknownInputError: one is not.
    """
    if not names:
        return
    takes = {p.name for step in schema.steps for p in step.parameters if p.depends_on is None and not p.variadic}
    unknown = names - takes
    if unknown:
        raise UnknownInputError(schema.name, unknown, takes)


def bind_step(step: StepSchema, input_names: frozenset[str]) -> tuple[Binding, ...]:
    """Return the bindings of one step; parameters that keep their own default are left out.

    Raises:
        UnboundParameterError: a required parameter has no source.
    """
    bound: dict[str, Binding] = {}
    taken: set[str] = set()
    for parameter in step.parameters:
        name = parameter.name
        if parameter.depends_on is not None:
            bound[name] = Binding(name, from_step=parameter.depends_on)
            taken.add(parameter.depends_on)
        elif name in input_names and not parameter.variadic:
            bound[name] = Binding(name, from_input=name)
        elif name in step.predecessors and not parameter.variadic:
            bound[name] = Binding(name, from_step=name)
            taken.add(name)
    remaining = iter([name for name in step.predecessors if name not in taken])
    for parameter in step.parameters:
        if parameter.name in bound or not parameter.required:
            continue
        source = next(remaining, None)
        if source is None:
            raise UnboundParameterError(
                step.name,
                parameter.name,
                f"Dispatch the run with the input {parameter.name!r}, draw an edge from the step that makes it, "
                "or give it a default.",
            )
        bound[parameter.name] = Binding(parameter.name, from_step=source)
    for parameter in step.parameters:
        if parameter.variadic:
            bound[parameter.name] = Binding(parameter.name, from_steps=tuple(remaining))
    return tuple(bound[parameter.name] for parameter in step.parameters if parameter.name in bound)

"""Step: a piece of work as the user writes it, and the edges between steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Self

from fuseline.errors import CycleError, PolicyError, UnboundParameterError, WorkflowError
from fuseline.policies.base import StepPolicy, check_hooks
from fuseline.schema import ParameterSchema
from fuseline.states import State

__all__ = ["LEFT_BEHIND", "Depends", "Signature", "Step", "check_name", "signature_of"]

#: Longest name of a step or workflow, in characters: fits a line of a terminal and a file name.
MAX_NAME = 200
#: Fields of a step that stay in the program: a child runs one step at a time and knows nothing of edges.
LEFT_BEHIND = frozenset({"state", "error", "_policies", "_predecessors"})


class Step:
    """A piece of work: a subclass with a ``run_step`` method, ``def`` or ``async def``.

    The parameters of ``run_step`` are filled, in this order, from: a ``Depends(step)`` default; the workflow input of
    that name; the result of the predecessor of that name; the results of the remaining predecessors, in the order in
    which their edges were drawn, to the remaining required parameters (and what is left of them to a ``*parameter``);
    the parameter's own default. ``None`` is a value like any other. Where no parameter is left for
    a result, its edge only says what comes first.

    Attributes that ``__init__`` or ``setup`` put on the instance are there in ``run_step``. On an executor with child
    processes each child has a copy of its own, so what ``run_step`` changes there is not seen elsewhere: return it.

    Args:
        name: unique in its workflow; default is the name of the class, then ``Name-2``, ``Name-3`` ….
        policies: step policies, as by ``add_policy``.

    Attributes:
        writable_arguments: whether ``run_step`` may change arrays that it is given (and other memory that pickles apart
            from its object) if they are large. If not, which is the default, they are read-only, because one piece of
            memory is shared by all who read it. If so, it has a copy of its own of each page that it changes.
        name: see above; a default name is settled when the step becomes part of a workflow.
        state: of its last attempt, in the program that works on it; PENDING before.
        error: what its last attempt raised there, or None.
    """

    writable_arguments: bool = False

    name: str
    state: State
    error: BaseException | None
    # Not made for each step: large workflows have many, and each child has all of them.
    _name_given: bool = False
    _policies: tuple[StepPolicy, ...] = ()
    _predecessors: Mapping[Step, None] = MappingProxyType({})

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Here and not in __init__, so that a subclass whose __init__ does not call this one's is a whole step too.
        if cls.__eq__ is not object.__eq__ or cls.__hash__ is not object.__hash__:
            # A step is itself: two of the same @dataclass with equal fields are two steps.
            cls.__eq__, cls.__hash__ = object.__eq__, object.__hash__  # type: ignore[method-assign]
        step = super().__new__(cls)
        step.name = cls.__name__
        step.state = State.PENDING
        step.error = None
        return step

    def __init__(self, *, name: str | None = None, policies: Iterable[StepPolicy] = ()) -> None:
        if name is not None:
            self.name = check_name("step", name)
            self._name_given = True
        for policy in policies:
            self.add_policy(policy)

    # -- to be overridden ---------------------------------------------------------------------------------------------

    run_step: Callable[..., Any]
    """Do the work and return its result, which the steps after it receive. Every subclass defines it."""

    def setup(self) -> None:
        """Get ready: load a model, open a file. Runs once per child before the first ``run_step`` of this step there,
        and once per engine where there are no children. If it raises, the attempt has failed and the next one calls it
        again."""

    def teardown(self) -> None:
        """Undo ``setup``, at a clean end of the child or engine; not after a kill or crash."""

    # -- edges and policies -------------------------------------------------------------------------------------------

    def next(self, successor: Step) -> Step:
        """Draw an edge: ``successor`` starts after this step has succeeded, and may use its result.

        Returns:
            ``successor``, so that calls chain.

        Raises:
            CycleError: ``successor`` is this step. Longer cycles are found when a workflow is made.
        """
        if not isinstance(successor, Step):
            raise self._no_step(successor)
        if successor is self:
            raise CycleError(None, [self.name, self.name])
        vars(successor).setdefault("_predecessors", {})[self] = None
        return successor

    def __rshift__(self, successor: Any) -> Any:
        """``a >> b`` draws an edge and gives ``b``; ``a >> [b, c]`` draws several and gives the list."""
        if isinstance(successor, Step):
            return self.next(successor)
        if isinstance(successor, list | tuple):
            for step in successor:
                self.next(step)
            return successor
        if isinstance(successor, type) and issubclass(successor, Step):
            raise self._no_step(successor)  # a slip of everybody
        return NotImplemented

    def _no_step(self, other: object) -> WorkflowError:
        hint = "Pass an instance of a Step subclass."
        if isinstance(other, type) and issubclass(other, Step):
            hint = f"Make an instance of it: {other.__name__}()."
        return WorkflowError(f"step {self.name!r}: an edge leads to a step, not to {other!r}. {hint}")

    def __rrshift__(self, predecessors: Any) -> Any:
        """``[a, b] >> c`` draws an edge from each of the list and gives ``c``."""
        if not isinstance(predecessors, list | tuple) or not all(isinstance(step, Step) for step in predecessors):
            return NotImplemented
        for step in predecessors:
            step.next(self)
        return self

    @property
    def policies(self) -> tuple[StepPolicy, ...]:
        """The step's own policies, in the order they were added."""
        return self._policies

    def add_policy(self, policy: StepPolicy) -> None:
        """Add a policy and let it attach itself.

        Raises:
            PolicyError: it is not a ``StepPolicy``, or a hook of it has other parameters than it will be called with.
        """
        if not isinstance(policy, StepPolicy):
            raise PolicyError(
                f"step {self.name!r} takes instances of StepPolicy, not {policy!r}. "
                "Observers (WorkflowPolicy) belong on the workflow."
            )
        check_hooks(policy)
        self._policies += (policy,)
        policy.attach_to_step(self)

    def __getstate__(self) -> Any:
        # Without edges, a long chain pickles flat.
        fields = {name: value for name, value in self.__dict__.items() if name not in LEFT_BEHIND}
        everything: Any = super().__getstate__()
        return (fields, everything[1]) if isinstance(everything, tuple) else fields  # with __slots__, or without

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def __str__(self) -> str:
        return self.name


class Depends:
    """As the default of a parameter of ``run_step``: fill it with the result of that step, and draw the edge.

    ::

        class Report(Step):
            def run_step(self, totals=Depends(sum_up), title="Report"): ...
    """

    __slots__ = ("step",)

    def __init__(self, step: Step) -> None:
        if not isinstance(step, Step):
            raise WorkflowError(f"Depends() takes a step, not {step!r}. Pass an instance of a Step subclass.")
        self.step = step

    def __repr__(self) -> str:
        return f"Depends({self.step!r})"


def check_name(what: str, name: str) -> str:
    """Return ``name`` if it can name a step or workflow.

    Raises:
        WorkflowError: it is no string, empty, too long, or has control characters.
    """
    if not isinstance(name, str) or not name or len(name) > MAX_NAME or not name.isprintable():
        shown = repr(name) if len(repr(name)) < 100 else repr(name)[:100] + "…"
        raise WorkflowError(
            f"{shown} cannot name a {what}. Use a string of 1 to {MAX_NAME} characters without control characters."
        )
    return str.__str__(name)  # a subclass, NumPy's say, does not travel


class Signature:
    """The parameters of a ``run_step``, without ``self``.

    Attributes:
        parameters: all of them.
        depends: the steps of its ``Depends(...)`` defaults.
    """

    __slots__ = ("_schemas", "depends", "parameters")

    def __init__(self, parameters: Iterable[inspect.Parameter]) -> None:
        self.parameters = tuple(parameters)
        self.depends = tuple(p.default.step for p in self.parameters if isinstance(p.default, Depends))
        self._schemas = self._describe({}) if not self.depends else ()

    def schemas(self, names: Mapping[Step, str]) -> tuple[ParameterSchema, ...]:
        """Return the parameters as a schema has them: the same object each time, unless it depends on steps.

        Args:
            names: in the workflow at hand, of the steps in ``depends``.
        """
        return self._describe(names) if self.depends else self._schemas

    def _describe(self, names: Mapping[Step, str]) -> tuple[ParameterSchema, ...]:
        return tuple(
            ParameterSchema(
                name=parameter.name,
                required=parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL,
                depends_on=names[parameter.default.step] if isinstance(parameter.default, Depends) else None,
                variadic=parameter.kind is parameter.VAR_POSITIONAL,
            )
            for parameter in self.parameters
        )


def signature_of(step: Step) -> Signature:
    """Return what ``run_step`` of a step takes: as a rule the same object for all steps that have the same function.

    Raises:
        WorkflowError: the step has no ``run_step``.
        UnboundParameterError: it has a ``**parameter``, which nothing could fill.
    """
    run_step = getattr(step, "run_step", None)
    if not callable(run_step):
        raise WorkflowError(
            f"step {step.name!r} has no run_step. Define it in class {type(step).__name__}, with def or async def."
        )
    function = getattr(run_step, "__func__", run_step)
    known = _signatures.get(function)
    if known is None:
        known = Signature(inspect.signature(run_step).parameters.values())
        for parameter in known.parameters:
            if parameter.kind is parameter.VAR_KEYWORD:
                raise UnboundParameterError(
                    step.name, f"**{parameter.name}", "Name each parameter that it needs, or take *parameters."
                )
        if len(_signatures) > 10_000:  # functions that come and go by the thousand must not be kept for ever
            _signatures.clear()
        _signatures[function] = known
    return known


_signatures: dict[Any, Signature] = {}

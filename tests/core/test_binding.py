"""Where the parameters of ``run_step`` get their values from."""

from __future__ import annotations

import pytest

from fuseline import Depends, Step, Workflow
from fuseline.binding import Binding, bind_step, bind_workflow
from fuseline.broker import MemoryBroker
from fuseline.errors import UnboundParameterError, UnknownInputError, WorkflowError
from fuseline.schema import ParameterSchema, StepSchema, WorkflowSchema


def parameter(text: str) -> ParameterSchema:
    """``x`` is required, ``x=`` has a default, ``*x`` is variadic, ``x@s`` depends on step s."""
    name, _, step = text.partition("@")
    return ParameterSchema(
        name=name.strip("*="),
        required=name.isidentifier() and not step,
        depends_on=step or None,
        variadic=name.startswith("*"),
    )


def bind(parameters: str, predecessors: str = "", inputs: str = "") -> dict[str, str | tuple[str, ...]]:
    """Return where each parameter comes from, as ``{"x": "input x"}`` or ``{"x": "step a"}``."""
    step = StepSchema(
        name="fit",
        kind="Fit",
        predecessors=tuple(predecessors.split()),
        parameters=tuple(map(parameter, parameters.split())),
    )
    return {b.parameter: describe(b) for b in bind_step(step, frozenset(inputs.split()))}


def describe(binding: Binding) -> str | tuple[str, ...]:
    if binding.from_steps is not None:
        return binding.from_steps
    return f"input {binding.from_input}" if binding.from_input is not None else f"step {binding.from_step}"


# -- each rule --------------------------------------------------------------------------------------------------------


def test_a_step_without_parameters_binds_nothing():
    assert bind("", predecessors="a b", inputs="") == {}


def test_depends_comes_first():
    assert bind("x@other", predecessors="x other", inputs="") == {"x": "step other"}


def test_depends_is_not_replaced_by_an_input_of_that_name():
    assert bind("x@other", predecessors="other", inputs="x") == {"x": "step other"}


def test_an_input_of_the_name_comes_before_a_predecessor_of_the_name():
    assert bind("x", predecessors="x", inputs="x") == {"x": "input x"}


def test_an_input_fills_a_parameter_with_a_default_too():
    assert bind("x=", inputs="x") == {"x": "input x"}


def test_a_predecessor_fills_the_parameter_of_its_name():
    assert bind("docs query", predecessors="query docs") == {"docs": "step docs", "query": "step query"}


def test_a_predecessor_fills_a_parameter_of_its_name_with_a_default():
    assert bind("docs=", predecessors="docs") == {"docs": "step docs"}


def test_remaining_predecessors_fill_remaining_parameters_in_the_order_of_their_edges():
    assert bind("x y z", predecessors="c a b") == {"x": "step c", "y": "step a", "z": "step b"}


def test_predecessors_taken_by_name_or_depends_are_not_given_out_again():
    assert bind("x b y z@d", predecessors="a b c d") == {"x": "step a", "b": "step b", "y": "step c", "z": "step d"}


def test_a_predecessor_taken_by_a_later_parameter_of_its_name_does_not_fill_an_earlier_one():
    assert bind("x a", predecessors="a b") == {"x": "step b", "a": "step a"}


def test_a_predecessor_whose_name_is_an_input_is_still_there_for_another_parameter():
    assert bind("x y", predecessors="x", inputs="x") == {"x": "input x", "y": "step x"}


def test_the_example_of_an_input_and_one_predecessor_binds_as_expected():
    assert bind("docs query", predecessors="RetrieveDocs", inputs="query") == {
        "docs": "step RetrieveDocs",
        "query": "input query",
    }


def test_a_remaining_predecessor_does_not_replace_a_default():
    assert bind("x=", predecessors="a") == {}


def test_a_default_between_required_parameters_is_passed_over():
    assert bind("x y= z", predecessors="a b") == {"x": "step a", "z": "step b"}


def test_a_variadic_parameter_takes_what_is_left_in_the_order_of_the_edges():
    assert bind("x *rest", predecessors="c a b") == {"x": "step c", "rest": ("a", "b")}


def test_a_variadic_parameter_takes_all_if_nothing_else_does():
    assert bind("*parts", predecessors="c a b") == {"parts": ("c", "a", "b")}


def test_a_variadic_parameter_is_empty_if_nothing_is_left():
    assert bind("x *rest", predecessors="a") == {"x": "step a", "rest": ()}


def test_a_variadic_parameter_leaves_out_what_named_parameters_take():
    assert bind("*rest b= z@c", predecessors="a b c d") == {"rest": ("a", "d"), "b": "step b", "z": "step c"}


def test_a_variadic_parameter_does_not_take_the_input_or_the_predecessor_of_its_name():
    assert bind("*parts", predecessors="parts a", inputs="parts") == {"parts": ("parts", "a")}


def test_a_required_parameter_after_a_variadic_one_is_filled_first():
    assert bind("*parts base", predecessors="a b c") == {"parts": ("b", "c"), "base": "step a"}


def test_a_predecessor_that_nothing_takes_is_no_error():
    assert bind("x", predecessors="a b", inputs="x") == {"x": "input x"}


def test_two_parameters_may_depend_on_one_step():
    assert bind("x@a y@a z", predecessors="a b") == {"x": "step a", "y": "step a", "z": "step b"}


# -- what cannot be bound ---------------------------------------------------------------------------------------------


def test_an_unbound_parameter_names_step_and_parameter_and_says_what_to_do():
    with pytest.raises(UnboundParameterError, match="step 'fit' cannot fill the parameter 'y'") as caught:
        bind("x y", predecessors="a")
    assert (caught.value.step_name, caught.value.parameter) == ("fit", "y")
    assert "input 'y'" in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


def schema_of(*steps: Step) -> WorkflowSchema:
    return Workflow(steps, name="etl").to_schema()


class Load(Step):
    def run_step(self, path, limit=10): ...


class Merge(Step):
    def run_step(self, *tables, how="inner"): ...


def test_an_unknown_input_names_itself_and_the_known_ones():
    with pytest.raises(UnknownInputError, match=r"'etl' takes the input 'pth'.*'how', 'limit', 'path'") as caught:
        bind_workflow(schema_of(Load(), Merge()), ["path", "pth"])
    assert caught.value.names == ("pth",)
    assert caught.value.known == ("how", "limit", "path")
    assert isinstance(caught.value, WorkflowError)


def test_a_workflow_without_parameters_takes_no_inputs():
    class Tick(Step):
        def run_step(self): ...

    with pytest.raises(UnknownInputError, match="can take no inputs"):
        bind_workflow(schema_of(Tick()), ["x"])


def test_the_name_of_a_variadic_parameter_is_no_input():
    with pytest.raises(UnknownInputError):
        bind_workflow(schema_of(Merge()), ["tables"])


def test_the_name_of_a_parameter_that_depends_on_a_step_is_no_input():
    load = Load()

    class Report(Step):
        def run_step(self, table=Depends(load)): ...

    with pytest.raises(UnknownInputError) as caught:
        bind_workflow(schema_of(Report()), ["path", "table"])
    assert caught.value.names == ("table",)


def test_one_input_goes_to_every_step_that_takes_it():
    first, second = bind_workflow(schema_of(Load(name="one"), Load(name="two")), ["path"])
    assert first == second == (Binding("path", from_input="path"),)


def test_a_run_that_cannot_be_bound_is_refused_when_it_is_dispatched_and_leaves_nothing():
    broker = MemoryBroker()
    schema = schema_of(Load())
    for inputs in ({}, {"path": "x", "pth": "y"}):
        with pytest.raises(WorkflowError):
            broker.dispatch_workflow(schema, inputs)
    assert broker.list_runs() == []


# -- with values ------------------------------------------------------------------------------------------------------


class Give(Step):
    def __init__(self, value, **options):
        super().__init__(**options)
        self.value = value

    def run_step(self):
        return self.value


class Take(Step):
    def run_step(self, first, second="default", *rest):
        return (first, second, rest)


def run_inline(*outputs: Step, **inputs: object) -> object:
    return Workflow(outputs).run(inputs, executor="inline")


def test_none_is_a_value_like_any_other_and_reaches_the_next_step():
    take = Take()
    Give(None) >> take
    assert run_inline(take) == (None, "default", ())


def test_none_given_as_an_input_replaces_the_default():
    take = Take()
    Give(1) >> take
    assert run_inline(take, second=None) == (1, None, ())


def test_values_arrive_where_the_rules_say():
    take = Take()
    give = [Give(value) for value in "abc"]
    give >> take
    assert run_inline(take, second="given") == ("a", "given", ("b", "c"))


def test_positional_only_and_keyword_only_parameters_are_filled_too():
    class Mixed(Step):
        def run_step(self, a, /, b, *rest, key, other="other"):
            return (a, b, rest, key, other)

    mixed = Mixed()
    [Give(value, name=value) for value in ("x", "y", "key", "z")] >> mixed
    assert run_inline(mixed) == ("x", "y", ("z",), "key", "other")


def test_a_positional_only_default_before_variadic_values_is_kept():
    class Spread(Step):
        def run_step(self, a=1, /, *rest):
            return (a, rest)

    spread = Spread()
    [Give("x"), Give("y")] >> spread
    assert run_inline(spread) == (1, ("x", "y"))


def test_depends_draws_the_edge_and_fills_the_parameter():
    source = Give("from depends")

    class Report(Step):
        def run_step(self, title, totals=Depends(source)):
            return (title, totals)

    report = Report()
    Give("from edge") >> report
    assert run_inline(report) == ("from edge", "from depends")

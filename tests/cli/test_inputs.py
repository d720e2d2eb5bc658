"""Inputs of runs, from the command line and from files."""

from __future__ import annotations

import datetime
import enum
import io
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import msgspec
import pytest

from fuseline import Depends, Step, Workflow
from fuseline.cli.app import Nonsense
from fuseline.cli.inputs import read_inputs


@dataclass
class Point:
    x: int
    y: float = 0.0


@dataclass
class Line:
    start: Point
    more: list[Point]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Unheard:
    pass


Positive = Annotated[int, msgspec.Meta(gt=0)]


def read(annotation: Any, *pairs: str, lines_from: str | None = None) -> list[dict[str, Any]]:
    class Take(Step):
        def run_step(self, x: Any) -> Any:
            return x

    Take.run_step.__annotations__["x"] = annotation
    workflow = Workflow(outputs=[Take()], name="taking")
    return read_inputs(workflow, workflow.to_schema(), pairs, lines_from).runs


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (str, "5", "5"),
        (str, '"quoted"', '"quoted"'),
        (str, "a=b", "a=b"),
        (int, "5", 5),
        (int, '"5"', 5),
        (float, "5", 5.0),
        (float, "1e-3", 0.001),
        (bool, "true", True),
        (bool, "False", False),
        (Optional[str], "5", "5"),  # noqa: UP045 - the old spelling is what is tested
        (str | None, "null", None),
        (str | None, "text", "text"),
        (int | None, "null", None),
        (list[int], "[1, 2]", [1, 2]),
        (tuple[int, float], "[1, 2]", (1, 2.0)),
        (dict[str, Path], '{"a": "b"}', {"a": Path("b")}),
        (Path, "/tmp/x", Path("/tmp/x")),
        (Path, "3", Path("3")),
        (datetime.date, "2026-03-01", datetime.date(2026, 3, 1)),
        (datetime.datetime, "2026-03-01 12:30", datetime.datetime(2026, 3, 1, 12, 30)),
        (datetime.datetime, "2026-03-01", datetime.datetime(2026, 3, 1)),
        (datetime.datetime | None, "2026-03-01T12", datetime.datetime(2026, 3, 1, 12)),
        (datetime.date, "2026-W09-7", datetime.date(2026, 3, 1)),
        (Color, "red", Color.RED),
        (Literal["a", "b"], "a", "a"),
        (Point, '{"x": 1}', Point(1)),
        (Positive, "3", 3),
        (Any, "5", 5),
        (Any, "five", "five"),
        (Unheard, "[5]", [5]),
        (list[Unheard], "[5]", [5]),
        (typing.Callable, "print", "print"),
        ("Nowhere", "5", 5),
        ("list[int]", "[5]", [5]),
    ],
)
def test_a_text_becomes_what_the_annotation_says(annotation: Any, text: str, value: Any) -> None:
    [inputs] = read(annotation, f"x={text}")
    assert inputs == {"x": value}
    assert type(inputs["x"]) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text", "kind"),
    [
        (int, "five", "int"),
        (int, "1.5", "int"),
        (float, "", "float"),
        (list[int], "[1, true]", "list[int]"),
        (Point, '{"y": 1}', "Point"),
        (Literal["a", "b"], "c", "Literal['a', 'b']"),
        (bool, "perhaps", "bool"),
        (Color, "green", "Color (one of 'red', 'blue')"),
        (Color | None, "green", "(one of 'red', 'blue')"),
        (datetime.datetime, "noon", "datetime (such as 2026-03-01T12:30:00)"),
        (datetime.date, "noon", "date (such as 2026-03-01)"),
        (Point, '{"y": 1}', "missing required field `x`"),
        (Point, '{"x": 1, "z": 1}', "it has no field 'z'; its fields are x, y"),
        (Point | None, '{"x": 1, "z": 1}', "it has no field 'z'; its fields are x, y"),
        (list[Point], '[{"x": 1, "z": 1}]', "it has no field 'z'; its fields are x, y"),
        (dict[str, Point], '{"a": {"x": 1, "z": 1}}', "it has no field 'z'; its fields are x, y"),
        (Line, '{"start": {"x": 1}, "more": [{"z": 1}]}', "it has no field 'z'; its fields are x, y"),
        (Positive, "-1", "int"),
    ],
)
def test_what_does_not_fit_is_named_with_input_value_and_type(annotation: Any, text: str, kind: str) -> None:
    with pytest.raises(Nonsense) as caught:
        read(annotation, f"x={text}")
    message = str(caught.value)
    assert message.startswith(f"-i x={text}: the input 'x' takes ")
    assert kind in message
    assert "nothing was run" in message


def test_a_parameter_without_annotation_takes_json_or_text() -> None:
    class Take(Step):
        def run_step(self, x, y=1): ...  # type: ignore[no-untyped-def]

    workflow = Workflow(outputs=[Take()])
    schema = workflow.to_schema()
    assert read_inputs(workflow, schema, ["x={}", "y=a b"], None).runs == [{"x": {}, "y": "a b"}]


def test_the_first_annotated_step_that_takes_an_input_decides() -> None:
    class First(Step):
        def run_step(self, x):  # type: ignore[no-untyped-def]
            return x

    first = First()

    class Second(Step):
        def run_step(self, before: Any = Depends(first), *, x: str, rest: int = 0) -> str:
            return x

    workflow = Workflow(outputs=[Second()])
    assert read_inputs(workflow, workflow.to_schema(), ["x=5"], None).runs == [{"x": "5"}]


@pytest.mark.parametrize(
    ("pairs", "complaint"),
    [
        ([], "step 'Take' needs the input 'x'. Give it with -i x=VALUE."),
        (["x=1", "z=1"], "workflow 'taking' has no input 'z'. It can take: x."),
        (["x"], "-i 'x' is no input. Write -i NAME=VALUE."),
        (["=1"], "-i '=1' is no input"),
        (["x=1", "x=2"], "-i x is given twice"),
    ],
)
def test_missing_and_unknown_inputs_are_named(pairs: list[str], complaint: str) -> None:
    with pytest.raises(Nonsense) as caught:
        read(Any, *pairs)
    assert complaint in str(caught.value)


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_has_the_inputs_of_one_run_on_each_line(tmp_path: Path) -> None:
    file = tmp_path / "inputs.jsonl"
    file.write_text('{"x": 1}\n\n{"x": "2"}\r\n   \n{}')
    assert read(int, "x=7", lines_from=str(file)) == [{"x": 1}, {"x": 2}, {"x": 7}]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "inputs.jsonl"
    file.write_text('{"x": 1}\n', "utf-8-sig")
    assert read(int, lines_from=str(file)) == [{"x": 1}]
    monkeypatch.setattr(sys, "stdin", io.StringIO('\ufeff{"x": 1}'))
    assert read(int, lines_from="-") == [{"x": 1}]


def test_a_file_without_lines_gives_no_runs(tmp_path: Path) -> None:
    file = tmp_path / "inputs.jsonl"
    file.write_text("\n")
    assert read(int, lines_from=str(file)) == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            "{",
            "line 2 of standard input is no JSON (Expecting property name enclosed in double quotes, at character 2)",
        ),
        ("[1]", "line 2 of standard input is [1]. Each line is an object of inputs"),
        ('{"x": "one"}', "line 2 of standard input: the input 'x' takes int, which 'one' is not"),
        ("{}", "line 2 of standard input: step 'Take' needs the input 'x'"),
        ('{"x": 1, "y": 2}', "line 2 of standard input: workflow 'taking' has no input 'y'"),
        ("[" * 100_000, "line 2 of standard input is no JSON"),
    ],
)
def test_a_bad_line_is_named_with_its_number(line: str, complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"x": 1}\n' + line))
    with pytest.raises(Nonsense) as caught:
        read(int, lines_from="-")
    assert complaint in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Nonsense, match=r"nowhere\.jsonl cannot be read: No such file or directory\. Name"):
        read(int, lines_from=str(tmp_path / "nowhere.jsonl"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(Nonsense, match="binary cannot be read"):
        read(int, lines_from=str(tmp_path / "binary"))

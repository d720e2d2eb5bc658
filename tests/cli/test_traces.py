"""Errors of steps as people read them."""

from __future__ import annotations

from pathlib import Path

import pytest

import fuseline
from fuseline.cli.traces import error_lines, reason_of, summary, without_whom
from fuseline.encoding import encode_error
from fuseline.records import RunRecord, StepRecord
from fuseline.states import State
from fuseline.values import ErrorInfo

PACKAGE = Path(fuseline.__file__).parent

TRACE = f'''Traceback (most recent call last):
  File "/somewhere/first.py", line 1, in first
    first()
KeyError: 1

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "{PACKAGE}/attempt.py", line 5, in run
    result = step.run_step()
             ^^^^^^^^^^^^^^^
  File "HERE/pipeline.py", line 7, in run_step
    return load(1) + load(x)
           ~~~~~~~~^~~~~~~~~
  File "/usr/lib/loading.py", line 9, in load
    raise ValueError(text)
ValueError: two
  indented lines
'''


def failed(error: ErrorInfo | None, attempts: int = 1) -> RunRecord:
    return RunRecord(
        instance_id="3f2a",
        number=1,
        workflow_id="etl",
        workflow="etl",
        outputs=("load",),
        state=State.FAILED,
        inputs={},
        steps={"load": StepRecord(state=State.FAILED, attempts=attempts, error=error)},
        failed=("load",),
        created=0.0,
    )


def test_the_frames_of_the_user_are_shown_without_those_of_fuseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = ErrorInfo(
        type_names=("builtins.ValueError",),
        message="two\n  indented lines",
        traceback=TRACE.replace("HERE", str(tmp_path)),
    )
    assert error_lines(failed(error, attempts=3), "load") == [
        "step 'load' (attempt 3): ValueError: two",
        "    indented lines",
        '  File "pipeline.py", line 7, in run_step',
        "    return load(1) + load(x)",
        '  File "/usr/lib/loading.py", line 9, in load',
        "    raise ValueError(text)",
        "  raised while handling KeyError: 1",
    ]


def test_all_that_led_to_an_error_is_named() -> None:
    try:
        try:
            try:
                int("x")
            except ValueError as error:
                raise KeyError("of\nthe column") from error
        except KeyError as error:
            raise RuntimeError("bad config") from error
    except RuntimeError as error:
        info = encode_error(error)
    lines = error_lines(failed(info), "load")
    assert lines[0] == "step 'load': RuntimeError: bad config"
    assert lines[-2:] == [
        "  caused by KeyError: 'of\\nthe column'",
        "  caused by ValueError: invalid literal for int() with base 10: 'x'",
    ]


def test_of_a_deep_recursion_the_innermost_frames_are_shown() -> None:
    frames = "".join(f'  File "a.py", line {number}, in f\n    f()\n' for number in range(100))
    error = ErrorInfo(
        type_names=("RecursionError",), message="", traceback=f"Traceback (most recent call last):\n{frames}"
    )
    lines = error_lines(failed(error), "load")
    assert lines[0] == "step 'load': RecursionError"
    assert len(lines) == 10
    assert "line 0" in lines[1]
    assert lines[3] == "  …"
    assert "line 99" in lines[-2]


def test_an_error_without_a_traceback_or_none_at_all() -> None:
    assert error_lines(failed(ErrorInfo(type_names=(), message="?")), "load") == ["step 'load': an exception: ?"]
    assert error_lines(failed(None), "load") == ["step 'load': its worker gave no reason"]
    assert reason_of(failed(None)) == "load: its worker gave no reason"


def test_of_a_message_of_many_lines_the_first_are_shown() -> None:
    error = ErrorInfo(type_names=("ValueError",), message="\n".join("abcdefgh"))
    first, *more = error_lines(failed(error), "load")
    assert first == "step 'load': ValueError: a"
    assert more == ["  b", "  c", "  d", "  e", "  f", "  …"]


def test_what_an_error_is_about_is_not_said_twice() -> None:
    said = "step 'load' of run 3f2a (attempt 2) ran longer than its timeout of 1 s"
    record = failed(ErrorInfo(type_names=("fuseline.errors.StepTimedOut",), message=said))
    assert reason_of(record) == "load: StepTimedOut: ran longer than its timeout of 1 s"
    assert error_lines(record, "load") == ["step 'load': StepTimedOut: ran longer than its timeout of 1 s"]
    assert without_whom('step "it\'s" of run 3f2a could not be run') == "could not be run"
    for other in ("ValueError: step 3 of run 7 is odd", "given to worker 3", ""):
        assert without_whom(other) == other


def test_control_characters_of_messages_are_escaped() -> None:
    error = ErrorInfo(type_names=("a.b.Bad",), message="\x1b[2Jx")
    assert summary(error) == "Bad: \\x1b[2Jx"

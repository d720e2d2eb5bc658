"""What the command looks like on a terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from fuseline.cli.streams import fresh

Call = Callable[..., Any]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(columns: int, *arguments: str, code: int = 0, **variables: str) -> str:
    """Run the command with a terminal for everything, and return what it has got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color", "PYTHONDONTWRITEBYTECODE": "1", **variables}
    command = [sys.executable, "-W", "error", "-m", "fuseline.cli", *arguments]
    with open(ours, "rb", buffering=0) as terminal:
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
            os.close(theirs)
            got = b""
            try:
                while chunk := terminal.read(4096):
                    got += chunk
            except OSError:  # what Linux says at the end of a terminal
                pass
        assert process.returncode == code, got
    return got.decode()


def widths(text: str) -> list[int]:
    """Return how wide each line is, of which a later one may have been drawn over an earlier one."""
    return [cell_len(part) for line in ESCAPE.sub("", text).split("\n") for part in line.split("\r")]


@pytest.mark.usefixtures("project", "broker")
@pytest.mark.parametrize("columns", [80, 50])
def test_a_bar_is_drawn_and_removed(columns: int) -> None:
    got = on_terminal(columns, "run", "pipeline.py:etl", "-i", "path=x", "--executor", "inline")
    drawn, _, rest = got.rpartition("\x1b[J")
    assert "\x1b[?25l" not in got  # a cursor that is hidden stays so if the command is killed
    assert re.search(r"etl .*━.* \d/2 steps", ESCAPE.sub("", drawn))
    assert "━" not in rest
    assert rest.endswith("\r\n")
    assert "report: 3 rows\r\n" in rest
    assert max(widths(drawn)) <= columns


CHATTY = """
from fuseline import Step, Workflow
class Talk(Step):
    def run_step(self):
        print("line 1", flush=True)
        print("half a", end="", flush=True)
        print(" line", flush=True)
        return "said"
talk = Workflow(outputs=[Talk()], name="chatty")
"""
DRAWING = re.compile(r"\x1b\[J(?:(?:\x1bD)+\x1b\[(\d+)A\x1b7\x1b\[\1B\r[^\n]*?\x1b8)?")


@pytest.mark.usefixtures("broker")
def test_a_bar_leaves_alone_what_children_print(project: Path) -> None:
    (project / "chatty.py").write_text(CHATTY)
    got = on_terminal(80, "run", "chatty.py", "-p", "1")
    drawings = [match[0] for match in DRAWING.finditer(got)]
    assert "━" in drawings[0]  # ... some rows below the cursor, which is put back
    assert drawings[-1] == "\x1b[J"
    assert DRAWING.sub("", got).startswith("line 1\r\nhalf a line\r\nsaid\r\nchatty: SUCCEEDED")


@pytest.mark.usefixtures("project", "broker")
def test_a_dumb_terminal_gets_no_bar() -> None:
    got = on_terminal(80, "run", "pipeline.py:etl", "-i", "path=x", "--executor", "inline", TERM="dumb")
    assert got.startswith("report: 3 rows\r\netl: SUCCEEDED")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_follows_ctrl_c_clears_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert fresh(Terminal()) == "\r\x1b[K"
    assert fresh(io.StringIO()) == ""
    monkeypatch.setenv("TERM", "dumb")
    assert fresh(Terminal()) == ""


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("columns", [80, 50])
def test_tables_fit(columns: int, call: Call) -> None:
    call("run", "pipeline.py:etl", "-i", "path=x", "-i", "title=bad", "--executor", "inline")
    [run] = [line.split()[0] for line in call("runs").out.splitlines()[1:]]
    for arguments in (["runs"], ["show", run], ["story", run]):
        got = on_terminal(columns, *arguments)
        assert run in ESCAPE.sub("", got)
        assert "\x1b[1;31mFAILED\x1b[0m" in got
        table = got.split("FAILED")[0] if arguments == ["show", run] else got
        assert max(widths(table)) <= columns


@pytest.mark.usefixtures("broker")
def test_a_result_cannot_change_the_terminal(call: Call) -> None:
    arguments = ["run", "pipeline.py:etl", "-i", "path=x", "-i", "title=\x1b[31mred", "--executor", "inline"]
    assert call(*arguments).out == "\x1b[31mred: 3 rows\n"  # a file gets it as it is
    assert "\\x1b[31mred: 3 rows\r\n" in on_terminal(80, *arguments)


@pytest.mark.usefixtures("broker")
def test_a_huge_result_is_cut_on_a_terminal_only(call: Call) -> None:
    arguments = ["run", "pipeline.py:double", "-i", f"x={list(range(2000))}"]
    assert len(call(*arguments).out) > 10_000
    got = ESCAPE.sub("", on_terminal(80, *arguments))
    assert "{'twice': [0, 1, 2," in got or "{'x': [0, 1, 2," in got
    assert len(got) < 4_000
    assert "A long result is cut here" in got


@pytest.mark.usefixtures("broker")
def test_a_long_string_is_cut_on_a_terminal_only(call: Call, project: Path) -> None:
    arguments = ["run", "pipeline.py:etl", "-i", "path=x", "-i", f"title={'x' * 5000}", "--executor", "inline"]
    assert len(call(*arguments).out) > 5000
    got = ESCAPE.sub("", on_terminal(80, *arguments))
    assert "xxx…\r\n" in got
    assert got.count("x") == 2000
    assert "A long result is cut here" in got
    arguments[-3] = "title=" + "\n".join(map(str, range(1000, 1080)))
    got = on_terminal(80, *arguments)
    assert "1049…\r\n" in got
    assert "1050" not in got


@pytest.mark.usefixtures("broker")
def test_runs_without_a_result_leave_no_empty_lines_on_a_terminal(call: Call, project: Path) -> None:
    (project / "in.jsonl").write_text('{"title": "bad"}\n' * 5)
    arguments = ["run", "pipeline.py:etl", "-i", "path=x", "--executor", "inline", "--inputs", "in.jsonl"]
    assert call(*arguments).out == "\n" * 5
    got = ESCAPE.sub("", on_terminal(80, *arguments, code=1))
    assert "\n\n" not in got.replace("\r", "")

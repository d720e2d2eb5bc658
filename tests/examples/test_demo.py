"""The ``fuseline`` command, as a user starts it."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fuseline
from fuseline.cli import demo, main

COMMAND = [sys.executable, "-W", "error", "-m", "fuseline.cli"]


def run_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with three modules, one of them no valid Python."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "knotty.py").write_text("def f(a, b):\n    if a and b:\n        return 1\n    return 2\n")
    (project / "plain.py").write_text("def f():\n    return 1  # one\n")
    (project / "broken.py").write_text("def f(:\n")
    return project


def test_demo_measures_compares_and_ends_well(tmp_path: Path) -> None:
    done = run_command("demo", "--limit", "12", "--processes", "2", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""  # no progress line where there is no terminal
    assert "12 files" in done.stdout
    assert "on 2 processes of Python" in done.stdout
    assert "All 12 good runs succeeded." in done.stdout
    assert re.search(r"^  fuseline, 2 processes +[\d.]+ s +\d+ +[\d,]+$", done.stdout, re.MULTILINE)
    assert re.search(r"^  plain loop, the same functions +[\d.]+ s +\d+ +[\d,]+$", done.stdout, re.MULTILINE)
    assert " times as " in done.stdout
    assert "Both found the same." in " ".join(done.stdout.split())
    assert "bad step" not in done.stdout


def test_demo_prints_what_it_found_in_a_directory(project: Path, tmp_path: Path) -> None:
    done = run_command("demo", "--path", "project", cwd=tmp_path)
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    header = rows.index(["module", "lines", "functions", "complexity", "longest", "ratio"])
    assert [row[:5] for row in rows[header + 2 : header + 5]] == [
        ["knotty", "4", "1", "4", "4"],
        ["plain", "2", "1", "2", "2"],
        ["broken", "1", "0", "0", "0"],
    ]
    assert ["all", "3", "files", "7", "2", "6"] in rows
    assert "No valid Python, and named instead of failing: broken." in done.stdout


def test_hostile_demo_contains_and_names_each_bad_step(tmp_path: Path) -> None:
    done = run_command("demo", "--hostile", "--limit", "12", cwd=tmp_path)
    assert done.returncode == 0
    assert "Traceback" not in done.stdout + done.stderr
    assert max(len(line) for line in done.stdout.splitlines() if "source below" not in line) <= 80
    text = " ".join(done.stdout.split())
    assert "3 bad steps among them" in text
    hang, crash, flaky, rest = re.split(r"Hang hangs|Crash dies|Flaky fails|All 12 good runs succeeded", text)[1:]
    assert "FAILED after 1 attempt: contained StepTimedOut: step 'Hang'" in hang
    assert "ran longer than its timeout of 1 s and was killed" in hang
    assert "FAILED after 1 attempt: contained StepCrashed: step 'Crash'" in crash
    assert "died by SIGSEGV" in crash
    assert "SUCCEEDED after 3 attempts: contained" in flaky
    assert "ConnectionError: no answer, try 1 ConnectionError: no answer, try 2" in flaky
    assert "The loop was spared the bad steps" in rest


def test_progress_is_drawn_on_a_terminal_and_removed_at_the_end(project: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        with subprocess.Popen(
            [*COMMAND, "demo", "--path", "project"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=theirs
        ) as process:
            os.close(theirs)
            drawn = b""
            try:
                while chunk := terminal.read(4096):
                    drawn += chunk
            except OSError:  # what Linux says at the end of a terminal
                pass
        assert process.returncode == 0
    assert b"\rfuseline   [....." in drawn
    assert b"]   0%, 0.0 s" in drawn
    assert b"\rplain loop [####" in drawn
    assert drawn.endswith(b"\r\x1b[K")


def test_ctrl_c_ends_the_demo_with_130_and_without_a_traceback(tmp_path: Path) -> None:
    # A test run in the background ignores SIGINT, and so would its children.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from fuseline.cli import main; sys.exit(main(['demo']))"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while "plain loop" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 130
    *before, last = errors.strip().split("\n")
    assert last == "fuseline: ended by Ctrl-C"
    assert all(line.startswith("stopping when") for line in before if line)


def test_demo_says_why_good_runs_failed(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(self: Any, files: list[Any]) -> None:
        self.failures += ["step 'Read' failed: the file is gone"] * len(files)

    monkeypatch.setattr(demo._EngineWay, "measure", measure)
    assert main(["demo", "--path", str(project)]) == 1
    output = capsys.readouterr().out
    assert "3 of 3 good runs failed:" in output
    assert "the file is gone" in output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["dance"], "dance"),
        (["demo", "--limit", "0"], "'--limit': '0' is not a whole number of 1 or more"),
        (["demo", "--processes", "two"], "'--processes': 'two' is not a whole number of 1 or more"),
        (["demo", "--path", "nowhere"], "'--path': there is no file or directory 'nowhere'"),
        (["demo", "--path", "."], "there is no Python file at or below ."),
        (["demo", "--hostyle"], "--hostyle"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_code_2(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    done = run_command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_version_and_help_tell_what_there_is(tmp_path: Path) -> None:
    assert run_command("--version", cwd=tmp_path).stdout == f"fuseline {fuseline.__version__}\n"
    assert "demo" in run_command("--help", cwd=tmp_path).stdout
    options = run_command("demo", "--help", cwd=tmp_path).stdout
    for option in ("--hostile", "--processes N", "--limit N", "--path PATH"):
        assert option in options


def test_output_that_nobody_reads_to_its_end_is_no_error(project: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "demo", "--path", "project"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, errors = process.communicate(timeout=100)
    assert errors == b""
    assert process.returncode == 128 + signal.SIGPIPE

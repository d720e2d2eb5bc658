"""The command line as such: help, versions, exit codes, errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import fuseline
from fuseline.cli import work
from fuseline.cli.commands import fuseline_command
from fuseline.cli.stores import default_store, store_path
from fuseline.errors import StoreError

Call = Callable[..., Any]
COMMANDS = list(fuseline_command.commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(name: str, call: Call) -> None:
    said = call(name, "--help")
    assert said.code == 0
    assert f"Usage: fuseline {name} " in said.out
    assert f"  fuseline {name} " in said.out.split("Example")[1]
    assert max(map(len, said.out.splitlines())) <= 80
    assert said.err == ""


def test_help_lists_commands_and_exit_codes(call: Call) -> None:
    said = call("--help")
    assert said.code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in said.out
    for line in ("0    all went well", "1    something failed", "2    the command line", "130  ended by Ctrl-C"):
        assert line in said.out
    assert "..." not in said.out.split("Commands:")[1]  # no short help was cut
    assert max(map(len, said.out.splitlines())) <= 80


def test_help_may_be_asked_for_without_dashes(call: Call) -> None:
    assert call() == call("help") == call("--help")
    assert call("help", "run") == call("run", "--help")


@pytest.mark.parametrize("name", ["runs", "show"])
def test_help_fits_a_narrow_terminal(name: str) -> None:
    command = [sys.executable, "-m", "fuseline.cli", name, "--help"]
    environment = {**os.environ, "COLUMNS": "40"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
    assert max(map(len, done.stdout.split("Example")[0].splitlines())) <= 40  # those are to be copied


def test_version_is_that_of_the_package(call: Call) -> None:
    assert call("--version").out == f"fuseline {fuseline.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], ["runs", "--nonsense"]])
def test_what_is_not_needed_is_not_imported(arguments: list[str]) -> None:
    heavy = [
        "rich",
        "msgspec",
        "psutil",
        "cloudpickle",
        "sqlite3",
        "asyncio",
        "loky",
        "fuseline.broker",
        "fuseline.step",
    ]
    code = f"import sys; from fuseline.cli import main; main({arguments!r}); "
    code += f"print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["help", "dance"], "fuseline: No such command 'dance'."),
        (["dance"], "fuseline: No such command 'dance'."),
        (["run"], "fuseline: Missing argument 'MODULE:WORKFLOW'. Try 'fuseline run --help'."),
        (["run", "pipeline.py:nix"], "fuseline: pipeline.py has no workflow 'nix'"),
        (["run", "pipeline.py:etl", "-i", "count=many"], "fuseline: -i count=many: the input 'count' takes int"),
        (["run", "pipeline.py:etl"], "fuseline: step 'Load' needs the input 'path'"),
        (["run", "pipeline.py:etl", "-i", "path=x", "--executor", "nix"], "fuseline: unknown executor 'nix'"),
        (["run", "pipeline.py:etl", "-p", "0"], "'0' is not a whole number of 1 or more"),
        (["run", "pipeline.py:etl", "-p", "1025"], "1025 is too many. Give 1,024 at most."),
        (["worker", "pipeline.py", "pipeline.py"], "fuseline: there are several workflows 'etl'. Give each once"),
        (["runs", "--state", "odd"], "'odd' is not one of"),
        (["runs", "-n", "-1"], "'-1' is not a whole number of 1 or more"),
        (["worker"], "Missing argument 'MODULE:WORKFLOW ...'"),
        (["prune"], "fuseline: say what to remove"),
        (["prune", "--older-than", "soon"], "'soon' is no span of time. Write 30d"),
        (["broker", "--durability", "none"], "'none' is not one of"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_code_2_and_one_line(
    arguments: list[str], complaint: str, call: Call, store: Path
) -> None:
    said = call(*arguments)
    assert said.code == 2
    assert said.out == ""
    assert complaint in said.err
    assert said.err.startswith("fuseline: ")
    assert said.err.count("\n") == 1
    assert not store.exists()  # nothing was dispatched


@pytest.mark.parametrize("name", ["show", "story", "cancel", "resume"])
def test_where_there_is_no_store_there_are_no_runs(name: str, call: Call, store: Path) -> None:
    said = call(name, "3f")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"fuseline: there is no store at {store}. Start a run with")
    for arguments in (["runs"], ["prune", "--keep", "3"]):
        said = call(*arguments)
        assert (said.code, said.out) == (0, "")
        assert said.err == f"there are no runs, because there is no store at {store} yet.\n"
    assert not store.exists()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (StoreError("the store is odd. Mend it."), 1, "fuseline: the store is odd. Mend it.\n"),
        (OSError(28, "No space left on device"), 1, "fuseline: [Errno 28] No space left on device\n"),
        (click.Abort(), 130, "fuseline: ended by Ctrl-C\n"),
        (SystemExit(143), 143, ""),
        (StoreError("\x1b[2J"), 1, "fuseline: \\x1b[2J\n"),
    ],
)
def test_an_error_is_one_line_without_a_traceback(
    error: BaseException, code: int, line: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**given: Any) -> int:
        raise error

    monkeypatch.setattr(work, "run_here", fail)
    said = call("run", "pipeline.py:etl")
    assert (said.code, said.err) == (code, line)


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, "double"),
        pytest.param(
            ">/dev/full",
            1,
            "fuseline: standard output cannot be written: No space left on device.\n",
            marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full"),
        ),
    ],
)
def test_output_that_cannot_be_written(redirected: str, code: int, said: str, call: Call) -> None:
    call("dispatch", "pipeline:double", "-i", "x=1")
    command = f"{sys.executable} -W error -m fuseline.cli runs --json {redirected}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_json_is_json_in_any_encoding(call: Call) -> None:
    Path("odd.py").write_text(
        "from fuseline import Step, Workflow\n"
        "class Odd(Step):\n    def run_step(self, x): return {'text': x, 'n': 1 / (x != 'bäd')}\n"
        "odd = Workflow(outputs=[Odd()], name='öd', executor='inline')\n",
        "utf-8",
    )

    def say(*arguments: str) -> bytes:
        command = [sys.executable, "-m", "fuseline.cli", *arguments]
        environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False).stdout

    assert json.loads(say("run", "odd.py", "-i", "x=gööd", "--json"))["result"] == {"text": "gööd", "n": 1.0}
    assert json.loads(say("run", "odd.py", "-i", "x=gööd"))["text"] == "gööd"
    assert json.loads(say("run", "odd.py", "-i", "x=bäd", "--json"))["workflow"] == "öd"
    for line in say("runs", "--json").splitlines():
        assert json.loads(line)["workflow"] == "öd"


@pytest.mark.parametrize("redirected", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("options", ["", "--json"])
def test_a_run_needs_no_open_streams(redirected: str, options: str, call: Call) -> None:
    command = f"{sys.executable} -W error -m fuseline.cli run pipeline.py:etl -i path=x -p 1 {options} {redirected}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert ("report: 3 rows" in done.stdout) == (">&-" not in redirected.split())
    assert ("etl: SUCCEEDED" in done.stderr) == ("2>&-" not in redirected.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs"],
        ["runs", "--json"],
        ["run", "pipeline:double", "-i", "x=1"],
        ["run", "pipeline:double", "-i", "x=1", "--json"],
        ["--help"],
        ["run", "--help"],
        ["doctor"],
    ],
)
def test_output_that_nobody_reads_is_no_error(arguments: list[str], call: Call) -> None:
    call("dispatch", "pipeline:double", "-i", "x=1")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        command = [sys.executable, "-W", "error", "-m", "fuseline.cli", *arguments]
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "rror" not in done.stderr


def test_a_bug_keeps_its_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "run_here", lambda **given: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        call("run", "pipeline.py:etl")


# -- which store ------------------------------------------------------------------------------------------------------


def test_the_store_is_in_the_state_directory_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_store() == tmp_path / "fuseline" / "runs.db"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_store() == tmp_path / ".local" / "state" / "fuseline" / "runs.db"


def test_the_directory_of_the_store_is_for_its_user_only(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FUSELINE_STORE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    said = call("run", "pipeline.py:double", "-i", "x=2")
    assert (said.code, said.out) == (0, '{"x": 2, "twice": 4}\n')
    folder = tmp_path / "state" / "fuseline"
    assert (folder.stat().st_mode & 0o777, (folder / "runs.db").is_file()) == (0o700, True)


def test_a_state_directory_that_cannot_be_made_is_named(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FUSELINE_STORE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    said = call("run", "pipeline.py:double", "-i", "x=2")
    advice = "Mend that, or name another store with --store."
    assert said.code == 1
    assert said.err == f"fuseline: {tmp_path}/file is no directory that you may write to. {advice}\n"


def test_an_option_goes_before_the_environment(call: Call, tmp_path: Path, store: Path) -> None:
    other = tmp_path / "other.db"
    said = call("run", "pipeline.py:double", "-i", "x=2", "--store", str(other))
    assert said.code == 0
    assert (other.exists(), store.exists()) == (True, False)
    assert store_path("~/x.db") == Path.home() / "x.db"
    assert store_path("x.db").is_absolute()

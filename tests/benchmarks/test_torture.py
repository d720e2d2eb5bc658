"""The torture comparison judges right, and this library contains what it is given there."""

from __future__ import annotations

import inspect
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.torture import hosts  # noqa: E402
from benchmarks.torture.__main__ import main  # noqa: E402
from benchmarks.torture.hosts import run_case  # noqa: E402
from benchmarks.torture.libraries import LIBRARIES, Library, Outcome  # noqa: E402
from benchmarks.torture.program import EXPECTED, HOSTILE_CALL  # noqa: E402
from benchmarks.torture.steps import HOSTILE, ORPHANS  # noqa: E402
from benchmarks.torture.verdicts import CONTAINED, judge  # noqa: E402
from fuseline.testing.gate import HANG  # noqa: E402

#: Seconds; a net, where nothing is to hang.
BOUND = 60.0


def fake(name: str) -> Library:
    return Library(name=name, title=name, driver=f"fakes:{name}")


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The programs find the fakes, and work below a folder of this test; nothing is left in there, nor anybody."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    folder = tmp_path / "cases"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []
    _, left = psutil.wait_procs([each for each in psutil.process_iter() if works_below(folder, each)], timeout=HANG)
    assert left == []


def works_below(folder: Path, process: psutil.Process) -> bool:
    try:
        return process.cwd().startswith(str(folder)) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.mark.parametrize(
    ("library", "step", "verdict"),
    [
        ("contains", "sigkill", "contained"),
        ("loses_a_sibling", "sigkill", "siblings fail"),
        ("mixes_up_values", "sigkill", "siblings are wrong"),
        ("leaks_raw", "interrupt", "escapes raw"),
        ("passes_the_error_on_raw", "sys-exit", "escapes raw"),
        ("calls_it_a_success", "exit-0", "passes as a success"),
        ("lets_the_fork_win", "fork", "the fork's value wins"),
        ("contains", "fork", "its value is lost"),
        ("ends_the_program", "exit-0", "ends the program"),
        ("cannot_start", "sigkill", "does not run here"),
        ("fails_at_its_end", "sigkill", "fails at its end"),
    ],
)
def test_what_a_library_does_is_judged_as_what_it_is(library: str, step: str, verdict: str) -> None:
    seen = run_case(fake(library), step, BOUND)
    assert (seen.text, seen.is_good) == (verdict, verdict == CONTAINED)


def test_a_library_that_hangs_is_ended_at_its_bound_with_all_it_started() -> None:
    assert run_case(fake("hangs"), "sigkill", bound=0.5).text == "hangs"


def test_a_library_that_contains_all_and_does_not_end_hangs_at_its_end() -> None:
    outcomes = [Outcome(value=value) for value in EXPECTED]
    outcomes.insert(HOSTILE_CALL, Outcome(error="StepCrashed"))
    assert judge(HOSTILE["sigkill"], outcomes, exit_code=0).is_good
    verdict = judge(HOSTILE["sigkill"], outcomes, exit_code=None)
    assert (verdict.text, verdict.is_good) == ("hangs at its end", False)


@pytest.mark.parametrize(
    ("library", "alive"), [("leaves_orphans", "2 of 2"), ("ends_with_its_program", "0 of 0"), ("hangs", "hangs")]
)
def test_who_outlives_a_killed_program_is_counted_and_then_ended(
    library: str, alive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "AFTERMATH", 0.0)  # these are dead at once, or never
    verdict = run_case(fake(library), ORPHANS, bound=BOUND if library != "hangs" else 0.5)
    assert (verdict.text, verdict.is_good) == (alive, alive == "0 of 0")


def test_the_command_tells_what_it_saw_and_leaves_out_what_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIBRARIES, "loky", Library(name="loky", title="loky", driver="fakes:loses_a_sibling"))
    missing = Library(name="ray", title="Ray", driver="no_such_module:run", distribution="no-such-distribution")
    monkeypatch.setitem(LIBRARIES, "ray", missing)
    file = tmp_path / "seen.json"
    arguments = ["--only", "ray,loky", "--steps", "sigkill", "--markdown", "--json", str(file)]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0  # this library was not asked for
    assert done.stdout.splitlines()[:4] == [
        "| when one step of many … | loky | Ray |",
        "| --- | --- | --- |",
        "| SIGKILLs itself | siblings fail | not installed |",
        "| contained of 1 | 0 | not installed |",
    ]
    [seen] = json.loads(file.read_text())["verdicts"]
    assert (seen["library"], seen["step"], seen["text"]) == ("loky", "sigkill", "siblings fail")
    assert seen["detail"] == f"1 of {len(EXPECTED)}: BrokenProcessPool: terminated"


@pytest.mark.parametrize(("driver", "code"), [("contains", 0), ("loses_a_sibling", 1)])
def test_the_command_fails_if_this_library_does_not_contain_all(
    driver: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIBRARIES, "fuseline", Library(name="fuseline", title="x", driver=f"fakes:{driver}"))
    done = CliRunner().invoke(main, ["--only", "fuseline", "--steps", "sigkill"], catch_exceptions=False)
    assert done.exit_code == code
    assert "SIGKILLs itself" in done.stdout


def test_a_library_that_nobody_knows_is_code_2() -> None:
    done = CliRunner().invoke(main, ["--only", "fuseline,celery"])
    assert done.exit_code == 2
    assert "'celery' is none of fuseline, stdlib" in done.stderr


def test_hostile_steps_are_functions() -> None:
    assert [
        step.name for step in HOSTILE.values() if not inspect.isfunction(step.run)
    ] == []  # Ray makes actors of classes


def test_this_library_contains_every_hostile_step() -> None:
    with ThreadPoolExecutor(2) as pool:
        verdicts = list(pool.map(lambda step: run_case(LIBRARIES["fuseline"], step, BOUND), HOSTILE))
    assert {step: verdict.text for step, verdict in zip(HOSTILE, verdicts, strict=True)} == dict.fromkeys(
        HOSTILE, CONTAINED
    ), [verdict.detail for verdict in verdicts]


def test_the_table_in_readme_is_that_of_the_command() -> None:
    lines = [line.strip("| ").split(" | ") for line in re.findall(r"^\|.*\|$", (ROOT / "README.md").read_text(), re.M)]
    start = next(i for i, line in enumerate(lines) if line[0] == "when one step of many …")
    table = lines[start : start + len(HOSTILE) + 4]
    assert table[0][1:] == [library.title for library in LIBRARIES.values()]
    assert [line[0] for line in table[2:-2]] == [step.title for step in HOSTILE.values()]
    assert {line[1] for line in table[2:-2]} == {f"**{CONTAINED}**"}
    assert table[-2][:2] == [f"contained of {len(HOSTILE)}", str(len(HOSTILE))]
    for column in range(1, len(LIBRARIES) + 1):
        assert table[-2][column] == str(sum(line[column] == f"**{CONTAINED}**" for line in table[2:-2]))

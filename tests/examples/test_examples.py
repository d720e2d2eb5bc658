"""Each example runs by itself, from any directory, without a warning."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name: str, *arguments: str, cwd: Path) -> str:
    """Return what the example prints; it must print nothing on standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


@pytest.fixture(scope="module")
def code_metrics() -> ModuleType:
    spec = importlib.util.spec_from_file_location("code_metrics_under_test", EXAMPLES / "code_metrics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_begins_by_saying_what_it_shows_and_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    docstring = text.split('"""')[1]
    assert text.startswith('"""')
    assert "It shows" in docstring
    assert f"python examples/{path.name}" in docstring


# -- the others -------------------------------------------------------------------------------------------------------


def test_rag_worker_answers_from_the_documents_that_fit(tmp_path: Path) -> None:
    output = run_example("rag_worker.py", cwd=tmp_path)
    assert output.startswith("How does Fuseline work? This is what I found:")
    assert "[1] Fuseline does its work in engines" in output
    assert "violin" not in output


def test_parameter_sweep_makes_the_data_once_per_child_and_finds_the_best_value(tmp_path: Path) -> None:
    output = run_example("parameter_sweep.py", cwd=tmp_path)
    best = re.search(r"best of 60: strength (\S+), error (\S+)", output)
    assert best is not None
    assert 500 < float(best[1]) < 5_000
    made = re.search(r"the data were made and decomposed (\d+) times", output)
    assert made is not None
    assert 1 <= int(made[1]) < 60


def test_custom_policy_logs_in_the_child_and_counts_in_the_parent(tmp_path: Path) -> None:
    output = run_example("custom_policy.py", cwd=tmp_path)
    assert "Download attempt 1 failed after" in output
    assert "Download attempt 2 succeeded after" in output
    assert "CountWords attempt 1 succeeded after" in output
    assert "words: 6" in output
    assert "attempts: 3 started, 1 failed, 1 retried, 2 succeeded" in output
    assert "errors: Download: no answer from https://example.org/hamlet" in output


def test_custom_worker_reports_a_failure_and_is_handed_the_step_again(tmp_path: Path) -> None:
    assert run_example("custom_worker.py", cwd=tmp_path).splitlines() == [
        "FetchNumbers, attempt 1: RETRYING (the source did not answer)",
        "FetchNumbers, attempt 2: SUCCEEDED",
        "AddUp, attempt 1: SUCCEEDED",
        "result: 5050",
    ]


# -- code_metrics -----------------------------------------------------------------------------------------------------


def test_code_metrics_prints_the_most_complex_modules_first(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "plain.py").write_text("def f():\n    return 1\n")
    (package / "knotty.py").write_text("def f(a, b):\n    if a and b:\n        return 1\n    return 2\n")
    (package / "broken.py").write_text("def f(:\n")
    output = run_example("code_metrics.py", str(tmp_path), cwd=tmp_path)
    assert [line.split() for line in output.splitlines()[:4]] == [
        ["module", "lines", "functions", "complexity"],
        ["package.knotty", "4", "1", "4"],
        ["package.plain", "2", "1", "2"],
        ["package", "0", "0", "1"],
    ]
    assert re.search(r"^4 files, 7 lines in .* s; 1 of them are no valid Python$", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("body", "complexity"),
    [
        ("pass", 1),
        ("if a: pass", 2),
        ("if a: pass\n    elif b: pass\n    else: pass", 3),
        ("return a and b and c", 3),
        ("return a if b else c", 2),
        ("for x in a: pass", 2),
        ("while a: pass\n    else: pass", 2),
        ("try: pass\n    except A: pass\n    except B: pass\n    finally: pass", 3),
        ("with a: pass", 1),
        ("assert a", 2),
        ("return [x for x in a if x if not x]", 3),
        ("match a:\n        case 1: pass\n        case 2: pass", 3),
        ("return lambda: a or b", 2),
    ],
)
def test_complexity_is_one_and_one_for_each_branch(code_metrics: ModuleType, body: str, complexity: int) -> None:
    measured = code_metrics.Measure().run_step(f"def f(a, b, c):\n    {body}\n".encode())
    assert measured["functions"] == 1
    assert measured["complexity"] == complexity + 1  # of the code outside of functions


def test_functions_within_functions_count_for_themselves(code_metrics: ModuleType) -> None:
    source = b"def outer():\n    async def inner():\n        if a:\n            pass\n    if b or c:\n        pass\n"
    measured = code_metrics.Measure().run_step(source)
    assert measured == {"functions": 2, "longest": 6, "complexity": 1 + 2 + 3, "peak": 3}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (b"x = 1\ny = (\n", "SyntaxError in line 2"),
        (b"# coding: no-such\n", "SyntaxError"),
        (b"x = '\xf6'\n", "SyntaxError"),
        (b"x = 1\0\n", "null bytes"),
        (b"x = " + b"-" * 100_000 + b"1\n", "Error"),
    ],
    ids=["syntax", "unknown encoding", "wrong encoding", "null byte", "nested too deeply"],
)
def test_invalid_source_has_a_problem_and_no_functions(code_metrics: ModuleType, source: bytes, problem: str) -> None:
    code_metrics.Tokenise().run_step(source)  # may find no fault with it, and must not fail
    measured = code_metrics.Measure().run_step(source)
    assert problem in measured["problem"]
    assert measured["functions"] == 0


def test_tokens_of_an_odd_encoding_are_counted(code_metrics: ModuleType) -> None:
    source = "# coding: latin-1\nname = 'ö'  # ü\n".encode("latin-1")
    assert code_metrics.Tokenise().run_step(source) == {"lines": 2, "tokens": 9, "comments": 2}
    assert "problem" not in code_metrics.Measure().run_step(source)


def test_installed_packages_are_left_out_and_the_largest_file_comes_first(
    code_metrics: ModuleType, tmp_path: Path
) -> None:
    for name in ("small.py", "a/large.py", "site-packages/other.py", "folder.py/inside.py", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#" * len(name))
    found = code_metrics.find_modules(tmp_path)
    assert [inputs["module"] for inputs in found] == ["folder.py.inside", "a.large", "small"]
    assert code_metrics.find_modules(tmp_path / "small.py") == [{"path": str(tmp_path / "small.py"), "module": "small"}]

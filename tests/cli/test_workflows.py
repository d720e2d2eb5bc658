"""Finding the workflow that MODULE:WORKFLOW names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fuseline.cli.app import Nonsense
from fuseline.cli.workflows import find_workflow

WORKFLOW = "from fuseline import Step, Workflow\nclass A(Step):\n    def run_step(self): return 1\n"


def write(name: str, source: str, *, workflow: bool = True) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((WORKFLOW if workflow else "") + source)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("module", ["pipeline", "pipeline.py", "./pipeline.py", "../project/pipeline.py"])
@pytest.mark.parametrize("name", ["etl", "double"])
def test_a_module_or_its_file_and_a_workflow_or_its_maker(module: str, name: str) -> None:
    workflow = find_workflow(f"{module}:{name}")
    assert workflow.name == name
    assert {type(step).__module__ for step in workflow.steps.values()} == {"pipeline"}  # as children will import it


@pytest.mark.usefixtures("project")
def test_the_only_workflow_need_not_be_named() -> None:
    write("one.py", "flow = same = Workflow(outputs=[A()], name='one')\n_other = Workflow(outputs=[A()])\n")
    assert find_workflow("one.py").name == "one"
    write("maker.py", "def make(n: int = 1) -> 'Workflow': return Workflow(outputs=[A()], name='made')\n")
    assert find_workflow("maker").name == "made"


@pytest.mark.usefixtures("project")
def test_a_file_of_a_package_is_imported_as_part_of_it() -> None:
    write("deep/pack/__init__.py", "", workflow=False)
    write("deep/pack/names.py", "NAME = 'packed'\n", workflow=False)
    write("deep/pack/flow.py", "from .names import NAME\nflow = Workflow(outputs=[A()], name=NAME)\n")
    workflow = find_workflow("deep/pack/flow.py:flow")
    assert workflow.name == "packed"
    assert type(workflow.outputs[0]).__module__ == "pack.flow"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("pipeline.py:nix", "pipeline.py has no workflow 'nix'; there are etl, double, hold."),
        ("pipeline", "name the workflow: pipeline has no single one; there are etl, double, hold."),
        ("pipeline:Load", "no workflow, but of type type"),
        ("pipeline:PIPES", "no workflow 'PIPES'"),
        ("nowhere.py", "there is no file 'nowhere.py'"),
        ("nowhere", "there is no module 'nowhere'"),
        ("pipeline.nowhere", "there is no module 'pipeline.nowhere'"),
        ("a b:c", "'a b' names no module"),
        (":etl", "'' names no module"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(target: str, complaint: str) -> None:
    with pytest.raises(Nonsense) as caught:
        find_workflow(target)
    assert complaint in str(caught.value)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all' (broken.py, line 4)"),
        ("w = Workflow(outputs=[])\n", "WorkflowError: a workflow without outputs has no steps."),
        ("w = Workflow(outputs=[])\n", "(broken.py, line 4)"),
        ("def f(:\n", "SyntaxError: invalid syntax (broken.py, line 4)"),
        ("raise SystemExit(3)\n", "SystemExit: 3 (broken.py, line 4)"),
        (
            "import json; json.loads('x')\n",
            "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (broken.py, line 4)",
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_blamed_with_file_and_line(source: str, complaint: str) -> None:
    write("broken.py", source)
    with pytest.raises(Nonsense) as caught:
        find_workflow("broken.py:w")
    assert complaint in str(caught.value)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("place", ["flow.txt", "./flow.txt"])
def test_a_file_that_does_not_end_in_py_is_named(place: str) -> None:
    write("flow.txt", "")
    with pytest.raises(Nonsense) as caught:
        find_workflow(place)
    assert str(caught.value).startswith(f"{place} is no Python file, because its name does not end in .py.")


@pytest.mark.usefixtures("project")
@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="this system has no file that nobody can read")
def test_of_a_file_that_cannot_be_read_no_line_is_blamed() -> None:
    Path("odd.py").symlink_to("/proc/self/mem")
    with pytest.raises(Nonsense, match=r"odd\.py cannot be imported: OSError: .*error\. Mend that"):
        find_workflow("odd.py:w")


@pytest.mark.usefixtures("project")
def test_a_maker_that_fails_or_makes_something_else_is_blamed() -> None:
    write("makers.py", "def fails(): return 1 / 0\ndef lies(): return 3\ndef wants(x): return x\n")
    for name, complaint in {
        "fails": "makers.py:fails could not be made: ZeroDivisionError: division by zero (makers.py, line 4)",
        "lies": "makers.py:lies() returned an int and no workflow",
        "wants": "makers.py:wants needs arguments",
    }.items():
        with pytest.raises(Nonsense) as caught:
            find_workflow(f"makers.py:{name}")
        assert complaint in str(caught.value)


@pytest.mark.usefixtures("project")
def test_a_file_with_the_name_of_another_module_is_refused() -> None:
    write("subprocess.py", "w = Workflow(outputs=[A()])\n")
    assert subprocess is sys.modules["subprocess"]
    with pytest.raises(Nonsense, match="'subprocess' is the name of another module"):
        find_workflow("subprocess.py")

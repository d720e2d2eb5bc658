"""``fuseline demo``: measure the standard library with an engine and in a plain loop, and compare.

The pipeline is ``examples/code_metrics.py``, the file that a user would copy. Both ways call the same ``run_step``
methods on the same files; the time of the engine includes dispatching, and starting and ending its children.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import cloudpickle

from fuseline.broker.memory import MemoryBroker
from fuseline.cli import report
from fuseline.cli.hostile import BadRun, make_bad_runs
from fuseline.cli.progress import FileProgress
from fuseline.cli.report import Inputs, Pass
from fuseline.engines import ProcessEngine
from fuseline.errors import RunError
from fuseline.executors.base import usable_cpus
from fuseline.messages import RunInfo
from fuseline.workflow import Workflow

__all__ = ["run_demo"]


def run_demo(
    *, path: Path | None = None, processes: int | None = None, limit: int | None = None, hostile: bool = False
) -> int:
    """Measure, compare and print.

    Args:
        path: file or directory; default is the standard library.
        processes: children of the engine; default is the number of usable CPUs.
        limit: files to measure, at most.
        hostile: put the bad steps among them.

    Returns:
        The exit code: 0 if every run ended as it has to and both ways found the same, 1 if not, 2 if there is no file.

    Raises:
        KeyboardInterrupt: Ctrl-C; no child is left.
        OSError: a file could be read by the engine and not by the loop.
    """
    pipeline = _load_pipeline()
    root = path or Path(sysconfig.get_path("stdlib"))
    files: list[Inputs] = pipeline.find_modules(root)
    if not files:
        print(f"fuseline: there is no Python file at or below {root}", file=sys.stderr)
        return 2
    if limit is not None and limit < len(files):
        files = [files[i * len(files) // limit] for i in range(limit)]
    sizes = [os.path.getsize(inputs["path"]) for inputs in files]
    processes = processes or usable_cpus()
    bad_runs = make_bad_runs() if hostile else []

    report.show_plan(root, sizes, processes, len(bad_runs))
    with FileProgress("fuseline", sizes) as progress:
        by_engine, bad_infos = _work(pipeline.make_workflow(), files, processes, bad_runs, progress)
    report.show_modules(by_engine.results)
    as_expected = report.show_bad_runs(list(zip(bad_runs, bad_infos, strict=True)))
    if not report.show_good_runs(by_engine, len(files)):
        return 1  # the loop would not get past the same file
    with FileProgress("plain loop", sizes) as progress:
        by_loop = _loop(pipeline.make_workflow(), files, progress)
    is_same = report.show_times(by_engine, by_loop, processes, len(bad_runs))
    return 0 if as_expected and is_same else 1


def _load_pipeline() -> ModuleType:
    """Import the example: from this package, where a wheel carries it, or from the checkout around it."""
    path = Path(__file__).with_name("code_metrics.py")
    if not path.is_file():
        path = Path(__file__).parents[2] / "examples" / "code_metrics.py"
    spec = importlib.util.spec_from_file_location("code_metrics", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["code_metrics"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)  # children could not import it: it is on nobody's path
    return module


def _work(
    workflow: Workflow,
    files: Sequence[Inputs],
    processes: int,
    bad_runs: Sequence[BadRun],
    progress: FileProgress,
) -> tuple[Pass, list[RunInfo]]:
    """Measure all files with an engine, and have it run the bad steps early among them."""
    started = time.perf_counter()
    workflow.add_policy(progress)
    broker = MemoryBroker()
    engine = ProcessEngine(broker, [workflow, *(bad.workflow for bad in bad_runs)], processes=processes)
    schema = workflow.to_schema()
    early = len(files) // 10
    ids = broker.dispatch_many(schema, files[:early])
    bad_ids = [broker.dispatch_workflow(bad.workflow.to_schema()) for bad in bad_runs]
    ids += broker.dispatch_many(schema, files[early:])
    engine.work()
    results, failures = [], []
    for instance_id in ids:
        try:
            results.append(broker.result(instance_id))
        except RunError as error:
            failures.append(str(error))
    seconds = time.perf_counter() - started
    return Pass(results=results, seconds=seconds, failures=failures), [broker.get_run(each) for each in bad_ids]


def _loop(workflow: Workflow, files: Sequence[Inputs], progress: FileProgress) -> Pass:
    """Measure all files by calling the same steps in this process, one after the other."""
    started = time.perf_counter()
    for step in workflow.steps.values():
        step.setup()
    read, tokenise, measure, compress, summarise = (
        workflow.steps[name].run_step for name in ("Read", "Tokenise", "Measure", "Compress", "Summarise")
    )
    results = []
    for inputs in files:
        source = read(inputs["path"])
        results.append(summarise(inputs["module"], tokenise(source), measure(source), compress(source)))
        progress.count()
    return Pass(results=results, seconds=time.perf_counter() - started)

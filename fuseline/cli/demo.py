"""``fuseline demo``: measure the standard library with an engine and in a plain loop, and compare.

The pipeline is ``examples/code_metrics.py``, the file that a user would copy. Both ways call the same ``run_step``
methods on the same files. They take turns, because a machine is not equally fast in each minute: each turn is a part of
the files with all sizes in it. The time of the engine includes dispatching, and starting and ending its children (but
for a child that is still starting when a turn ends).
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Self

import cloudpickle

from fuseline.broker.memory import MemoryBroker
from fuseline.cli import report
from fuseline.cli.hostile import BadRun, make_bad_runs
from fuseline.cli.progress import FileProgress
from fuseline.cli.report import Inputs, Way
from fuseline.engines import ProcessEngine
from fuseline.errors import RunError
from fuseline.executors.base import usable_cpus
from fuseline.messages import RunInfo
from fuseline.workflow import Workflow

__all__ = ["run_demo"]

#: Turns that each way takes: few enough that waiting for the last files of each does not matter.
_TURNS = 8


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
    sizes = {inputs["path"]: os.path.getsize(inputs["path"]) for inputs in files}
    processes = processes or usable_cpus()
    bad_runs = make_bad_runs() if hostile else []
    turns = [files[i::_TURNS] for i in range(min(_TURNS, len(files)))]

    report.show_plan(root, list(sizes.values()), processes, len(bad_runs))
    with FileProgress([sizes[inputs["path"]] for turn in turns for inputs in turn * 2]) as progress:
        by_loop = _LoopWay(pipeline.make_workflow(), progress)
        with _EngineWay(pipeline.make_workflow(), processes, bad_runs, progress) as by_engine:
            for turn in turns:
                progress.begin("fuseline")
                by_engine.measure(turn)
                if not by_engine.failures:  # the loop would not get past the same file
                    progress.begin("plain loop")
                    by_loop.measure(turn)
    report.show_modules(by_engine.results)
    as_expected = report.show_bad_runs(list(zip(bad_runs, by_engine.bad_infos, strict=True)))
    if not report.show_good_runs(by_engine, len(files)):
        return 1
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


class _EngineWay(Way):
    """Measures files with one engine, which also runs the bad steps, early among the first turn."""

    def __init__(self, workflow: Workflow, processes: int, bad_runs: Sequence[BadRun], progress: FileProgress) -> None:
        super().__init__()
        with self.timed():
            workflow.add_policy(progress)
            self._broker = MemoryBroker()
            workflows = [workflow, *(bad.workflow for bad in bad_runs)]
            self._engine = ProcessEngine(self._broker, workflows, processes=processes)
            self._schema = workflow.to_schema()
            self._bad_schemas = [bad.workflow.to_schema() for bad in bad_runs]
            self._bad_ids: list[str] = []

    def __enter__(self) -> Self:
        with self.timed():
            self._engine.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.timed():
            self._engine.__exit__(kind, error, trace)

    def measure(self, files: Sequence[Inputs]) -> None:
        with self.timed():
            early = len(files) // 10
            ids = self._broker.dispatch_many(self._schema, files[:early])
            self._bad_ids += map(self._broker.dispatch_workflow, self._bad_schemas)
            self._bad_schemas.clear()  # once: they are among the first turn
            ids += self._broker.dispatch_many(self._schema, files[early:])
            self._engine.work()
            for instance_id in ids:
                try:
                    self.results.append(self._broker.result(instance_id))
                except RunError as error:
                    self.failures.append(str(error))

    @property
    def bad_infos(self) -> list[RunInfo]:
        """How the bad runs stand."""
        return [self._broker.get_run(instance_id) for instance_id in self._bad_ids]


class _LoopWay(Way):
    """Measures files by calling the same steps in this process, one after the other."""

    def __init__(self, workflow: Workflow, progress: FileProgress) -> None:
        super().__init__()
        self._steps = workflow.steps
        self._progress = progress

    def measure(self, files: Sequence[Inputs]) -> None:
        with self.timed(), _gc_as_before():
            for step in self._steps.values():
                step.setup()
            read, tokenise, measure, compress, summarise = (
                self._steps[name].run_step for name in ("Read", "Tokenise", "Measure", "Compress", "Summarise")
            )
            for inputs in files:
                source = read(inputs["path"])
                self.results.append(summarise(inputs["module"], tokenise(source), measure(source), compress(source)))
                self._progress.count()


@contextmanager
def _gc_as_before() -> Iterator[None]:
    """Undo what ``setup`` of a step does to the garbage collector: the engine of the next turn lives here too."""
    threshold = gc.get_threshold()
    try:
        yield
    finally:
        gc.set_threshold(*threshold)

"""Measure Python source code on all cores: a small workflow, run once for each of thousands of files.

::

                                ┌─▶ Tokenise ─┐
    path of a file ──▶ Read ────┼─▶ Measure ──┼─▶ Summarise ──▶ one dict per file
                                └─▶ Compress ─┘

It shows

- a workflow that is drawn with ``>>``, and steps that run side by side because nothing between them says otherwise;
- many runs of one workflow: ``dispatch_many`` makes a run for each file, and one ``ProcessEngine`` works on them all;
- what to hand from step to step: what a step returns is pickled for the next one, so the source of a file travels as
  the bytes it was read as, and the large things that are made of it (tokens, syntax tree) stay where they are made;
- ``setup``, which prepares each child process once for all the runs to come;
- what to do about bad input: a file that is no valid Python is a finding, not a failure; its result has a "problem".

Run it with::

    python examples/code_metrics.py          # the standard library of this Python
    python examples/code_metrics.py PATH     # a file, or all .py files below a directory
"""

from __future__ import annotations

import ast
import gc
import io
import os
import sys
import sysconfig
import time
import tokenize
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuseline import MemoryBroker, ProcessEngine, RunFailed, Step, Workflow

FUNCTIONS = {ast.FunctionDef, ast.AsyncFunctionDef}
BRANCHES = {ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.match_case}
LEAVES = {ast.Name, ast.Constant, ast.Load, ast.Store}  # most nodes of a tree, and nothing to count in or below them
INSTALLED = {"site-packages", "dist-packages"}


class Read(Step):
    """Reads the file. Its encoding is left to the steps that have to know it."""

    def run_step(self, path: str) -> bytes:
        return Path(path).read_bytes()


class Tokenise(Step):
    """Counts lines, tokens and comments."""

    def run_step(self, source: bytes) -> dict[str, Any]:
        lines = len(source.splitlines())
        try:
            kinds = Counter(token.type for token in tokenize.tokenize(io.BytesIO(source).readline))
        except (SyntaxError, ValueError, tokenize.TokenError) as error:
            return {"lines": lines, "tokens": 0, "comments": 0, "problem": describe(error)}
        return {"lines": lines, "tokens": kinds.total(), "comments": kinds[tokenize.COMMENT]}


class Measure(Step):
    """Parses the source and measures its functions.

    The complexity of a function is McCabe's, as most tools count it: 1, and 1 more for each if, elif, conditional
    expression, for, while, except, assert, case, ``and``, ``or``, and each condition of a comprehension. A function
    within another one, and the code outside of all functions, count for themselves; that of the module is the sum.

    Source: T. J. McCabe, "A Complexity Measure", IEEE Transactions on Software Engineering, 1976.
    """

    def setup(self) -> None:
        # A syntax tree is a great many objects and no garbage: looking for some so often takes a fifth of the time.
        gc.set_threshold(50_000)

    def run_step(self, source: bytes) -> dict[str, Any]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # such as those about escapes like "\d"
                tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return {"functions": 0, "longest": 0, "complexity": 0, "peak": 0, "problem": describe(error)}
        scores = [1]  # of the code outside of functions, then of each function
        longest = 0  # lines
        stack: list[tuple[ast.AST, int]] = [(tree, 0)]  # nodes to look at, and the place of their function in scores
        while stack:
            node, place = stack.pop()
            kind = type(node)
            if kind in FUNCTIONS:
                place = len(scores)
                scores.append(1)
                longest = max(longest, node.end_lineno - node.lineno + 1)
            elif kind in BRANCHES:
                scores[place] += 1
            elif kind is ast.BoolOp:
                scores[place] += len(node.values) - 1
            elif kind is ast.comprehension:
                scores[place] += len(node.ifs)
            stack += [(child, place) for child in ast.iter_child_nodes(node) if type(child) not in LEAVES]
        return {"functions": len(scores) - 1, "longest": longest, "complexity": sum(scores), "peak": max(scores)}


class Compress(Step):
    """Returns how many times smaller zlib makes the source: the more it repeats itself, the more."""

    def run_step(self, source: bytes) -> float:
        return len(source) / len(zlib.compress(source))


class Summarise(Step):
    """Joins the findings about a file. The three results come in the order in which the edges were drawn."""

    def run_step(self, module: str, tokens: dict[str, Any], code: dict[str, Any], ratio: float) -> dict[str, Any]:
        return {"module": module, "ratio": ratio, **tokens, **code}


def describe(error: BaseException) -> str:
    line = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
    return f"{type(error).__name__}{line}: {getattr(error, 'msg', error)}"


def make_workflow() -> Workflow:
    read, summarise = Read(), Summarise()
    read >> [Tokenise(), Measure(), Compress()] >> summarise
    return Workflow(outputs=[summarise], name="code_metrics")


def find_modules(root: Path) -> list[dict[str, str]]:
    """Return the inputs of a run for each readable .py file at or below ``root``, but for installed packages.

    The largest come first: when the last files are small, all cores are busy until the end.
    """
    base = root.parent if root.is_file() else root
    paths = [root] if root.is_file() else []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in INSTALLED]
        paths += [Path(folder, name) for name in names if name.endswith(".py")]
    sizes = {path: path.stat().st_size for path in paths if path.is_file() and os.access(path, os.R_OK)}
    return [
        {"path": str(path), "module": ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")}
        for path in sorted(sizes, key=lambda path: (-sizes[path], path))
    ]


def finished(broker: MemoryBroker, instance_ids: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the results of the runs. One that failed (its file is gone, say) is named and left out."""
    for instance_id in instance_ids:
        try:
            yield broker.result(instance_id)
        except RunFailed as error:
            print(error)


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib"))
    started = time.perf_counter()
    workflow = make_workflow()
    broker = MemoryBroker()
    instance_ids = broker.dispatch_many(workflow.to_schema(), find_modules(root))
    ProcessEngine(broker, [workflow]).work()
    results = list(finished(broker, instance_ids))
    seconds = time.perf_counter() - started

    print(f"{'module':40} {'lines':>8} {'functions':>9} {'complexity':>10}")
    for each in sorted(results, key=lambda result: -result["complexity"])[:10]:
        print(f"{each['module'][-40:]:40} {each['lines']:8,} {each['functions']:9,} {each['complexity']:10,}")
    lines = sum(each["lines"] for each in results)
    problems = sum("problem" in each for each in results)
    print(f"{len(results):,} files, {lines:,} lines in {seconds:.1f} s; {problems} of them are no valid Python")


if __name__ == "__main__":
    main()

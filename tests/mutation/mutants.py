"""Small bugs made by machine: each a module of the scheduler with one thing changed, as the code of one function."""

from __future__ import annotations

import ast
import copy
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mutant", "find_mutants"]

_OPPOSITE: dict[type[ast.AST], list[type[ast.AST]]] = {
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
}
_OTHER_CALL = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """One change."""

    path: Path
    line: int
    function: str  #: its qualified name
    before: str
    after: str
    code: types.CodeType  #: of that function, changed

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.function}: {self.before}  =>  {self.after}"


def find_mutants(path: Path) -> Iterator[Mutant]:
    """Yield all mutants of the functions of a module."""
    for function, owner in _functions(ast.parse(path.read_text())):
        for place, node in enumerate(_nodes(function)):
            for change in _changes(node):
                mutated = copy.deepcopy(function)
                target = _nodes(mutated)[place]
                changed = change(target)
                _replace(mutated, target, changed)
                code = _code_of(mutated, owner, path)
                line = getattr(node, "lineno", function.lineno)  # a comprehension has none
                yield Mutant(path, line, code.co_qualname, _text(node), _text(changed), code)  # type: ignore[attr-defined]


def _functions(module: ast.Module) -> Iterator[tuple[ast.FunctionDef, ast.ClassDef | None]]:
    """Yield the functions of a module, and the methods with their classes; what is nested in one is part of it."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef):
            yield node, None
        elif isinstance(node, ast.ClassDef):
            yield from ((each, node) for each in node.body if isinstance(each, ast.FunctionDef))


def _nodes(function: ast.FunctionDef) -> list[ast.AST]:
    return [node for statement in function.body for node in ast.walk(statement)]


def _text(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0].strip()


def _changes(node: ast.AST) -> Iterator[Callable[[ast.AST], ast.AST]]:
    """Yield what may be done to a node; each takes a copy of it and returns what comes in its place."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            for other in _OPPOSITE.get(type(operator), []):
                yield lambda copied, i=i, other=other: _with(copied, "ops", i, other())  # type: ignore[misc]
    elif isinstance(node, ast.BoolOp):
        yield lambda copied: ast.BoolOp(_OPPOSITE[type(copied.op)][0](), copied.values)  # type: ignore[attr-defined]
        for i in range(len(node.values)):
            yield lambda copied, i=i: _without(copied, i)  # type: ignore[misc]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield lambda copied: copied.operand  # type: ignore[attr-defined]
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _OPPOSITE:
        yield _with_operator
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _OTHER_CALL:
        yield lambda copied: ast.Call(ast.Name(_OTHER_CALL[copied.func.id], ast.Load()), copied.args, copied.keywords)  # type: ignore[attr-defined]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reversed":
        yield lambda copied: copied.args[0]  # type: ignore[attr-defined]
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield lambda copied: ast.Constant(not copied.value)  # type: ignore[attr-defined]
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield lambda copied: ast.Constant(copied.value + 1)  # type: ignore[attr-defined]
        yield lambda copied: ast.Constant(copied.value - 1)  # type: ignore[attr-defined]
    elif isinstance(node, ast.comprehension):
        for i in range(len(node.ifs)):
            yield lambda copied, i=i: _with(copied, "ifs", i, ast.Constant(True))  # type: ignore[misc]
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        if not isinstance(node, ast.While):
            yield lambda copied: _with_test(copied, True)
        yield lambda copied: _with_test(copied, False)
    if _can_be_left_out(node):
        yield lambda copied: ast.Pass()
    if isinstance(node, ast.Return) and node.value is not None and not _is_none_or_false(node.value):
        yield lambda copied: ast.Return(ast.Constant(None))


def _can_be_left_out(node: ast.AST) -> bool:
    """Whether a statement may go without a name being missed at once."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)  # a docstring
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets)
    if isinstance(node, ast.Return):
        return node.value is None
    return isinstance(node, ast.AugAssign | ast.Delete | ast.Raise | ast.Continue | ast.Break)


def _is_none_or_false(node: ast.AST) -> bool:
    """Whether None in its place would say the same; that False becomes True is a mutant of its own."""
    return isinstance(node, ast.Constant) and (node.value is None or node.value is False)


def _with(copied: ast.AST, field: str, i: int, value: ast.AST) -> ast.AST:
    changed = copy.deepcopy(copied)
    getattr(changed, field)[i] = value
    return changed


def _without(copied: ast.AST, i: int) -> ast.AST:
    assert isinstance(copied, ast.BoolOp)
    values = copied.values[:i] + copied.values[i + 1 :]
    return values[0] if len(values) == 1 else ast.BoolOp(copied.op, values)


def _with_operator(copied: ast.AST) -> ast.AST:
    changed = copy.deepcopy(copied)
    changed.op = _OPPOSITE[type(changed.op)][0]()  # type: ignore[attr-defined]
    return changed


def _with_test(copied: ast.AST, value: bool) -> ast.AST:
    changed = copy.deepcopy(copied)
    changed.test = ast.Constant(value)  # type: ignore[attr-defined]
    return changed


def _replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    ast.copy_location(new, old)
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list):
                value[:] = [new if each is old else each for each in value]


def _code_of(function: ast.FunctionDef | ast.ClassDef, owner: ast.ClassDef | None, path: Path) -> types.CodeType:
    """Return the code of a function, compiled alone or, for its qualified name, in a class of the same name."""
    path_to_it = [function.name]
    if owner is not None:
        path_to_it.insert(0, owner.name)
        function = ast.copy_location(ast.ClassDef(owner.name, [], [], [function], []), owner)
    code = compile(ast.fix_missing_locations(ast.Module([function], [])), str(path), "exec")
    for name in path_to_it:
        code = next(each for each in code.co_consts if isinstance(each, types.CodeType) and each.co_name == name)
    return code

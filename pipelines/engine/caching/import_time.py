"""
Code that runs when a file is imported: bodies of functions do not, defaults, decorators and classes do.
"""

import ast
from collections.abc import Iterable, Iterator

TARGETS = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete)


def evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that are evaluated then."""
    yield node
    for inner in _inner(node):
        yield from evaluated(inner)


def _inner(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from node.decorator_list
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        yield from filter(None, (*node.args.defaults, *node.args.kw_defaults))
    else:
        yield from ast.iter_child_nodes(node)


def names(statement: ast.AST) -> set[str]:
    """The names that are read then."""
    return {one.id for one in evaluated(statement) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)}


def handed(statement: ast.AST) -> set[str]:
    """The names that are called then, or given to what is called, decorators aside."""
    marked = {id(inner) for mark in marks(statement) for inner in ast.walk(mark)}
    calls = (one for one in evaluated(statement) if isinstance(one, ast.Call) and id(one) not in marked)
    return {name for call in calls for name in names(call)}


def marks(statement: ast.AST) -> list[ast.expr]:
    """The decorators of a statement and of what lies in it."""
    return [mark for one in evaluated(statement) for mark in getattr(one, "decorator_list", [])]


def calls(statement: ast.AST) -> list[ast.expr]:
    """Calls at import time, decorators besides."""
    marked = {id(mark) for mark in marks(statement)}
    return [one.func for one in evaluated(statement) if isinstance(one, ast.Call) and id(one) not in marked]


def stored(nodes: Iterable[ast.AST]) -> Iterator[ast.expr]:
    """The items and attributes that some nodes store into."""
    for one in nodes:
        if isinstance(one, TARGETS):
            targets = one.targets if isinstance(one, ast.Assign | ast.Delete) else [one.target]
            yield from (target for target in targets if isinstance(target, ast.Attribute | ast.Subscript))


def told(statement: ast.ClassDef) -> list[ast.expr]:
    """Calls and stores of a class when another is made from it."""
    own = [one for one in statement.body if getattr(one, "name", "") == "__init_subclass__"]
    nodes = [node for method in own for node in ast.walk(method)]
    return [*(one.func for one in nodes if isinstance(one, ast.Call)), *stored(nodes)]


def chain(node: ast.AST) -> tuple[str, tuple[str, ...]]:
    """The name that an expression begins with, and what is asked of it; no name where it begins otherwise."""
    asked: list[str] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            asked.insert(0, node.attr)
        elif not isinstance(node, ast.Subscript | ast.Call):
            return "", ()
        else:
            asked.insert(0, "[]")
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id, tuple(asked)

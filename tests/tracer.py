"""
A tracer: which functions of components/ ran while each step of a pipeline did, and which of them no key holds.

A pipeline runs in this process, as its steps would on Ray: the key of a step is right if whatever ran in it is in its
fingerprint, in that of a step that it needs, or of what is in no key.
"""

import ast
import inspect
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from numba.core.registry import CPUDispatcher

from components.runtime.user_code import importing
from pipelines.engine.caching.fingerprint import Root, is_in_no_key
from pipelines.engine.caching.modules import ROOT
from pipelines.engine.execution.executors import Here
from pipelines.engine.execution.scheduler_loop import Runner
from pipelines.engine.graph.plan_cache import Request, drawn
from pipelines.engine.store.store import Store

COMPREHENSIONS = {"<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>"}
COMPONENTS = str(ROOT / "components") + "/"


@dataclass
class Tracing(Here):
    """Runs each step in this process, and notes what ran."""

    ran: dict[str, set[Root]] = field(default_factory=dict)
    """key -> the definitions of components/ whose code did"""

    def __post_init__(self) -> None:
        super().__init__()

    def submit(self, node: Mapping[str, Any], run: str, address: str) -> None:
        with tracing() as codes:
            super().submit(node, run, address)
        self.ran.setdefault(node["key"], set()).update(map(definition_of, codes))


def unkeyed(request: Request, store: Store) -> dict[str, list[Root]]:
    """Title of a step -> the definitions that ran in it and that no key holds. Raises where a step fails."""
    nodes, tracer = drawn(request, store), Tracing()
    with importing(*request.own):
        outcome = Runner(store, "traced", nodes, lambda: tracer)()
    if not outcome.ok:
        raise AssertionError("\n".join(error["traceback"] for error in outcome.errors.values()))
    held = keyed(nodes, store)
    found = {node["title"]: sorted(tracer.ran[node["key"]] - held[node["key"]]) for node in nodes}
    return {title: [root for root in roots if not is_in_no_key(root[0])] for title, roots in found.items()}


def keyed(nodes: list[dict[str, Any]], store: Store) -> dict[str, set[Root]]:
    """Key of a step -> the definitions in it, and in the keys of the steps that it needs."""
    found: dict[str, set[Root]] = {}
    for node in nodes:  # each stands behind what it needs
        digest = node["ingredients"]["code"]["code"]
        listing = store.load(f"code/{digest}.json", json.loads)
        own = {(module, _named(label)) for module, labels in listing.items() for label in labels}
        found[node["key"]] = own.union(*(found[key] for key in node["needs"]))
    return found


def _named(label: str) -> str:
    """The definition of a label such as "constant LIMIT", "Learner", "field Learner.rows"."""
    return label.rpartition(" ")[2].partition(".")[0]


@contextmanager
def tracing() -> Iterator[set[CodeType]]:
    """The functions of components/ that run meanwhile, in whatever thread Python starts; and kernels, once it ended."""
    ran, found = set[CodeType](), set[CodeType]()
    before = sys.getprofile(), threading.getprofile()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            ran.add(frame.f_code)

    def call(kernel: CPUDispatcher, *arguments: Any, **named: Any) -> Any:
        found.update(one.py_func.__code__ for one in called_by(kernel))
        return super(CPUDispatcher, kernel).__call__(*arguments, **named)

    CPUDispatcher.__call__ = call
    threading.setprofile(note)  # type: ignore[arg-type]
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before[0])
        threading.setprofile(before[1])  # type: ignore[arg-type]
        del CPUDispatcher.__call__
        found |= {code for code in ran if is_function(code)}
        found -= {code for code in found if not code.co_filename.startswith(COMPONENTS)}


def is_function(code: CodeType) -> bool:
    """Not the body of a module or of a class, nor a comprehension in one, which run when they are imported."""
    return bool(code.co_flags & inspect.CO_OPTIMIZED) and code.co_qualname not in COMPREHENSIONS


def definition_of(code: CodeType) -> Root:
    """The module and the name at its top level that some code lies in."""
    path = Path(code.co_filename)
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return module, next(name for first, last, name in lines_of(path) if first <= code.co_firstlineno <= last)


@cache
def lines_of(path: Path) -> list[tuple[int, int, str]]:
    """The first and the last line of each statement at the top of a file, and the name that it defines."""
    return [(first_line(one), one.end_lineno or 0, defined_by(one)) for one in ast.parse(path.read_bytes()).body]


def first_line(statement: ast.stmt) -> int:
    return min([statement.lineno, *(mark.lineno for mark in getattr(statement, "decorator_list", ()))])


def defined_by(statement: ast.stmt) -> str:
    """The name as `_named` has it."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return statement.name
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return targets[0].id if isinstance(targets[0], ast.Name) else "statements"


def called_by(kernel: CPUDispatcher) -> set[CPUDispatcher]:
    """A kernel and those that its machine code may call: no profiler sees these."""
    found: set[CPUDispatcher] = set()
    waiting = [kernel]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            named = (one.py_func.__globals__.get(name) for name in one.py_func.__code__.co_names)
            waiting += [value for value in named if isinstance(value, CPUDispatcher)]
    return found

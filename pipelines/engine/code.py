"""
What code a step depends on, read from the source without importing it.

The digest of a module is that of its syntax tree without comments, docstrings and bare strings, so that words may be
mended without anything running again. A closure is a module and every project module that it imports, transitively.
"""

import ast
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("components", "pipelines")


@dataclass(frozen=True)
class Module:
    """One file of the project: what it says, what it imports, which data files it reads."""

    name: str
    path: str
    digest: str
    imports: tuple[str, ...]
    """project modules"""
    packages: tuple[str, ...]
    """top names of everything else that is not Python's own"""
    resources: tuple[str, ...]
    """data files that it asks `resource()` for"""


def path_of(name: str) -> Path | None:
    """The file of a project module; None if there is none of that name."""
    base = ROOT.joinpath(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _parsed(path: str, stamp: tuple[int, int]) -> tuple[str, frozenset[str], frozenset[str]]:
    """The digest of a file, the dotted names that it imports, and the data files that it names."""
    tree = ast.parse(Path(path).read_bytes())
    names, resources = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = _absolute(node, Path(path))
            names |= {whole} | {f"{whole}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and _called(node) == "resource":
            resources |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    text = ast.dump(_without_words(tree))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), frozenset(names), frozenset(resources)


def _called(node: ast.Call) -> str:
    """The last word of what is called."""
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module that is imported from: `from .base import x` in components/steps/a.py is components.steps.base."""
    if not node.level or not path.is_relative_to(ROOT):
        return node.module or ""
    package = path.relative_to(ROOT).parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def _without_words(tree: ast.AST) -> ast.AST:
    """The tree less every statement that is only a string."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                setattr(node, name, [s for s in block if not _is_words(s)])
    return tree


def _is_words(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def module(name: str, path: Path | None = None) -> Module:
    """A project module, read."""
    path = path or path_of(name)
    if path is None:
        raise FileNotFoundError(f"no project module {name}")
    stat = path.stat()
    digest, names, resources = _parsed(str(path), (stat.st_size, stat.st_mtime_ns))
    inside = {n for n in names if n.split(".")[0] in PROJECT}
    own = sorted(n for n in inside if path_of(n) and n != name)
    outside = sorted({n.split(".")[0] for n in names - inside} - _standard())
    return Module(name, str(path), digest, tuple(own), tuple(outside), tuple(sorted(resources)))


@cache
def _standard() -> frozenset[str]:
    import sys

    return frozenset(sys.stdlib_module_names)


def closure(names: Iterable[str]) -> list[Module]:
    """These modules and all that they import, in the order of their names."""
    found: dict[str, Module] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found and path_of(name):
            found[name] = module(name)
            waiting += found[name].imports
    return [found[name] for name in sorted(found)]


def dependencies(names: Iterable[str]) -> dict[str, str]:
    """
    What a key holds of code: module -> digest, "package numpy" -> version, "data furniture.bin" -> digest.

    Files of the engine are in no key: they decide when a step runs, not what it makes.
    """
    modules = [m for m in closure(names) if not m.name.startswith("pipelines.engine")]
    said = {m.name: m.digest for m in modules}
    said |= {f"package {p}": v for p, v in _versions(tuple(sorted({p for m in modules for p in m.packages}))).items()}
    said |= {f"data {r}": data_digest(r) for m in modules for r in m.resources}
    return said


@cache
def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The public version of each package that is installed: 2.13.0, not 2.13.0+cpu."""
    by_import = metadata.packages_distributions()
    found = {}
    for package in packages:
        for distribution in sorted(set(by_import.get(package, ()))):
            found[package] = metadata.version(distribution).partition("+")[0]
    return found


def data_path(name: str) -> Path:
    return ROOT / "components" / "sources" / "data" / name


def data_digest(name: str) -> str:
    """The digest of a packaged data file."""
    path = data_path(name)
    if not path.exists():
        return "missing"
    stat = path.stat()
    return _file_digest(str(path), (stat.st_size, stat.st_mtime_ns))


@cache
def _file_digest(path: str, stamp: tuple[int, int]) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def raw_digest(paths: Iterable[Path]) -> str:
    """A digest of files' bytes as they are, comments included: what a remembered plan depends on."""
    whole = hashlib.blake2b(digest_size=16)
    for path in sorted(paths):
        whole.update(os.path.relpath(path, ROOT).encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()

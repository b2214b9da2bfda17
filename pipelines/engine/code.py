"""
What code a step depends on, read from the source without importing it.

The digest of a module is that of its syntax tree without comments, docstrings and bare strings, so that words may be
mended without anything running again. A closure is a module and every project module that it imports, transitively.
"""

import ast
import hashlib
import importlib.util
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from components.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "constraints.txt"


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
    definitions: Mapping[str, str]
    """what it defines -> digest: functions, methods, constants; `rayfield explain` compares these"""


@dataclass(frozen=True)
class Text:
    """What can be read of one file by itself."""

    digest: str
    names: frozenset[str]
    """dotted names that it imports"""
    beside: frozenset[str]
    """files that it names as text: "served.py" """
    resources: frozenset[str]
    definitions: Mapping[str, str]


def path_of(name: str) -> Path | None:
    """The file of a project module; None if there is none of that name."""
    base = ROOT.joinpath(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _read(data: bytes, path: str) -> Text:
    tree = ast.parse(data)
    names, texts = set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = _absolute(node, path)
            names |= {whole} | {f"{whole}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".py"):
            texts.add(node.value)
    resources = frozenset(_resources(tree, path))
    said = list(_definitions(_without_words(tree)))
    parts: dict[str, str] = {}
    for name, text in said:
        parts[name] = _digest(parts.get(name, "") + text)
    return Text(_digest("\n".join(text for _, text in said)), frozenset(names), frozenset(texts), resources, parts)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _resources(tree: ast.AST, path: str) -> Iterator[str]:
    """The data files that a file asks for, under whatever name it calls `resource`."""
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    called = {alias.asname for node in imported for alias in node.names if alias.name == "resource"} | {"resource"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in called:
            named = [*node.args, *(keyword.value for keyword in node.keywords)]
            if len(named) != 1 or not isinstance(named[0], ast.Constant):
                raise UsageError(
                    f"resource() takes a name in quotes, for a key holds the file's bytes, but line {node.lineno} of "
                    f"{path} has {ast.unparse(node)}. Write the name there."
                )
            yield str(named[0].value)


def _definitions(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Every statement of a module with the name by which people know it; a class is its methods and its fields."""
    for statement in tree.body:
        if not isinstance(statement, ast.ClassDef):
            yield _name(statement), ast.dump(statement)
            continue
        own, statement.body = statement.body, []
        yield statement.name, ast.dump(statement)
        for inner in own:
            word, _, name = _name(inner).rpartition(" ")
            yield f"{word.replace('constant', 'field')} {statement.name}.{name}".strip(), ast.dump(inner)


def _name(statement: ast.stmt) -> str:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return statement.name
    if isinstance(statement, ast.Assign):
        return f"constant {ast.unparse(statement.targets[0])}"
    if isinstance(statement, ast.AnnAssign | ast.AugAssign):
        return f"constant {ast.unparse(statement.target)}"
    return "imports" if isinstance(statement, ast.Import | ast.ImportFrom) else "statements"


def _absolute(node: ast.ImportFrom, path: str) -> str:
    """The module that is imported from: `from .base import x` in components/steps/a.py is components.steps.base."""
    if not node.level or os.path.isabs(path):
        return node.module or ""
    package = Path(path).parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def _without_words(tree: ast.Module) -> ast.Module:
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
    text = _read(path.read_bytes(), str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path))
    near = {f"{name.rpartition('.')[0]}.{file.removesuffix('.py')}" for file in text.beside if file.count(".") == 1}
    folders = {".".join(word.split(".")[:n]) for word in {name, *text.names} for n in range(1, word.count(".") + 1)}
    own = {word for word in text.names | near | folders if path_of(word)}
    # a name under a project's module is something that this module defines
    tops = {word.split(".")[0] for word in text.names - own} - {word.split(".")[0] for word in own}
    outside = sorted(tops - _standard() - {""})
    return Module(
        name,
        str(path),
        text.digest,
        tuple(sorted(own - {name})),
        tuple(outside),
        tuple(sorted(text.resources)),
        text.definitions,
    )


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


def is_engine(name: str) -> bool:
    """Files of the engine are in no key: they decide when a step runs, not what it makes."""
    return name == "pipelines" or name.startswith("pipelines.engine")


def dependencies(names: Iterable[str]) -> dict[str, str]:
    """What a key holds of code: module -> digest, "package numpy" -> version, "data furniture.bin" -> digest."""
    modules = [m for m in closure(names) if not is_engine(m.name)]
    said = {m.name: m.digest for m in modules}
    said |= {f"package {p}": v for p, v in _versions(tuple(sorted({p for m in modules for p in m.packages}))).items()}
    said |= {f"data {r}": data_digest(r) for m in modules for r in m.resources}
    return said


@cache
def _versions(imported: tuple[str, ...]) -> dict[str, str]:
    """
    The public version of each package that has one of these names: 2.13.0, not 2.13.0+cpu.

    One that is not installed here has the version that is locked: a machine with a GPU has gsplat, a laptop has not,
    and both give a step the same key.
    """
    found: dict[str, str] = {}
    for name in imported:
        for package in _packages().get(name) or [name]:
            normal = package.lower().replace("_", "-")
            found[normal] = (_installed(package) or locked().get(normal) or _unpackaged(name)).partition("+")[0]
    return dict(sorted(found.items()))


@cache
def _packages() -> Mapping[str, list[str]]:
    """Import -> the packages that bring it: the file lists of everything that is installed, a second's reading."""
    return metadata.packages_distributions()


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def locked() -> dict[str, str]:
    """Package -> version, as constraints.txt has them."""
    lines = LOCK.read_text().splitlines() if LOCK.exists() else []
    pairs = (line.partition("#")[0].partition(";")[0].partition("==") for line in lines)
    return {name.strip().lower().replace("_", "-"): version.strip() for name, _, version in pairs if version}


def _unpackaged(name: str) -> str:
    """What stands for the version of a module that no package brought: a digest of its source."""
    found = importlib.util.find_spec(name)
    if found is None or not found.origin:
        return "missing"
    path = Path(found.origin)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    return _digest("".join(_file_digest(str(file), _stamp(file)) for file in files))


def _stamp(path: Path) -> tuple[int, int, int]:
    """Size and time; a file of this very second may change again without another time, so its stamp holds once."""
    stat, now = path.stat(), time.time_ns()
    return stat.st_size, stat.st_mtime_ns, now if now - stat.st_mtime_ns < 2e9 else 0


def data_path(name: str) -> Path:
    return ROOT / "components" / "sources" / "data" / name


def data_digest(name: str) -> str:
    """The digest of a packaged data file."""
    path = data_path(name)
    if not path.exists():
        return "missing"
    return _file_digest(str(path), _stamp(path))


@cache
def _file_digest(path: str, stamp: tuple[int, int, int]) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def raw_digest(paths: Iterable[Path]) -> str:
    """A digest of files' bytes as they are, comments included: what a remembered plan depends on."""
    whole = hashlib.blake2b(digest_size=16)
    for path in sorted(paths):
        whole.update(os.path.relpath(path, ROOT).encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()

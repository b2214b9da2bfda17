"""
What code a step depends on, read from the source without importing it.

The digest of a module is that of its syntax tree without comments, docstrings and bare strings, so that words may be
mended without anything running again. A closure is a module and every project module that it imports, transitively.
"""

import ast
import hashlib
import importlib.util
import json
import os
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

from components.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "constraints.txt"
SEEKERS = frozenset(
    f"components/{file}.py" for file in ("family", "runtime/plain", "resource", "source", "steps/card", "steps/upload")
)
"""files that look for what their callers name: it is in the callers' keys, or it is all of components/"""


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
    absent: tuple[str, ...]
    """names that would be project modules, had they a file: with one they are imported"""
    hidden: tuple[str, ...]
    """what it uses that no key could hold, in words"""
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
    hidden: tuple[str, ...]
    definitions: Mapping[str, str]


def path_of(name: str) -> Path | None:
    """The file of a project module; None if there is none of that name."""
    for candidate in paths_of(name):
        if candidate.is_file():
            return candidate
    return None


def paths_of(name: str) -> tuple[Path, Path]:
    """Where the file of a project module of this name may be."""
    base = ROOT.joinpath(*name.split("."))
    return base.parent / f"{base.name}.py", base / "__init__.py"


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
    names |= set(_by_name(tree, path))
    hidden = () if path in SEEKERS else (*_unnamed(tree, path), *_beside(tree, path))
    said = list(_definitions(_without_words(tree)))
    parts: dict[str, str] = {}
    for name, text in said:
        parts[name] = _digest(parts.get(name, "") + text)
    whole = _digest("\n".join(text for _, text in said))
    return Text(whole, frozenset(names), frozenset(texts), resources, hidden, parts)


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


def _imports_by_name(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls of `import_module` and `__import__`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            yield node


def _called(node: ast.Call) -> str:
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


def _quoted(node: ast.Call) -> str:
    """The first argument, if it is text in quotes; else nothing."""
    first = node.args[0] if node.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def _by_name(tree: ast.AST, path: str) -> Iterator[str]:
    """The modules that are imported by a name in quotes; one with dots before it is taken from the file's folder."""
    for node in _imports_by_name(tree):
        name = _quoted(node)
        level = len(name) - len(name.lstrip("."))
        yield _absolute(ast.ImportFrom(name[level:] or None, [], level), path)


def _unnamed(tree: ast.AST, path: str) -> Iterator[str]:
    for node in _imports_by_name(tree):
        if not _quoted(node):
            yield (
                "An import takes a name in quotes, for a key holds the module's code, but "
                f"line {node.lineno} of {path} has {ast.unparse(node)}. Write the name there."
            )


def _beside(tree: ast.AST, path: str) -> Iterator[str]:
    """What is read by the place of the file; a module that is named beside it is followed."""
    followed = {id(inner) for node in ast.walk(tree) if _names_module(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name | ast.Attribute) or id(node) in followed:
            continue
        if "__file__" in (getattr(node, "id", ""), getattr(node, "attr", "")):
            yield (
                f"A data file is asked for by its name, for a key holds its bytes, but line {node.lineno} of {path} "
                'has __file__. Move the file to components/sources/data, and write resource("NAME").'
            )


def _names_module(node: ast.AST) -> bool:
    """Whether this is `Path(__file__).with_name("module.py")`."""
    return isinstance(node, ast.Call) and _called(node) == "with_name" and _quoted(node).endswith(".py")


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
    named = (text.names | near) - {""}
    folders = {".".join(word.split(".")[:n]) for word in {name, *text.names} for n in range(1, word.count(".") + 1)}
    own = {word for word in named | folders if path_of(word)}
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
        tuple(sorted(word for word in named - own if paths_of(word)[0].parent.is_dir())),
        text.hidden,
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


def companions(path: Path) -> list[tuple[str, Path]]:
    """A file and all that it imports of its own folder, by their names there: what goes along where the file goes."""
    found: dict[str, Path] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        name = file.relative_to(path.parent).as_posix()
        if name not in found:
            found[name] = file
            words = _read(file.read_bytes(), name).names - {""}
            waiting += [near for word in words for near in _near(path.parent, word)]
    return sorted(found.items())


def _near(folder: Path, name: str) -> Iterator[Path]:
    """The files of a folder that an import of this name runs: a package's own come before its module's."""
    parts = name.split(".")
    for n in range(1, len(parts) + 1):
        base = folder.joinpath(*parts[:n])
        yield from filter(Path.is_file, (base.parent / f"{base.name}.py", base / "__init__.py"))


def is_engine(name: str) -> bool:
    """Files of the engine are in no key: they decide when a step runs, not what it makes."""
    return name == "pipelines" or name.startswith("pipelines.engine")


def dependencies(names: Iterable[str]) -> dict[str, str]:
    """What a key holds of code: module -> digest, "package numpy" -> version, "data furniture.bin" -> digest."""
    modules = [m for m in closure(names) if not is_engine(m.name)]
    for problem in (words for m in modules for words in m.hidden):
        raise UsageError(problem)
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
            version = _installed(package) if _is_settled(package, name) else ""
            found[normal] = (version or _of_sources(name) or locked().get(normal, "missing")).partition("+")[0]
    return dict(sorted(found.items()))


def forget() -> None:
    """Looks for packages anew."""
    _versions.cache_clear()
    importlib.invalidate_caches()


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


def _is_settled(package: str, name: str) -> bool:
    """Whether a package's version says what its code is: not so if it was installed to be edited."""
    try:
        installed = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return True
    if json.loads(installed.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"):
        return False
    spec, folder = _spec(name), Path(str(installed.locate_file("")))
    if spec is None or not spec.has_location or is_brought(str(spec.origin)):
        return True  # a namespace of several packages, or where installers put things
    # beside a folder x.dist-info what it describes was installed; beside an x.egg-info lie the sources themselves
    return Path(str(spec.origin)).is_relative_to(folder) and installed.read_text("METADATA") is not None


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a module that was made by hand
        return None


@cache
def is_brought(path: str) -> bool:
    """Whether a file came with Python or with an installed package: it changes with a version only."""
    return bool({"site-packages", "dist-packages"} & {*Path(path).parts}) or path.startswith(_pythons())


@cache
def _pythons() -> tuple[str, ...]:
    return tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})


def found_now(name: str) -> str:
    """What an import of this name finds here and now: something installed, or sources as they are stamped."""
    spec = _spec(name)
    if spec is not None and spec.origin and is_brought(spec.origin):
        return "installed"
    return repr([(str(file), *_stamp(file)[:2]) for _, file in _sources(name)])


def _sources(name: str) -> list[tuple[str, Path]]:
    """The source files of a module that may be edited, with their names in it."""
    spec = _spec(name)
    folders = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
    files = [(file.relative_to(folder).as_posix(), file) for folder in folders for file in folder.rglob("*.py")]
    alone = [Path(spec.origin)] if spec and spec.has_location and spec.origin and not folders else []
    return sorted([*files, *((file.name, file) for file in alone if file.is_file())])


def _of_sources(name: str) -> str:
    """What stands for the version of a module that no package brought: a digest of its sources."""
    files = [(inner, file) for inner, file in _sources(name) if not is_brought(str(file))]
    return (
        _digest("".join(f"{inner} {_file_digest(str(file), _stamp(file))}\n" for inner, file in files)) if files else ""
    )


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

"""
Where code lies, and what it comes with: modules, what they import, packages, data files. Nothing is imported.

A module is the project's own if its file may be edited: it lies in this project, or beside a pipeline of one's own, or
in a package that was installed to be edited. Whatever else there is comes with Python or with an installed package, and
changes with its version alone.
"""

import hashlib
import importlib.util
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path

from components.errors import UsageError
from components.runtime.module_files import is_brought
from pipelines.engine.caching.definitions import Source, digest_of, package_of, read, shown

ROOT = Path(__file__).resolve().parents[3]
LOCK = ROOT / "constraints.txt"
FOR_PEOPLE = re.compile(r"(README|LICEN[CS]E|CHANGELOG)\b|.*\.(md|rst|log|pyi)$|py\.typed$", re.IGNORECASE)
"""files of a package that no code of it reads"""
OURS = ("components", "pipelines")
"""what names of this project begin with: nobody else's are looked for under these"""


@dataclass(frozen=True)
class Module:
    """One file of code that may be edited, and what it imports anywhere in it."""

    name: str
    path: str
    imports: tuple[str, ...]
    """modules that may be edited"""
    packages: tuple[str, ...]
    """top names of everything else that is not Python's own"""
    absent: tuple[str, ...]
    """names that would be modules of this project, had they a file: with one they are imported"""


def path_of(name: str) -> Path | None:
    """The file of a module that may be edited; None if there is none of that name."""
    top = name.split(".")[0]
    if top not in OURS and (found := _outside(name)):
        return found
    here = next(filter(Path.is_file, paths_of(name)), None)
    # a file of one's own, or a package, may be called as one at this project's root: it comes first on Python's path
    return here if here is None or top in OURS or _spec(top) is None else None


def paths_of(name: str) -> tuple[Path, Path]:
    """Where the file of a module of this name would be in this project."""
    base = ROOT.joinpath(*name.split("."))
    return base.parent / f"{base.name}.py", base / "__init__.py"


def _outside(name: str) -> Path | None:
    """The file of a module elsewhere on Python's path, if it may be edited."""
    file, _ = _place(name)
    return file if file and file.suffix == ".py" and file.is_file() else None


def is_folder(name: str) -> bool:
    """True if a package that may be edited has no file of its own."""
    if name.split(".")[0] in OURS:
        return paths_of(name)[1].parent.is_dir()
    file, folders = _place(name)
    return file is None and bool(folders)


def _place(name: str) -> tuple[Path | None, list[Path]]:
    """The file of a module elsewhere that may be edited, and a package's folders. Nothing above it is imported."""
    top, *parts = name.split(".")
    spec = _top(top)
    file = Path(spec.origin) if spec and spec.has_location and spec.origin else None
    folders = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
    for part in parts:
        file, folders = _inner(folders, part)
    return file, folders


def _inner(folders: Iterable[Path], name: str) -> tuple[Path | None, list[Path]]:
    """Find a name in a package's folders as Python does: a package, a library, a module; else bare folders."""
    folders = list(folders)
    for folder in folders:
        if (package := folder / name / "__init__.py").is_file():
            return package, [package.parent]
        for suffix in (*EXTENSION_SUFFIXES, ".py"):
            if (module := folder / f"{name}{suffix}").is_file():
                return module, []
    return None, [folder / name for folder in folders if (folder / name).is_dir()]


@cache
def _top(name: str) -> ModuleSpec | None:
    """Where a top name is found, if its code may be edited and so counts by its text."""
    if name in sys.stdlib_module_names or not name.isidentifier():
        return None
    spec = _spec(name)
    places = [*(spec.submodule_search_locations or ()), spec.origin if spec.has_location else None] if spec else []
    if all(place is None or is_brought(place) for place in places):
        return None
    packages = [package for package in _packages().get(name) or [name] if _installed(package)]
    return None if packages and all(_is_settled(package, name) for package in packages) else spec


def text_of(name: str, path: Path | None = None) -> Source:
    """The source of a module, read."""
    path = path or path_of(name)
    if path is None:
        raise FileNotFoundError(f"no module {name}")
    data = path.read_bytes()
    hold(path, data)
    return read(data, shown(path, ROOT), package_of(name, path))


@contextmanager
def unchanging() -> Iterator[None]:
    """Meanwhile no file may change between two looks at it: a key would hold the one, and a run execute the other."""
    _held.append({})
    try:
        yield
    finally:
        _held.pop()


_held: list[dict[str, bytes]] = []
"""file -> what was read of it first"""


def hold(path: Path, data: bytes) -> None:
    """Raises UsageError where a file is not what it was when it was read first, meanwhile."""
    if _held and _held[-1].setdefault(str(path), data) != data:
        raise UsageError(
            f"A plan holds code as it was read, but {path} changed while it was drawn. Run again: it is drawn anew."
        )


def module(name: str, path: Path | None = None) -> Module:
    """A module, and what it imports."""
    path = path or path_of(name)
    words = set(text_of(name, path).everywhere)
    if path is not None:
        _refuse_standard(path, words)
    folders = {".".join(word.split(".")[:n]) for word in {name, *words} for n in range(1, word.count(".") + 1)}
    own = {word for word in words | folders if path_of(word)}
    # a name under a module of the project's is something that this module defines
    tops = {word.split(".")[0] for word in words - own} - {word.split(".")[0] for word in own}
    absent = (word for word in words - own if paths_of(word)[0].parent.is_dir())
    outside = tops - sys.stdlib_module_names
    return Module(name, str(path), tuple(sorted(own - {name})), tuple(sorted(outside)), tuple(sorted(absent)))


def _refuse_standard(path: Path, words: Iterable[str]) -> None:
    """Refuses a file beside one's own code with the name of a module of Python's: an import gives one or the other."""
    if path.is_relative_to(ROOT) or is_brought(str(path)) or str(path.parent) not in sys.path:
        return
    for top in sorted({word.split(".")[0] for word in words} & sys.stdlib_module_names):
        if (beside := path.parent / f"{top}.py").is_file():
            raise UsageError(
                f"A module of one's own has another name than Python's have, but {path} imports {top}, and {beside} "
                "is beside it. Rename that file."
            )


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
            words = read(file.read_bytes(), name, ".".join(Path(name).parent.parts)).everywhere
            waiting += [near for word in words for near in _near(path.parent, word)]
    return sorted(found.items())


def _near(folder: Path, name: str) -> Iterator[Path]:
    """The files of a folder that an import of this name runs: a package's own come before its module's."""
    parts = name.split(".")
    for n in range(1, len(parts) + 1):
        base = folder.joinpath(*parts[:n])
        yield from filter(Path.is_file, (base.parent / f"{base.name}.py", base / "__init__.py"))


def versions(imported: Iterable[str]) -> dict[str, str]:
    """Package -> version, of the packages that have these names."""
    return _versions(tuple(sorted(set(imported))))


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
            version = _public(package) if _is_settled(package, name) else ""
            found[normal] = version or _of_sources(name) or locked().get(normal, "missing").partition("+")[0]
    return dict(sorted(found.items()))


def forget() -> None:
    """Looks for packages anew."""
    _versions.cache_clear()
    _top.cache_clear()
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


def _public(package: str) -> str:
    """
    The version of an installed package: 2.13.0, not 2.13.0+cpu.

    One that came from an address, a commit of git say, has the digest of its files besides: other commits have the
    same version.
    """
    version = _installed(package).partition("+")[0]
    try:
        told = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return version
    if not (origin := told.read_text("direct_url.json")):
        return version
    lines = (told.read_text("RECORD") or "").splitlines()
    files = sorted(line for line in lines if ",sha256=" in line and ".dist-info/" not in line)
    return f"{version} {digest_of(json.dumps([json.loads(origin).get('vcs_info'), files]))}"


def locked() -> dict[str, str]:
    """Package -> version, as constraints.txt has them."""
    lines = LOCK.read_text().splitlines() if LOCK.exists() else []
    pairs = (line.partition("#")[0].partition(";")[0].partition("==") for line in lines)
    return {name.strip().lower().replace("_", "-"): version.strip() for name, _, version in pairs if version}


def _is_settled(package: str, name: str) -> bool:
    """True if a package's version says what its code is: not so if it was installed to be edited."""
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
        return PathFinder.find_spec(name)


def found_now(name: str) -> str:
    """The finding of an import of this name here and now: something installed, or sources as they are stamped."""
    spec = _spec(name)
    if spec is not None and spec.origin and is_brought(spec.origin):
        return "installed"
    return repr([(str(file), *_stamp(file)[:2]) for _, file in _sources(name)])


def _sources(name: str) -> list[tuple[str, Path]]:
    """The files of a module that may be edited, with their names in it: code, libraries and data."""
    spec = _spec(name)
    folders = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
    files = [
        (file.relative_to(folder).as_posix(), file)
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file()
        and not any(part.startswith((".", "__pycache__")) for part in file.relative_to(folder).parts)
        and not FOR_PEOPLE.match(file.name)
    ]
    alone = [Path(spec.origin)] if spec and spec.has_location and spec.origin and not folders else []
    return sorted([*files, *((file.name, file) for file in alone if file.is_file())])


def _of_sources(name: str) -> str:
    """A digest of its sources, in place of a version, for a module that no package brought."""
    files = [(inner, file) for inner, file in _sources(name) if not is_brought(str(file))]
    return (
        digest_of("".join(f"{inner} {_file_digest(str(file), _stamp(file))}\n" for inner, file in files))
        if files
        else ""
    )


def files_of(name: str) -> dict[str, str]:
    """The files beside the code of a module that may be edited, libraries and data -> digest."""
    folder = name.split(".")[0]
    return {
        f"{folder}/{inner}": _file_digest(str(file), _stamp(file))
        for inner, file in _sources(folder)
        if file.suffix != ".py"
    }


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


def standard() -> frozenset[str]:
    """The names of Python's own modules."""
    return frozenset(sys.stdlib_module_names)

"""
Code of one's own: files outside this project, asked for by their paths.

A file shapes.py is the module rayfield_shapes, so that one called random.py hides nobody's; what lies beside it is
imported as by `python shapes.py`.
"""

import importlib
import os
import re
import sys
import traceback
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

from components.errors import UsageError, nearest
from components.runtime.module_files import is_brought
from components.runtime.serialization import allow

ROOT = Path(__file__).resolve().parents[2]
OURS = ("components", "pipelines")
PREFIX = "rayfield_"
WRITTEN = re.compile(r"(?P<path>(?:(?! --)[^,])+?\.py)(?::(?P<name>\w*))?(?=[\s,]|$)")
"""PATH.py or PATH.py:Name, in a text"""

_files: dict[str, Path] = {}
"""module -> file, of what may be imported now"""


def is_own(path: Path) -> bool:
    """True if a file is one's own: not of components/ or pipelines/."""
    return not (path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OURS)


def module_of(path: Path) -> str:
    """The name of a file's module."""
    if is_own(path):
        return PREFIX + re.sub(r"\W", "_", path.stem)
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@contextmanager
def importing(*paths: Path) -> Iterator[None]:
    """Meanwhile these files and what lies beside them can be imported; afterwards this process has nothing of them."""
    own = [path.resolve() for path in paths if is_own(path.resolve())]
    folders = [one for one in dict.fromkeys(str(path.parent) for path in own) if one not in sys.path[:1]]
    held, before, cached = dict(_files), set(sys.modules), sys.dont_write_bytecode
    variables, working = dict(os.environ), os.getcwd()
    # Python knows what it compiled by whole seconds and a size: an edit may be as large, and as soon
    sys.dont_write_bytecode = True
    sys.path[:0] = folders
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    try:
        for path in own:
            _add(path)
        yield
    except (ImportError, SyntaxError) as error:
        raise _told(error) from None
    finally:
        sys.dont_write_bytecode = cached
        for folder in folders:
            sys.path.remove(folder)
        if os.environ != variables:  # what code sets when it is imported is set again in the process of its steps
            os.environ.clear()
            os.environ.update(variables)
        os.chdir(working)
        left = imported() - before
        _files.clear()
        _files.update(held)
        for name in left - imported():
            del sys.modules[name]  # another file may have modules of the same names beside it


def _add(path: Path) -> None:
    name = module_of(path)
    if _files.setdefault(name, path) != path:
        raise UsageError(
            f"Files of one's own differ in their names, but {_files[name]} and {path} are both {path.name}. Rename one."
        )


class _Finder:
    """Finds the files that were asked for by their paths, and refuses a name that two of their folders have."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name in _files:
            return spec_from_file_location(name, _files[name])
        folders = sorted({file.parent for file in _files.values()}) if path is None else []
        near = [f for one in folders for f in (one / f"{name}.py", one / name / "__init__.py") if f.is_file()]
        if len({file.read_bytes() for file in near}) > 1:
            raise UsageError(
                f"What lies beside files of one's own differs in its names, but {near[0]} and {near[1]} do not. "
                "Rename one, or put all into one folder."
            )
        return None


def imported() -> set[str]:
    """The modules of one's own that this process has: files that were asked for, and what lies beside them."""
    places = {str(file.parent) for file in _files.values()}
    found = {name for name in list(sys.modules) if name in _files}
    for name, module in list(sys.modules.items()):
        file, top = getattr(module, "__file__", None) or "", name.split(".")[0]
        near = (start for one in places for start in (f"{one}{os.sep}{top}.py", f"{one}{os.sep}{top}{os.sep}"))
        if top not in OURS and file.startswith(tuple(near)):
            found.add(name)
    return found


def _told(error: ImportError | SyntaxError) -> Exception:
    """The mistake in one line, if it was made in a file of the user's."""
    if isinstance(error, SyntaxError):
        file, line, words = error.filename or "", error.lineno, f"is not Python: {error.msg}."
    else:
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen importlib")
        ]
        file, line = frames[-1].filename, frames[-1].lineno
        remedy = "Install it, or put it beside the pipeline or on PYTHONPATH."
        if (error.name or "").split(".")[0] in OURS:
            remedy = "CHANGELOG.md says what was moved or renamed."
        words = f"imports what is not there: {error}. {remedy}"
    ours = file.startswith((f"{ROOT / 'pipelines' / 'engine'}{os.sep}", f"{ROOT / 'components' / 'runtime'}{os.sep}"))
    return error if ours or is_brought(file) else UsageError(f"{file}, line {line}, {words}")


def loaded(path: Path) -> ModuleType:
    """The module of a file."""
    with importing(path):
        return importlib.import_module(module_of(path.resolve()))


def class_in(text: str, base: type, noun: str, nouns: str) -> type:
    """The class of a kind that PATH.py defines, or PATH.py:Name where it defines several."""
    said = WRITTEN.fullmatch(text)
    assert said is not None
    file, name = Path(said["path"]), said["name"]
    if not file.is_file():
        raise UsageError(f"No file {file}. `rayfield new {noun} NAME` writes a {noun} of your own.")
    found = classes_in(loaded(file), base)
    if name and name not in found:
        raise UsageError(
            f"{file} has no {noun} {name!r}.{nearest(name, list(found))} It has {', '.join(found) or 'none'}."
        )
    if not found:
        raise UsageError(f"{file} defines no {noun}. `rayfield new {noun} NAME` writes one to begin with.")
    if not name and len(found) > 1:
        raise UsageError(
            f"{file} defines several {nouns}, {' and '.join(found)}. Say which: {file}:{next(iter(found))}."
        )
    return found[name or next(iter(found))]


def classes_in(module: ModuleType, base: type) -> dict[str, type]:
    """The classes of a kind that a module itself defines, less those that begin with _."""
    return {
        name: kind
        for name, kind in vars(module).items()
        if isinstance(kind, type)
        and issubclass(kind, base)
        and kind.__module__ == module.__name__
        and not name.startswith("_")
    }


def written(text: str) -> list[Path]:
    """The files of one's own code that a text names, as PATH.py or PATH.py:Name."""
    return [path for one in WRITTEN.finditer(text) if (path := Path(one["path"].strip())).is_file()]


def in_full(text: str) -> str:
    """The same text with the paths of one's own code made absolute."""
    for path in written(text):
        text = text.replace(str(path), str(path.resolve()), 1)
    return text


@contextmanager
def own_code(modules: Sequence[str], folder: Path) -> Iterator[None]:
    """
    Meanwhile a model names classes that came with it, from the code beside its folder, where MLflow puts it.

    Whatever else has modules of the same names, a later edition of that code say, keeps its own. Afterwards no name
    leads to the model's, so that Ray's workers, which have no such module, are sent its classes with their code.
    """
    if not modules:
        yield
        return
    allow(modules)
    tops = {path.stem for path in folder.iterdir()} - {"components"}
    others = {name: module for name, module in list(sys.modules.items()) if name.split(".")[0] in tops}
    _forget(tops)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.path.append(str(folder))  # for what a function imports when it is called
        _forget(tops)
        sys.modules.update(others)


def _forget(tops: Container[str]) -> None:
    for name in [name for name in list(sys.modules) if name.split(".")[0] in tops]:
        del sys.modules[name]

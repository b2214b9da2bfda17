"""
The files that modules import, of the project and of one's own: what goes along where their code goes.
"""

import ast
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

INSTALLED = ("site-packages", "dist-packages")


@cache
def is_brought(path: str) -> bool:
    """True if a file came with Python or with an installed package: it changes with a version only."""
    return bool({*INSTALLED} & {*Path(path).parts}) or path.startswith(_pythons())


@cache
def _pythons() -> tuple[str, ...]:
    return tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})


def parsed(text: bytes | str, mode: str = "exec") -> Any:
    """A syntax tree. Python 3.11 counts the depth of trees for all threads together, and fails where two parse."""
    with _parsing:
        return ast.parse(text, mode=mode)


_parsing = Lock()


def files(modules: Iterable[str]) -> dict[str, Path]:
    """
    Path from a folder of Python's path -> file, of these modules and of all that they import, anywhere in them.

    What is found beside one of them goes along; what came with Python or with an installed package does not.
    """
    waiting = list(modules)
    tops = {name.split(".")[0]: _folder(name.split(".")[0]) for name in waiting}
    loose = {folder for folder in tops.values() if not set(folder.parts) & set(INSTALLED)}
    found: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        top = name.split(".")[0]
        for folder in [tops[top]] if top in tops else loose:
            for path in _files(folder, name):
                if (place := path.relative_to(folder).as_posix()) not in found:
                    found[place] = path
                    waiting += _imports(path, folder)
    return dict(sorted(found.items()))


def copy_modules(modules: Iterable[str], folder: Path) -> None:
    """Copies the files of these modules, and of all that they import, to a folder of Python's path."""
    for name, path in files(modules).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)


def _folder(top: str) -> Path:
    """The folder of Python's path in which a top name lies."""
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise ModuleNotFoundError(f"no module {top}")
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve().parent
    return Path(str(spec.origin)).resolve().parent


def _files(folder: Path, name: str) -> Iterator[Path]:
    """The files that an import of a name runs: those of the packages above it too."""
    parts = name.split(".")
    for n in range(1, len(parts) + 1):
        base = folder.joinpath(*parts[:n])
        yield from filter(Path.is_file, (base / "__init__.py", base.parent / f"{base.name}.py"))


def _imports(path: Path, folder: Path) -> Iterator[str]:
    package = path.relative_to(folder).parent.parts
    for node in ast.walk(parsed(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from filter(None, [module, *(f"{module}.{alias.name}".lstrip(".") for alias in node.names)])

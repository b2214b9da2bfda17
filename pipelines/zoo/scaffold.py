"""
`rayfield new NOUN NAME`: a file that works, to be changed. In a clone it lies in its place, beside its test; anywhere
else it is a file of one's own, in the current folder.
"""

import builtins
import importlib.util
import keyword
import symtable
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

from components.errors import UsageError
from pipelines.engine.caching.modules import ROOT
from pipelines.zoo import templates

FOLDERS = {
    "pipeline": "pipelines",
    "step": "components/steps",
    "family": "components/families",
    "source": "components/sources",
    "representation": "components/representations",
}
COMMANDS = {
    "pipeline": "rayfield run $file --trials 2",
    "step": "rayfield run $file",
    "family": "rayfield run classify --family $file --folds 2",
    "source": "rayfield run classify --source $file --family voxnet --folds 2",
    "representation": "rayfield run $file",
}
"""what shows a file of one's own at work"""
SIZE = f"{(3 + 1) * 128 + (128 + 1) * 128 + (128 + 1) * 40:,}"
"""parameters of a new family at paper()"""
STANDS = "stands_in"
"""for a name, where it is looked which others its texts bind"""


@dataclass(frozen=True)
class Written:
    """The files that were written, as they are called from the current folder, and a command that tries them."""

    paths: tuple[str, ...]
    command: str


def write(noun: str, name: str) -> Written:
    """Writes one of what `FOLDERS` names; nothing that exists is replaced."""
    inside = Path.cwd().is_relative_to(ROOT) and (ROOT / "tests").is_dir()
    _check(noun, name, inside)
    texts = _texts(noun, name, inside)
    alike = list((ROOT / FOLDERS[noun]).rglob(f"{name}.py")) if noun == "family" and inside else []  # of any chapter
    for path in [*alike, *texts]:
        if path.exists() or (path.with_suffix("") / "__init__.py").exists():
            raise UsageError(f"{_shown(path)} exists. Choose another name.")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    paths = tuple(map(_shown, texts))
    return Written(paths, f"pytest {paths[1]}" if inside else _filled(COMMANDS[noun], file=paths[0]))


def _check(noun: str, name: str, inside: bool) -> None:
    if not name.isidentifier() or name != name.lower() or name.startswith("__"):
        raise UsageError(f"The name of a {noun} is a file's: small letters, digits and _, but got {name!r}.")
    if keyword.iskeyword(name) or keyword.iskeyword(title_of(name)) or not title_of(name).isidentifier():
        law = f"A {noun} is imported by its name, so it has letters and is no word of Python"
        raise UsageError(f"{law}, but got {name!r}. Choose another.")
    for stands, called in ((STANDS, name), (title_of(STANDS), title_of(name))):
        if called in dir(builtins) or called in _bound(noun, inside, stands):
            law = f"The name of a {noun} is that of nothing else in its file and its test"
            raise UsageError(f"{law}, but got {name!r}, and they have another {called}. Choose another name.")
    if not inside and not Path(f"{name}.py").exists() and _is_taken(name):
        raise UsageError(f"A file of one's own hides no other module, but Python has one called {name!r} already.")


def _bound(noun: str, inside: bool, stands: str) -> set[str]:
    """The names that a noun's texts bind wherever they bind or read its own, for which another stands."""
    tables = [symtable.symtable(text, noun, "exec") for text in _texts(noun, STANDS, inside).values()]
    scopes = [one for table in tables for one in _scopes(table) if stands in one.get_identifiers()]
    found = (symbol for scope in scopes for symbol in scope.get_symbols())
    bound = {one.get_name() for one in found if one.is_assigned() or one.is_imported() or one.is_parameter()}
    return bound - {stands}


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for inner in table.get_children():
        yield from _scopes(inner)


def _is_taken(name: str) -> bool:
    return name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None


def title_of(name: str) -> str:
    """The class of a name: mean_field -> MeanField."""
    return "".join(part.capitalize() for part in name.split("_"))


def _texts(noun: str, name: str, inside: bool) -> dict[Path, str]:
    """File -> text."""
    if not inside:
        return {Path(f"{name}.py"): _text(noun, name, f"{name}.py")}
    folder = FOLDERS[noun]
    test = _filled(getattr(templates, f"{noun.upper()}_TEST"), name=name, title=title_of(name))
    return {
        ROOT / folder / f"{name}.py": _text(noun, name, ""),
        ROOT / "tests" / folder / f"test_{name}.py": test,
    }


def _text(noun: str, name: str, file: str) -> str:
    """The text of one; `file` is empty where it lies in the project."""
    upper, title = noun.upper(), title_of(name)
    called = title.lower() if file else name
    imports = getattr(templates, f"{upper}_IMPORTS{'_OUTSIDE' if file else ''}", "")
    text = getattr(templates, upper) + (getattr(templates, f"{upper}_SHOWN", "") if file else "")
    run = f"rayfield run classify --family {file or name} --size tiny"
    certify = "" if file else f" by `rayfield certify {name}`"
    return _filled(text, name=name, title=title, called=called, imports=imports, run=run, certify=certify, size=SIZE)


def _filled(text: str, **values: str) -> str:
    return Template(text).substitute(values)


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)

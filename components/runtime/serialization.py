"""
Dataclasses as JSON and back: how artifacts, families and representations are written down.

    {"@": "representation:points", "count": 1024, "normals": false}

Only what can be read back equal is written: numbers, text, lists, dicts and frozen dataclasses of this project. No
pickle: reading a manifest runs nothing but a dataclass's constructor.
"""

import importlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from components.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
"""components/"""


def encode(value: Any) -> Any:
    """`value` as JSON would hold it; raises `DataError` for what could not be read back, or shown."""
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: encode(getattr(value, f.name)) for f in fields(value) if f.init}
        return {"@": name_of(type(value)), **own}
    if isinstance(value, Mapping):
        return {_text(str(key)): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a NumPy number
        return value.item()
    raise DataError(
        f"What is kept is text, numbers, lists, dicts and dataclasses, but got {type(value).__name__}. "
        "Make one of these of it."
    )


def _text(value: str) -> str:
    if not is_utf8(value):
        raise DataError(f"Text that is kept is UTF-8, but got {ascii(value)}. Leave out what UTF-8 has not.")
    return value


def is_utf8(text: str) -> bool:
    """True if UTF-8 can hold a text: no lone surrogate, which is how Python reads a file's name of other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def readable(text: str) -> str:
    """A text of others, such as an error's, with what UTF-8 has not written out: \\udcff."""
    return text.encode("utf-8", "backslashreplace").decode()


def decode(value: Any) -> Any:
    """Invert `encode`; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    if not isinstance(value, Mapping):
        return value
    inner = {key: decode(item) for key, item in value.items() if key != "@"}
    return class_of(value["@"])(**inner) if "@" in value else inner


CHAPTERS = {"families": "family", "sources": "source", "representations": "representation"}
OWN = "own:"
_own: set[str] = set()
"""modules outside this project whose classes may be named: those of the pipeline that this process works for"""


def allow(modules: Iterable[str]) -> None:
    """Lets manifests name classes of these modules, which came with a pipeline or with a registered model."""
    _own.update(modules)


def name_of(kind: type) -> str:
    """
    A class by a name that outlives a move of its file.

    family:pointnet, source:folder, representation:points; Scores; own:shapes:MyNet for a class that is defined in or
    beside a pipeline of one's own.
    """
    parts = kind.__module__.split(".")
    if parts[0] != "components":
        return f"{OWN}{kind.__module__}:{kind.__qualname__}"
    if parts[1] in CHAPTERS and _is_of_file(kind.__name__, parts[-1]):
        return f"{CHAPTERS[parts[1]]}:{parts[-1]}"
    return kind.__qualname__


def _is_of_file(kind: str, stem: str) -> bool:
    return kind.lower() == stem.replace("_", "")


def class_of(name: str) -> type:
    """The dataclass that a name stands for; anything else is refused."""
    word, _, rest = name.partition(":")
    if word == "own":
        found = [_own_class(*rest.split(":", 1))] if rest.partition(":")[0] in _own else []
    elif word in CHAPTERS.values():
        found = list(_in_chapter(word, rest))
    else:  # up to version 0.2 a class was named by its module as well
        bare = rest if word.startswith("components.") else name
        found = [getattr(importlib.import_module(module), bare, None) for module in _classes().get(bare, ())]
    kinds = [kind for kind in found if isinstance(kind, type) and is_dataclass(kind)]
    if len(kinds) != 1:
        raise DataError(
            f"A manifest may name dataclasses of components/ and of the pipeline's own modules only, but got {name!r}."
        )
    return kinds[0]


def _own_class(module: str, qualified: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return found


def _in_chapter(word: str, stem: str) -> Iterator[Any]:
    folder = next(name for name, own in CHAPTERS.items() if own == word)
    for path in sorted((ROOT / folder).rglob(f"{stem}.py")) if stem.isidentifier() else ():
        module = importlib.import_module(_module(path))
        yield from (kind for name, kind in vars(module).items() if _is_of_file(name, stem) and isinstance(kind, type))


@cache
def _classes() -> dict[str, list[str]]:
    """Class -> the modules of components/ that define one of that name."""
    found: dict[str, list[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        for name in re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            found.setdefault(name, []).append(_module(path))
    return found


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)


def classes(value: Any) -> set[type]:
    """The classes of every dataclass in a value."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        return {kind for inner in value for kind in classes(inner)}
    if not is_dataclass(value) or isinstance(value, type):
        return set()
    return {type(value)}.union(*(classes(getattr(value, one.name)) for one in fields(value)))


def canonical(value: Any) -> str:
    """One text for one value: what digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

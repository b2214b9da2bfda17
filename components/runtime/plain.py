"""
Dataclasses as JSON and back: how artifacts, families and representations are written down.

    {"@": "components.representations.points:Points", "count": 1024, "normals": false}

Only what can be read back equal is written: numbers, text, lists, dicts and frozen dataclasses of this project. No
pickle: reading a manifest runs nothing but a dataclass's constructor.
"""

import importlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from components.errors import DataError


def encode(value: Any) -> Any:
    """`value` as JSON would hold it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: encode(getattr(value, f.name)) for f in fields(value) if f.init}
        return {"@": name_of(type(value)), **own}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a NumPy number
        return value.item()
    raise TypeError(f"a step's results are text, numbers and dataclasses, but got {type(value).__name__}")


def decode(value: Any) -> Any:
    """What `encode` was given; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    if not isinstance(value, Mapping):
        return value
    inner = {key: decode(item) for key, item in value.items() if key != "@"}
    return class_of(value["@"])(**inner) if "@" in value else inner


def name_of(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def class_of(name: str) -> type:
    """The dataclass that a name stands for; anything else is refused."""
    module, _, qualified = name.partition(":")
    if not module.startswith("components."):
        raise DataError(f"A manifest may name classes of components/ only, but this one names {name!r}.")
    kind = getattr(importlib.import_module(module), qualified)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise DataError(f"A manifest may name dataclasses only, but {name!r} is none.")
    return kind


def canonical(value: Any) -> str:
    """One text for one value: what digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

"""
Ask for the class of a value by the class's name, without importing it.

A family's module imports torch, which takes a second of every process. A pipeline without families need not spend it:
to ask whether a value is one imports nothing.
"""

from typing import Any

FAMILY = "components.family:Family"
GATE = "components.artifacts:Gate"


def is_a(value: Any, name: str) -> bool:
    """True if a value is an instance of the class "module:name", or of one that is made from it."""
    return is_kind(type(value), name)


def is_kind(kind: Any, name: str) -> bool:
    """True if a class is the class "module:name", or made from it."""
    return isinstance(kind, type) and any(f"{one.__module__}:{one.__qualname__}" == name for one in kind.__mro__)

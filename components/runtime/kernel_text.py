"""
All that a compiler sees of a kernel, as text: the same in every process and every folder, another after any change.

That is the bytecode of the kernel and of every function that it reaches, in whatever file; the constants, arrays too,
that they name; the implementations that `numba.extending.overload` gives to what they call; the options of each; the
versions of Python, of numba and of the packages that are named.
"""

import dis
import enum
import hashlib
import sys
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config
from numba.core.typing.templates import builtin_registry

SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "USING_SVML", "DEBUGINFO_DEFAULT", "DEBUG")
"""of numba's, by variables of the environment, which change the code that it makes"""
NUMBERS = (type(None), bool, int, float, complex, str, bytes, type(...))
INSTALLED = {"site-packages", "dist-packages"}
OWN = __name__.partition(".")[0]
"""counts by its text even where it is installed"""


class UnreadableError(Exception):
    """A value of which no text says whether it changed."""


def text_of(dispatcher: Any) -> str:
    """The text of a kernel."""
    dispatcher.typingctx.refresh()  # overloads are known from here on
    walk = _Walk(dispatcher.typingctx)
    walk.say(dispatcher)
    versions = (sys.version, numba.__version__, llvmlite.__version__)
    settings = (f"{name}={getattr(config, name, None)}" for name in SETTINGS)
    return "\n".join([*versions, *settings, *walk.texts.values()])


class _Walk:
    """Writes each thing that is reached once, in the order in which they are met."""

    def __init__(self, typing_context: Any) -> None:
        self.typing_context = typing_context
        self.places: dict[int, tuple[int, Any]] = {}
        """id -> the place, and the thing itself, whose id is nothing else's while it is held"""
        self.texts: dict[int, str] = {}

    def say(self, value: Any) -> str:
        """A value as text; what may lead back to itself, as its place among the texts."""
        if type(value) in NUMBERS:
            return f"{type(value).__name__}:{value!r}"
        if isinstance(value, np.ndarray | np.generic):
            return _array(value)
        if isinstance(value, np.dtype | numba.types.Type):
            return f"{type(value).__name__}:{value!r}"
        if isinstance(value, enum.Enum):
            return f"{_name(type(value))}.{value.name}={self.say(value.value)}"
        if isinstance(value, types.CodeType):
            return self._code(value)
        if isinstance(value, tuple | set | frozenset):  # what is equal may be one object, or several
            inner = [self.say(one) for one in value]
            return f"{_name(type(value))}{inner if isinstance(value, tuple) else sorted(inner)}"
        return f"#{self._place(value)}"

    def _place(self, value: Any) -> int:
        if id(value) not in self.places:
            place = len(self.places)
            self.places[id(value)] = place, value
            self.texts[place] = ""  # before those that it leads to
            self.texts[place] = " ".join(self._parts(value))
        return self.places[id(value)][0]

    def _parts(self, value: Any) -> Iterator[str]:
        if isinstance(value, list | dict):
            yield from (_name(type(value)), *map(self.say, value.items() if isinstance(value, dict) else value))
        elif hasattr(value, "py_func"):
            yield from self._function(value.py_func)
            yield from (self.say(value.targetoptions), str(sorted(value.locals.items())))
        elif isinstance(value, types.FunctionType) and not _is_settled(value.__module__):
            yield from self._function(value)
        elif isinstance(value, enum.EnumMeta):
            yield from map(self.say, value)
        elif hasattr(value, "_fields"):  # a class of named tuples
            yield from (_name(value), self.say(value._fields), self.say(value._field_defaults))
        elif inner := getattr(value, "_dispatcher", None) or getattr(value, "_defn", None):  # @vectorize, @intrinsic
            yield self.say(inner)
        else:
            yield _settled(value)
        yield from map(self.say, self._overloads(value))

    def _function(self, function: Any) -> Iterator[str]:
        code, globals_ = function.__code__, function.__globals__
        yield from (_name(function), self._code(code))
        yield from (self.say(function.__defaults__), self.say(function.__kwdefaults__))
        yield from (self.say(cell.cell_contents) for cell in function.__closure__ or ())
        for name in _globals(code):
            if name in globals_:
                yield f"{name}:"
                yield from self._global(globals_[name], _names(code), frozenset())
        yield from map(self.say, _of_attributes(_names(code)))

    def _global(self, value: Any, names: frozenset[str], above: frozenset[str]) -> Iterator[str]:
        """Of a module only what the function may ask it for."""
        if not isinstance(value, types.ModuleType):
            yield self.say(value)
        elif value.__name__ not in above:
            yield f"{value.__name__} {_version(value.__name__)}"
            for name in sorted(names & vars(value).keys()):
                inner = vars(value)[name]
                if isinstance(inner, types.ModuleType):
                    yield from self._global(inner, names, above | {value.__name__})
                elif not _is_settled(value.__name__):
                    yield f"{name}:{self.say(inner)}"
                else:
                    yield from map(self.say, self._overloads(inner))

    def _code(self, code: types.CodeType) -> str:
        """A function's bytecode and constants, less the names of files and the numbers of lines."""
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        done = (code.co_code, getattr(code, "co_exceptiontable", b""))
        return f"{counts}{names}{done}{[self.say(one) for one in code.co_consts]}"

    def _overloads(self, value: Any) -> list[Any]:
        """The overloads that editable code has numba compile in place of a function."""
        known: Any = self.typing_context._lookup_global(value) if callable(value) else None
        return [one for one in map(_implementation, getattr(known, "templates", ())) if one]


def _implementation(template: Any) -> Any:
    """The function that numba compiles, with its options; None where a version tells of its changes."""
    found = getattr(template, "_overload_func", None)
    if found is None or _is_settled(found.__module__):
        return None
    return found, getattr(template, "_jit_options", None), template._inline.value


def _of_attributes(names: frozenset[str]) -> list[Any]:
    """The implementations of methods and attributes of these names, of whatever type."""
    templates = (one for one in builtin_registry.attributes if getattr(one, "_attr", "") in names)
    return [one for one in map(_implementation, templates) if one]


@cache
def _names(code: types.CodeType) -> frozenset[str]:
    """Every name that code asks for, of globals and of attributes."""
    return frozenset(code.co_names).union(*(_names(one) for one in code.co_consts if isinstance(one, types.CodeType)))


@cache
def _globals(code: types.CodeType) -> tuple[str, ...]:
    """The names of the globals that code, or a function within it, asks for."""
    own = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return tuple(sorted(own.union(*(_globals(one) for one in code.co_consts if isinstance(one, types.CodeType)))))


def _array(value: Any) -> str:
    if value.dtype.hasobject:
        raise UnreadableError(f"an array of {value.dtype} has no bytes of its own")
    layout = (value.flags.c_contiguous, value.flags.f_contiguous, value.flags.writeable, value.flags.aligned)
    held = hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=16).hexdigest()
    return f"{type(value).__name__}:{value.dtype!r}{value.shape}{layout}{held}"


def _settled(value: Any) -> str:
    """The name of an installed or built-in object: its version tells of every change."""
    if not hasattr(value, "__name__") or not _is_settled(getattr(value, "__module__", None)):
        raise UnreadableError(f"{value!r} is no number, text, tuple, array or function")
    return f"{_name(value)} {_version(getattr(value, '__module__', None))}"


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', value.__name__)}"


@cache
def _is_settled(module: str | None) -> bool:
    """True if a module came with Python or with an installed package, so that its version tells of every change."""
    top = (module or "builtins").partition(".")[0]
    if top in sys.stdlib_module_names:
        return True
    spec = getattr(sys.modules.get(top), "__spec__", None)
    places = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec else []
    return top != OWN and any(INSTALLED & {*Path(place).parts} for place in places)


def _version(module: str | None) -> str:
    return str(getattr(sys.modules.get((module or "").partition(".")[0]), "__version__", ""))

"""
How text becomes a value, and which values there may be: the annotation decides.
"""

import math
import types
from dataclasses import fields
from numbers import Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from components.errors import UsageError, nearest
from components.runtime.serialization import is_utf8

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read(text: str, kind: Any, what: str) -> Any:
    """The value of `text` as a `kind`; `what` names the parameter in an error."""
    origin = get_origin(kind)
    if origin is Annotated:
        return read(text, get_args(kind)[0], what)
    if origin is Literal:
        return _one_of(text, get_args(kind), what)
    if origin in (Union, types.UnionType):
        return _first_that_fits(text, get_args(kind), what)
    if origin is tuple:
        return _several(text, get_args(kind), what)
    if kind is bool:
        if text.lower() not in _WORDS:
            raise UsageError(f"{what} must be true or false, but got {text!r}.")
        return _WORDS[text.lower()]
    if kind in (int, float):
        return _number(text, kind, what)
    if kind is str:
        check_text(text, what)
        return text
    raise UsageError(f"{what} is a {getattr(kind, '__name__', kind)}, which cannot be written as text.")


def check_text(text: str, what: str) -> None:
    """Refuses what neither a path nor a file of UTF-8 can hold."""
    if "\0" in text or not is_utf8(text):
        raise UsageError(f"{what} is UTF-8 without null bytes, but got {ascii(text)}. Write it in another way.")


def check(value: Any, kind: Any, what: str, remedy: str = "") -> None:
    """Refuses a value that its annotation rules out: a word that is no choice, a number out of its range."""
    origin, (first, *laws) = get_origin(kind), get_args(kind) or (None,)
    if origin is Annotated and isinstance(value, Real):
        for law in laws:
            if not (math.isfinite(value) and law.holds(value)):
                raise UsageError(f"{what} must be {law}, but got {value}.{remedy and ' ' + remedy}")
    elif origin is Literal and isinstance(value, str | Real):
        if value not in (first, *laws):
            raise _no_choice(value, (first, *laws), what)
    elif origin is tuple and isinstance(value, tuple):
        for part in value:
            check(part, first, what, remedy)


def check_fields(made: Any, written: str, remedy: str) -> None:
    """The same for every field of a dataclass; in `written` and in `remedy` {} is the field's name."""
    for one in fields(made):
        check(getattr(made, one.name), one.type, written.format(one.name), remedy.format(one.name))


def _several(text: str, kinds: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if kinds[-1] is not Ellipsis and len(parts) != len(kinds):
        raise UsageError(f"{what} must be {len(kinds)} values with commas between, but got {text!r}.")
    return tuple(read(part, kinds[0], what) for part in parts)


def _number(text: str, kind: type, what: str) -> Any:
    try:
        number = float(text)
        if number != number or (kind is int and number != int(number)):
            raise ValueError
        return kind(number)
    except (ValueError, OverflowError):
        word = "a whole number" if kind is int else "a number"
        raise UsageError(f"{what} must be {word}, but got {text!r}.") from None


def _one_of(text: str, allowed: tuple[Any, ...], what: str) -> Any:
    for value in allowed:
        if str(value) == text:
            return value
    raise _no_choice(text, allowed, what)


def _no_choice(value: Any, allowed: tuple[Any, ...], what: str) -> UsageError:
    known = [str(one) for one in allowed]
    near = nearest(value, known) if isinstance(value, str) else ""
    return UsageError(f"{what} must be {' or '.join(known)}, but got {value!r}.{near}")


def _first_that_fits(text: str, kinds: tuple[Any, ...], what: str) -> Any:
    if type(None) in kinds and text.lower() in ("none", ""):
        return None
    errors = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return read(text, kind, what)
        except UsageError as error:
            errors.append(str(error))
    raise UsageError(errors[0])

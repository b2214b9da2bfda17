"""
The key of a step: one name for one result, the same on every machine.

It is made of the code that the step uses, the packages of that code, the parameters that it reads, the keys of its
inputs and the seed. It is not made of paths, of the store, of the host, nor of resources; nor of where code lies, for
steps and classes stand in it by names that outlive a move: step:train, family:pointnet.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from components.runtime.serialization import canonical, encode, name_of
from components.source import Asset, Only, Source, digest_of
from components.step import Handle, HandleError
from pipelines.engine.caching import modules
from pipelines.engine.caching.fingerprint import Fingerprint, Root, fingerprint
from pipelines.engine.graph.kinds import FAMILY, is_a

VERSION = 2
"""of what a key is made of: a key of another version is another key"""
_code: dict[tuple[tuple[Root, ...], bool], Fingerprint] = {}
"""the fingerprints that were taken; a drawing begins anew, a step's process keeps to the code that it has imported"""
_assets: dict[str, list[Asset]] = {}
_parts: dict[tuple[str, str], dict[str, list[Asset]]] = {}
"""the listings of one drawing: of five thousand scenes of one source, each is a part of one listing"""


def forget() -> None:
    """Reads code and listings anew."""
    for held in (_code, _assets, _parts):
        held.clear()  # type: ignore[attr-defined]
    modules.forget()


def digest(value: Any) -> str:
    return hashlib.blake2b(canonical(value).encode(), digest_size=16).hexdigest()


def classes_of(value: Any) -> set[type]:
    """The classes of every dataclass in a value: their code decides what the value does."""
    if isinstance(value, Handle):
        return set()
    if isinstance(value, type):
        return {value}
    if is_dataclass(value):
        inner = [getattr(value, f.name) for f in fields(value) if not f.metadata.get("aside")]
        kinds = value.kinds() if isinstance(value, Source) else ()
        return {type(value)}.union(*map(classes_of, [*inner, *kinds]))
    if isinstance(value, Mapping):
        return set().union(*map(classes_of, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(classes_of, value))
    return set()


def in_key(value: Any) -> Any:
    """A parameter as a key holds it: of a source its contents, of a handle the key behind it."""
    if isinstance(value, Handle):
        return {"key": value.key, "output": value.output}
    if isinstance(value, Source):
        return {"@": [name_of(kind) for kind in value.kinds()], "digest": digest_of(_listed(value))}
    if isinstance(value, type):
        return {"class": name_of(value)}
    return _walk(value, in_key, lambda f: not f.metadata.get("aside"))


def _listed(source: Source) -> list[Asset]:
    """The assets of a source, listed once for all the steps of a drawing that read it or a part of it."""
    name = canonical(in_plan(source))
    if name not in _assets:
        _assets[name] = _part(source) if type(source) is Only else source.rows()
    return _assets[name]


def _part(one: Only) -> list[Asset]:
    name = canonical(in_plan(one.source)), one.name
    if name not in _parts:
        parts = _parts[name] = {}
        for asset in _listed(one.source):
            parts.setdefault(one.of(asset), []).append(asset)
    return _parts[name].get(one.value, [])


def in_plan(value: Any) -> Any:
    """A parameter as a plan holds it: enough to call the step with it."""
    if isinstance(value, Handle):
        return {"$": value.key, "output": value.output}
    return _walk(value, in_plan)


def _walk(value: Any, inner: Any, counts: Callable[[Any], bool] = lambda _: True) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: getattr(value, f.name) for f in fields(value) if f.init and counts(f)}
        if is_a(value, FAMILY):
            _no_results(value, own)
        return {"@": name_of(type(value)), **{k: inner(v) for k, v in own.items()}}
    if isinstance(value, Mapping):
        return {str(k): inner(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [inner(v) for v in value]
    return encode(value)


def _no_results(family: Any, own: Mapping[str, Any]) -> None:
    for name, value in own.items():
        if isinstance(value, Handle):
            raise HandleError(
                f"A field of a family is a number or a word, but {family.name}.{name} is a step's result. "
                "Families are known before anything runs: pass the result to a step beside the family."
            )


def ingredients(made_by: Fingerprint, parameters: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Everything that a key is the digest of, by name: `explain` compares these."""
    return {"code": made_by.in_key, "parameters": dict(parameters), "seed": seed, "version": VERSION}


def root_of(named: Callable[..., Any]) -> Root:
    """The definition that a function or a class stands for, or that it lies in."""
    return named.__module__, named.__qualname__.partition(".")[0]


def fingerprint_of(functions: Iterable[Root], arguments: Any, draws: bool = False) -> Fingerprint:
    """The code that functions use when they are given these arguments."""
    kinds = sorted(classes_of(arguments), key=name_of)
    roots = (*functions, *map(root_of, kinds))
    if (roots, draws) not in _code:
        _code[roots, draws] = fingerprint(roots, draws)
    return _code[roots, draws]

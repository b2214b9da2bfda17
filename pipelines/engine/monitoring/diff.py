"""
Differences of two runs: parameters, code, packages, data, scores, cost.
"""

import math
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from typing import Any

from components.runtime.redaction import redacted
from pipelines.engine.caching.invalidation import code_changes
from pipelines.engine.monitoring.run_view import Run, Step
from pipelines.engine.store.store import Store

Name = tuple[str, int]
"""of a step in a run: its title, and its place among those of that title"""


def difference(store: Store, one: Run, other: Run) -> dict[str, Any]:
    """
    Everything that differs, by kind; what is the same is left out, scores excepted.

    A step that one of them did not finish has told nothing of what it is made of: it is named, and compared in nothing.
    """
    unfinished = {run.name: [name for name, step in _named(run) if not step.manifest] for run in (one, other)}
    unknown = {name for names in unfinished.values() for name in names}
    ours, theirs = _ingredients(one, unknown), _ingredients(other, unknown)
    return {
        "runs": [one.name, other.name],
        "states": [one.state, other.state],
        "unfinished": {run: [title for title, _ in names] for run, names in unfinished.items() if names},
        "parameters": _changed(redacted(one.record["parameters"]), redacted(other.record["parameters"])),
        "environment": _environment(one.record, other.record),
        "commit": _changed({"commit": one.record["commit"]}, {"commit": other.record["commit"]}).get("commit"),
        "code": _code(store, ours["code"], theirs["code"]),
        "packages": _changed(ours["packages"], theirs["packages"]),
        "data": _changed(ours["data"], theirs["data"]),
        "steps": list(_steps(one, other)),
    }


def _environment(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    if not (one.get("environment") and other.get("environment")):
        return {}
    return _changed(one["environment"], other["environment"])


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Name -> [here, there] of what is not the same; None where it is not there."""
    names = sorted({*one, *other})
    return {n: [one.get(n), other.get(n)] for n in names if one.get(n) != other.get(n)}


def _ingredients(run: Run, unknown: Container[Name]) -> dict[str, dict[str, Any]]:
    """Ingredients of a run's results: modules, packages, data."""
    found: dict[str, dict[str, Any]] = {"code": {}, "packages": {}, "data": {}}
    for step in (step for name, step in _named(run) if name not in unknown):
        held = (step.manifest or {}).get("ingredients", {})
        for name, value in held.get("code", {}).items():
            kind, space, rest = name.partition(" ")
            place = {"package": "packages", "data": "data"}.get(kind, "code") if space else "code"
            found[place][rest if space else name] = value
        if python := (step.manifest or {}).get("python"):  # is in no key
            found["packages"]["python"] = ", ".join(
                sorted({*found["packages"].get("python", python).split(", "), python})
            )
        found["data"] |= dict(_sources(held.get("parameters", {}), step.title))
    return found


def _sources(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """The contents of every source among a step's parameters."""
    if isinstance(value, Mapping):
        if value.keys() == {"@", "digest"}:
            yield name, value["digest"]
        for key, inner in value.items():
            yield from _sources(inner, f"{name} {key}")


def _code(store: Store, one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The modules that differ; the functions in them where the store knows these."""
    return list(code_changes(one, other, store))


def _steps(one: Run, other: Run) -> Iterator[dict[str, Any]]:
    """Each step of either run beside its like in the other: titles, in their order, say which is which."""
    ours, theirs = dict(_named(one)), dict(_named(other))
    for name in dict.fromkeys([*ours, *theirs]):
        pair = [ours.get(name), theirs.get(name)]
        finished = [step for step in pair if step and step.manifest]
        yield {
            "step": name[0],
            "same": len(finished) == 2 and len({step.key for step in finished}) == 1,
            "status": [step.status if step else None for step in pair],
            "seconds": [step.seconds if step and step.manifest else None for step in pair],
            "cpu": [step.cost.get("cpu") if step else None for step in pair],
            "scores": _scores(*(_result(step) for step in pair)),
        }


def _named(run: Run) -> Iterator[tuple[Name, Step]]:
    seen: Counter[str] = Counter()
    for step in run.steps:
        yield (step.title, seen[step.title]), step
        seen[step.title] += 1


def _result(step: Step | None) -> Mapping[str, Any]:
    result = (step.manifest or {}).get("result") if step else None
    return result if isinstance(result, Mapping) and "test" in result else {}


def _scores(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[dict[str, Any]]:
    """
    Test scores side by side.

    The error of a difference is that of two independent samples; on the same test rows it is less.
    """
    rows = []
    for name in dict.fromkeys([*one.get("test", {}), *other.get("test", {})]):
        values = [side.get("test", {}).get(name) for side in (one, other)]
        errors = [side.get("error", {}).get(name) for side in (one, other)]
        both = None not in values
        known = both and all(error is not None and not math.isnan(error) for error in errors)
        rows.append(
            {
                "name": name,
                "values": values,
                "errors": errors,
                "delta": values[1] - values[0] if both else None,
                "error": math.hypot(*errors) if known else None,
            }
        )
    return rows

"""
Why a step would run: what differs from the nearest of its earlier results, in people's words.

Earlier results are found through the records of the last runs. What a code consists of lies in code/<digest>.json of
the store, so what changed is named down to the function; what a source had lies in the table that was made of it.
"""

import platform
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from typing import Any

from components.errors import DataError, UsageError, nearest
from pipelines.engine.store.store import Store

RUNS = 50
"""runs that are looked through, the last ones"""
NEAR = 12
"""earlier results of a step that are compared with it"""
DEEP = 100
"""pairs of results that are compared on the way to where a difference began"""

Nodes = list[dict[str, Any]]
Manifest = dict[str, Any]


@dataclass
class History:
    """Results of the last runs, by step and title."""

    store: Store
    held: dict[str, Manifest | None] = field(default_factory=dict)

    @cached_property
    def keys(self) -> dict[tuple[str, str], dict[int, list[str]]]:
        """(step, title) -> place among its like -> keys, the newest first."""
        found: dict[tuple[str, str], dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for _, record in islice(self.store.runs(), RUNS):
            for place, node in places(record["nodes"]):
                found[node["step"], node["title"]][place].append(node["key"])
        return found

    def manifest(self, key: str) -> Manifest | None:
        if key not in self.held:
            self.held[key] = self.store.manifest(key)
        return self.held[key]

    def nearest(
        self, node: Mapping[str, Any], place: int, own: Manifest | None, beside: Container[str]
    ) -> Manifest | None:
        """
        The earlier result of the same step that differs least from a node; of equals the one in its place.

        What its own run made is not earlier, nor what stands `beside` it in the plan.
        """
        there = self.keys.get((node["step"], node["title"]), {})
        keys = chain(dict.fromkeys(there.get(place, [])), chain.from_iterable(there.values()))
        made = (one for one in (self.manifest(key) for key in keys if key not in beside) if one)
        earlier = (one for one in made if not own or (one["when"] < own["when"] and one["run"] != own["run"]))
        near = list(islice(earlier, NEAR))
        return min(near, key=lambda one: _distance(one["ingredients"], node["ingredients"]), default=None)


def places(nodes: Nodes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each node with its place among those of its step and title."""
    seen: Counter[tuple[str, str]] = Counter()
    for node in nodes:
        like = node["step"], node["title"]
        yield seen[like], node
        seen[like] += 1


def _distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    return sum(1 for _ in _changed(flat(one["parameters"]), flat(other["parameters"]))) + sum(
        1 for _ in _changed(one["code"], other["code"])
    )


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, before, after) of everything that is not the same; None where it is not there."""
    for name in {**one, **other}:
        if one.get(name) != other.get(name) or (name in one) != (name in other):
            yield name, one.get(name), other.get(name)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Parameters by their dotted names; a step's result and a source's contents stay whole."""
    if isinstance(value, Mapping) and value and not (_is_result(value) or _is_source(value)):
        return {k: v for own, inner in value.items() for k, v in flat(inner, _joined(name, own)).items()}
    if isinstance(value, list | tuple) and value:
        return {k: v for own, inner in enumerate(value) for k, v in flat(inner, _joined(name, str(own))).items()}
    return {name: value}


def _joined(name: str, own: str) -> str:
    return name if own == "@" else f"{name}.{own}" if name else own


def _is_result(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"key", "output"}


def _is_source(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"@", "digest"} and isinstance(value["@"], list | tuple)


@dataclass
class Reasons:
    """Why the steps of a plan would run, or last ran."""

    store: Store
    nodes: Nodes
    manifests: Mapping[str, Manifest | None]
    history: History = field(init=False)

    def __post_init__(self) -> None:
        self.history = History(self.store)
        self.by_key = {node["key"]: node for node in self.nodes}
        self.place = {node["key"]: place for place, node in places(self.nodes)}

    def earlier(self, node: Mapping[str, Any]) -> Manifest | None:
        """The result that a node is compared with."""
        return self.history.nearest(node, self.place[node["key"]], self.manifests[node["key"]], self.by_key)

    def waits(self, node: Mapping[str, Any]) -> list[str]:
        """The steps that must run before it."""
        return [self.by_key[key]["title"] for key in node["needs"] if self.manifests[key] is None]

    def short(self, node: Mapping[str, Any]) -> str:
        """Why it would run, in a phrase."""
        if waited := self.waits(node):
            return f"needs {waited[0]}" + (f" and {len(waited) - 1} more" if len(waited) > 1 else "")
        said = self.all(node) or ["another result of what it needs"]
        return said[0] + (f", and {len(said) - 1} more" if len(said) > 1 else "")

    def all(self, node: Mapping[str, Any]) -> list[str]:
        """Everything that differs from the nearest earlier result, a phrase each."""
        before = self.earlier(node)
        if before is None:
            return ["new"]
        return list(self.differences(before, node))

    def differences(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
        """Differences of two results, then of what they were made of; each phrase once."""
        waiting, met, said = [("", before, after)], set[tuple[str, str]](), set[str]()
        while waiting:
            prefix, one, other = waiting.pop(0)
            for what in self._own(one, other):
                if what not in said:
                    said.add(what)
                    yield prefix + what
            for was, now in self._inputs(one, other):
                if len(met) < DEEP and (was["key"], now["key"]) not in met:
                    met.add((was["key"], now["key"]))
                    waiting.append((f"{now['title']}: ", was, now))

    def _own(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
        one, other = before["ingredients"], after["ingredients"]
        for name, was, now in _changed(flat(one["parameters"]), flat(other["parameters"])):
            if _is_source(was) and _is_source(now):
                yield f"{name}: {self._assets(before, after, name, was, now)}"
            elif _is_result(was) and _is_result(now):
                yield from self._result(name, was, now)
            else:
                yield f"parameter {name} {_shown(was)} -> {_shown(now)}"
        if one["seed"] != other["seed"]:
            yield f"seed {one['seed']} -> {other['seed']}"
        yield from code_changes(one["code"], other["code"], self.store)
        now = after.get("python", platform.python_version())
        if before.get("python", now) != now:
            yield f"Python {before['python']} -> {now}, which is in no key"

    def _result(self, name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
        """Two results of one step differ where that step does: `_inputs` leads there."""
        one, other = self._of(was["key"]), self._of(now["key"])
        if was["key"] == now["key"]:
            yield f"{name}: output {was['output']} -> {now['output']}"
        elif other is None or one is None:
            yield f"{name}: another result"
        elif one["step"] != other["step"]:
            yield f"{name}: of {one['title']} -> of {other['title']}"

    def _inputs(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
        """The results that were read and are read in their place, of steps that will not run themselves."""
        pairs = _changed(flat(before["ingredients"]["parameters"]), flat(after["ingredients"]["parameters"]))
        for _, was, now in pairs:
            if _is_result(was) and _is_result(now) and was["key"] != now["key"]:
                one, other = self._of(was["key"]), self._of(now["key"])
                if one and other and one["step"] == other["step"] and self.manifests.get(now["key"], True):
                    yield one, other

    def _of(self, key: str) -> Mapping[str, Any] | None:
        return self.by_key.get(key) or self.history.manifest(key)

    def _assets(
        self, before: Mapping[str, Any], after: Mapping[str, Any], name: str, was: Mapping[str, Any], now: Any
    ) -> str:
        if was["@"] != now["@"]:
            return f"{_names(was['@'])} -> {_names(now['@'])}"
        old, new = assets_of(before), assets_of(after) or listed(after.get("parameters", {}).get(name))
        return difference_of_assets(old, new) if old and new else "other contents"


def _shown(value: Any) -> str:
    if _is_result(value):
        return "a result"
    if _is_source(value):
        return _names(value["@"])
    return "none" if value is None else f"{value:.12g}" if isinstance(value, float) else str(value)


def _names(kinds: list[str]) -> str:
    return ", ".join(kind.rpartition(":")[2] for kind in kinds)


# Code


def code_changes(one: Mapping[str, str], other: Mapping[str, str], store: Store) -> Iterator[str]:
    """Changes of definitions, packages and data files; what is used now, or no more, comes last."""
    later = []
    for name, was, now in _changed(one, other):
        kind, _, rest = name.partition(" ")
        if kind == "package":
            yield f"package {rest} {was or 'none'} -> {now or 'none'}"
        elif kind == "data":
            yield f"data {rest}"
        elif kind == "code":
            changed, moved = definition_changes(store.load(f"code/{was}.json"), store.load(f"code/{now}.json"))
            yield from changed
            later += moved
    yield from later


def definition_changes(
    one: Mapping[str, Mapping[str, str]] | None, other: Mapping[str, Mapping[str, str]] | None
) -> tuple[list[str], list[str]]:
    """Definitions whose text changed, and those that are used now or no more; a module stands for all of its own."""
    if one is None or other is None:
        return ["the code changed"], []
    changed, moved = [], []
    for module, was, now in _changed(one, other):
        if not was or not now:
            moved.append(f"{module} is {'used now' if now else 'used no more'}")
            continue
        for name, before, after in _changed(was, now):
            if before and after:
                changed.append(_label(module, name) + ("" if name.startswith("constant ") else " changed"))
            else:
                moved.append(f"{_label(module, name)} is {'used now' if after else 'used no more'}")
    return changed or ([] if moved else ["the order of the code's definitions changed"]), moved


def _label(module: str, name: str) -> str:
    """ "components.training.learner.Clock", "constant SHARD of components.steps.preprocess"."""
    kind, _, own = name.rpartition(" ")
    if name == "statements":
        return f"statements of {module}"
    return f"constant {own} of {module}" if kind == "constant" else f"{kind} {module}.{own}".strip()


# Sources


def assets_of(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Asset id -> what a table said of it; None where the step made no table."""
    result = manifest.get("result")
    if not (isinstance(result, Mapping) and str(result.get("@")).rpartition(":")[2] == "Table"):
        return None
    import pyarrow.parquet as pq

    from components.runtime.serialization import decode

    # the whole table names classes that may be gone, or be of somebody's own code
    assets, quarantine = (decode(result[name]).path() for name in ("assets", "quarantine"))
    good = pq.read_table(assets, columns=["id", "label", "split", "digest"]).to_pylist()
    unread = pq.read_table(quarantine, columns=["id"]).to_pylist()
    return {row["id"]: None for row in unread} | {r["id"]: (r["digest"], r["label"], r["split"]) for r in good}


def listed(parameter: Any) -> dict[str, Any] | None:
    """Asset id -> what a source says of it now."""
    from components.source import Source
    from pipelines.engine.execution.task import resolve

    try:
        source = resolve(parameter, Store("")) if isinstance(parameter, Mapping) and "@" in parameter else None
    except DataError:  # a class of somebody's own code, which is not imported to say why a step runs
        return None
    if not isinstance(source, Source):
        return None
    return {asset.id: (asset.digest, asset.label, asset.split) for asset in source.rows()}


def difference_of_assets(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """ "2 assets added (a.obj, b.obj), 1 changed (c.obj)"."""
    both = [name for name in new if name in old and old[name] is not None and new[name] is not None]
    groups = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "changed": [name for name in both if new[name][0] != old[name][0]],
        "labelled anew": [name for name in both if new[name][1] != old[name][1]],
        "in another split": [n for n in both if new[n][2] != old[n][2] and new[n][:2] == old[n][:2]],
    }
    said = [f"{len(names)} {word} ({_few(names)})" for word, names in groups.items() if names]
    if not said:
        return "other attributes"
    count, _, rest = said[0].partition(" ")
    return ", ".join([f"{count} asset{'s' * (count != '1')} {rest}", *said[1:]])


def _few(names: list[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")


def report(reasons: Reasons, node: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of `rayfield explain` for a step."""
    made, before = reasons.manifests[node["key"]], reasons.earlier(node)
    return {
        "step": node["title"],
        "key": node["key"],
        "action": "keep" if made else "run",
        "made_by": made["run"] if made else None,
        "compared_with": {"key": before["key"], "run": before["run"]} if before else None,
        "why": reasons.all(node),
        "needs": reasons.waits(node),
    }


def chosen(reasons: Reasons, step: str) -> Nodes:
    """The nodes of that title, its beginning or a step's name, and those that must run before them; else all."""
    if not step:
        return reasons.nodes
    found = {n["key"] for n in reasons.nodes if step in (n["title"], n["step"].rpartition(":")[2])}
    found = found or {n["key"] for n in reasons.nodes if n["title"].startswith(step)}
    if not found:
        titles = list(dict.fromkeys(node["title"] for node in reasons.nodes))
        raise UsageError(f"No step {step!r}.{nearest(step, titles)} There are {', '.join(titles)}.")
    for node in reversed(reasons.nodes):  # a node stands behind what it needs
        if node["key"] in found:
            found |= {key for key in node["needs"] if reasons.manifests[key] is None}
    return [node for node in reasons.nodes if node["key"] in found]

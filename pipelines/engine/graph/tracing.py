"""
Drawing a pipeline: its function runs once, in milliseconds, and every step that it calls becomes a node.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from components.constraints import Seed
from components.errors import DataError, UsageError, nearest, no_exit
from components.parameters import check, read
from components.runtime.serialization import canonical
from components.source import Only, Source
from components.step import Handle, Step, current_drawing
from pipelines.engine.caching.cache_key import (
    classes_of,
    digest,
    fingerprint_of,
    forget,
    in_key,
    in_plan,
    ingredients,
    root_of,
)
from pipelines.engine.caching.modules import path_of
from pipelines.engine.graph.kinds import FAMILY, GATE, is_a

Part = TypeVar("Part")


@dataclass(frozen=True)
class Node:
    """One step of a plan, in plain data: a plan is written as JSON and read without importing anything."""

    key: str
    step: str
    """step:train"""
    title: str
    """what people read: "train pointnet\""""
    parameters: Mapping[str, Any]
    needs: tuple[str, ...]
    ingredients: Mapping[str, Any]
    modules: tuple[str, ...]
    """that its code imports, and that may be edited"""
    seed: int
    resources: Mapping[str, float]
    registers: bool = False
    """whether what it makes lies in MLflow too"""


@dataclass
class Graph:
    """The nodes of one drawing by their keys, in the order in which they were drawn."""

    nodes: dict[str, Node] = field(default_factory=dict)
    seed: int = 0
    sources: dict[str, Source] = field(default_factory=dict)
    """every source that a step reads"""
    listings: dict[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    """digest of code -> module -> definition -> digest: `explain` names what changed by them"""
    scored: dict[str, frozenset[type[Any]] | None] = field(default_factory=dict)
    """key -> the families behind it; None where another checkpoint's features decide the scores"""
    folds: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    """key -> the folds of the data behind it: see `fold_of`"""

    def add(self, step: Step, arguments: Mapping[str, Any]) -> Any:
        """Draws a call; two calls with one key are one node."""
        _check_place(step.function, "A step")
        _check_name(step)
        for kind in classes_of(arguments):
            _check_place(kind, "A class whose instance a step is given")
        given = {name: _given(step, name, value) for name, value in arguments.items()}
        counted = {name: in_key(value) for name, value in arguments.items() if name not in step.aside}
        code = fingerprint_of((root_of(step.function),), arguments, step.draws)
        made_of = ingredients(code, counted, self.seed)
        key = digest({"step": step.id, **made_of})
        self.listings[code.digest] = code.listing
        self.scored[key] = self._families_behind(arguments)
        sources = [whole(one) for one in parts(arguments, Source)]
        self.sources |= {canonical(in_plan(one)): one for one in sources}
        behind = (self.folds[handle.key] for handle in handles(arguments))
        self.folds[key] = set().union(*map(fold_of, sources), *behind)
        if any(is_a(value, GATE) for value in arguments.values()):
            check_gates(arguments, scores_of(self.scored[key]))
        if key not in self.nodes:
            self.nodes[key] = Node(
                key=key,
                step=step.id,
                title=title_of(step, arguments, self.nodes),
                parameters=given,
                needs=tuple(sorted({handle.key for handle in handles(arguments)})),
                ingredients=made_of,
                modules=code.modules,
                seed=self.seed,
                resources=resources_of(arguments, step.spreads),
                registers=step.registers,
            )
        handles_out = tuple(Handle(step.name, key, name) for name in step.outputs or ("",))
        return handles_out if step.outputs else handles_out[0]

    def name_folds(self) -> None:
        """Tells steps of one title apart by their folds, where each has its own. A title is in no key."""
        like: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            like.setdefault(node.title, []).append(node)
        for title, own in like.items():
            folds = [fold for node in own if len(self.folds[node.key]) == 1 for fold in self.folds[node.key]]
            if len(set(folds)) == len(own) > 1:
                for node, (place, count) in zip(own, folds, strict=True):
                    self.nodes[node.key] = replace(node, title=f"{title}, fold {place} of {count}")

    def _families_behind(self, arguments: Mapping[str, Any]) -> frozenset[type[Any]] | None:
        """The families that led to these arguments."""
        if arguments.get("extractor") is not None:
            return None
        behind = {handle.key: self.scored[handle.key] for handle in handles(arguments)}
        own = {type(value) for value in arguments.values() if is_a(value, FAMILY)}
        found = [families for families in behind.values() if families is not None]
        return None if len(found) < len(behind) else frozenset(own.union(*found))


def scores_of(families: frozenset[type[Any]] | None) -> list[str]:
    """The scores of families; nothing where they are not known yet."""
    if any(family.goal.name not in family.scores for family in families or ()):
        return []
    return sorted({name for family in families or () for name in family.scores})


def draw(pipeline: Callable[..., None], values: Mapping[str, Any], settings: Mapping[str, Mapping[str, str]]) -> Graph:
    """The graph of a pipeline for these parameters. `settings` are those of --set: family -> field -> text."""
    forget()
    seed = read(str(values.get("seed", 0)), int, "--seed")
    check(seed, Seed, "--seed", "Pass another --seed.")
    graph = Graph(seed=seed)
    token = current_drawing.set(graph)
    try:
        with no_exit("A pipeline"), _overriding(settings) as met:
            pipeline(**values)
    finally:
        current_drawing.reset(token)
    graph.name_folds()
    _all_met(settings, met)
    return graph


def _overriding(settings: Mapping[str, Mapping[str, str]]) -> AbstractContextManager[set[tuple[str, str]]]:
    """Gives every family that is built meanwhile the values of --set; yields those that were taken."""
    if not settings:
        return nullcontext(set())
    from components.family import overriding

    return overriding(settings)


def _check_place(named: Any, what: str) -> None:
    """Refuses what a step's own process could not import again, and whose code no key would hold."""
    name = f"{named.__module__}.{named.__qualname__}"
    if "<locals>" in name or path_of(named.__module__) is None:
        raise UsageError(
            f"{what} is defined at the top of a file, where workers find it, but {named.__qualname__} is defined in "
            f"{name.rpartition('.')[0]}. Move it to the pipeline's own file or to one beside it."
        )


def _check_name(step: Step) -> None:
    """Refuses a step that its own process would not find by its function's name."""
    held = getattr(sys.modules.get(step.module), step.function.__qualname__, step)
    if not isinstance(held, Step):
        raise UsageError(
            f"A step is found by the name of its function, but {step.module}.{step.name} is no step. "
            "Write @step above its def."
        )


def _given(step: Step, name: str, value: Any) -> Any:
    """A parameter as a plan holds it."""
    try:
        return in_plan(value)
    except DataError as error:
        raise UsageError(f"`{name}` of {step.name}: {error}") from None


def _all_met(settings: Mapping[str, Mapping[str, str]], met: set[tuple[str, str]]) -> None:
    if not settings:
        return
    from components.family import called, read_field

    for family, own in settings.items():
        for name in own:
            if (family, name) not in met:
                read_field(called(family), name, own[name])  # an unknown name or value is the likelier mistake
                raise UsageError(
                    f"--set {family}.{name} met no {family}: this pipeline builds none with these parameters."
                )


def handles(value: Any) -> Iterator[Handle]:
    """Every handle in a value."""
    return parts(value, Handle)


def parts(value: Any, kind: type[Part]) -> Iterator[Part]:
    """Every instance of a kind in a value."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from parts(inner, kind)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from parts(inner, kind)
    elif is_dataclass(value) and not isinstance(value, type | Handle):
        for one in fields(value):
            yield from parts(getattr(value, one.name), kind)


def whole(source: Source) -> Source:
    """The source that this one is a part of."""
    return whole(source.source) if isinstance(source, Only) else source


def fold_of(source: Source) -> set[tuple[int, int]]:
    """Which fold a source holds out, counted from 1, and of how many; nothing where it has none."""
    fold, folds = getattr(source, "fold", None), getattr(source, "folds", None)
    return {(fold + 1, folds)} if isinstance(fold, int) and isinstance(folds, int) else set()


def title_of(step: Step, arguments: Mapping[str, Any], nodes: Mapping[str, Node]) -> str:
    """The step, and the word that tells it from its like: a family's, its input's, a model's name."""
    if "name" in arguments:
        return f"{step.name} {arguments['name']}"
    for value in arguments.values():
        if is_a(value, FAMILY):
            return f"{step.name} {value.name}"
        if isinstance(value, Handle) and " " in nodes[value.key].title and "compare" not in step.name:
            return f"{step.name} {nodes[value.key].title.partition(' ')[2]}"
    return f"{step.name} {arguments['method']}" if "method" in arguments else step.name


def resources_of(arguments: Mapping[str, Any], spreads: bool) -> dict[str, float]:
    """Resources of a step with its workers, in Ray's words; `own` is the part of its own process."""
    workers, gpus = arguments.get("workers", 0), arguments.get("gpus", 0)
    least = workers[0] if isinstance(workers, list | tuple) else workers
    if not isinstance(least, int):
        return {}
    own = float(not spreads or ("workers" in arguments and least == 0))
    loading = least > 1  # takes a CPU besides: see `check_workers`
    return {"CPU": own + least + loading, "GPU": float((gpus or 0) * max(least, 1)), "own": own}


def check_gates(arguments: Mapping[str, Any], scores: Sequence[str]) -> None:
    """A gate's thresholds are numbers, and its names are among the scores of the families behind it."""
    for value in arguments.values():
        if is_a(value, GATE):
            for name, threshold in {**value.least, **value.most}.items():
                if isinstance(threshold, Handle) or not isinstance(threshold, int | float):
                    raise UsageError(f"The threshold of {name!r} must be a number, but got {threshold!r}.")
                if scores and name not in scores:
                    near = nearest(name, scores)
                    raise UsageError(f"A gate asks for a score, but got {name!r}.{near} There are {', '.join(scores)}.")

"""
Drawing a pipeline: its function runs once, in milliseconds, and every step that it calls becomes a node.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.artifacts import Gate
from components.errors import UsageError, nearest
from components.family import Family, find, overriding, read_field
from components.plain import class_of
from components.step import Handle, Step, current_drawing
from pipelines.engine.code import path_of
from pipelines.engine.keys import digest, in_key, in_plan, ingredients, modules_of


@dataclass(frozen=True)
class Node:
    """One step of a plan, in plain data: a plan is written as JSON and read without importing anything."""

    key: str
    step: str
    """components.steps.train:train"""
    title: str
    """what people read: "train pointnet\""""
    parameters: Mapping[str, Any]
    needs: tuple[str, ...]
    ingredients: Mapping[str, Any]
    modules: tuple[str, ...]
    seed: int
    resources: Mapping[str, float]


@dataclass
class Graph:
    """The nodes of one drawing by their keys, in the order in which they were drawn."""

    nodes: dict[str, Node] = field(default_factory=dict)
    seed: int = 0

    def add(self, step: Step, arguments: Mapping[str, Any]) -> Any:
        """Draws a call; two calls with one key are one node."""
        _check_place(step)
        modules = {step.module} | modules_of(arguments)
        counted = {name: in_key(value) for name, value in arguments.items() if name not in step.aside}
        made_of = ingredients(modules, counted, self.seed)
        key = digest({"step": step.name, **made_of})
        check_gates(arguments, self._scores_behind(arguments))
        if key not in self.nodes:
            self.nodes[key] = Node(
                key=key,
                step=f"{step.module}:{step.name}",
                title=title_of(step, arguments, self.nodes),
                parameters={name: in_plan(value) for name, value in arguments.items()},
                needs=tuple(sorted({handle.key for handle in handles(arguments)})),
                ingredients=made_of,
                modules=tuple(sorted(modules)),
                seed=self.seed,
                resources=resources_of(arguments),
            )
        handles_out = tuple(Handle(step.name, key, name) for name in step.outputs or ("",))
        return handles_out if step.outputs else handles_out[0]

    def _scores_behind(self, arguments: Mapping[str, Any]) -> list[str]:
        """What the families that led to these arguments are scored by; nothing where that is not known yet."""
        waiting, behind = {handle.key for handle in handles(arguments)}, set[str]()
        while waiting:
            key = waiting.pop()
            behind.add(key)
            waiting |= set(self.nodes[key].needs) - behind
        parameters = [self.nodes[key].parameters for key in behind]
        kinds = {v.get("@", "") for own in parameters for v in own.values() if isinstance(v, Mapping)}
        families = [class_of(kind) for kind in kinds if kind.startswith("components.families.")]
        undeclared = [f for f in families if f.goal.name not in f.scores]  # type: ignore[attr-defined]
        if undeclared or any(own.get("extractor") for own in parameters):
            return []
        return sorted({name for family in families for name in family.scores})  # type: ignore[attr-defined]


def draw(pipeline: Callable[..., None], values: Mapping[str, Any], settings: Mapping[str, Mapping[str, str]]) -> Graph:
    """The graph of a pipeline for these parameters. `settings` are those of --set: family -> field -> text."""
    graph = Graph(seed=int(values.get("seed", 0)))
    token = current_drawing.set(graph)
    try:
        with overriding(settings) as met:
            pipeline(**values)
    finally:
        current_drawing.reset(token)
    _all_met(settings, met)
    return graph


def _check_place(step: Step) -> None:
    """A step of a file that workers cannot import, and whose code no key would hold, is refused."""
    if path_of(step.module) is None:
        raise UsageError(
            f"A step lives in components/steps, but {step.name} is defined in {step.module}. Move it to a file there."
        )


def _all_met(settings: Mapping[str, Mapping[str, str]], met: set[tuple[str, str]]) -> None:
    for family, own in settings.items():
        for name in own:
            if (family, name) not in met:
                read_field(find(family), name, own[name])  # an unknown name or value is the likelier mistake
                raise UsageError(
                    f"--set {family}.{name} met no {family}: this pipeline builds none with these parameters."
                )


def handles(value: Any) -> Iterator[Handle]:
    """Every handle in a value."""
    if isinstance(value, Handle):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from handles(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from handles(inner)
    elif hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        for name in value.__dataclass_fields__:
            yield from handles(getattr(value, name))


def title_of(step: Step, arguments: Mapping[str, Any], nodes: Mapping[str, Node]) -> str:
    """The step, and the word that tells it from its like: a family's, its input's, a model's name."""
    if "name" in arguments:
        return f"{step.name} {arguments['name']}"
    for value in arguments.values():
        if isinstance(value, Family):
            return f"{step.name} {value.name}"
        if isinstance(value, Handle) and " " in nodes[value.key].title and "compare" not in step.name:
            return f"{step.name} {nodes[value.key].title.partition(' ')[2]}"
    return f"{step.name} {arguments['method']}" if "method" in arguments else step.name


def resources_of(arguments: Mapping[str, Any]) -> dict[str, float]:
    """What the step's own workers will take, in Ray's words."""
    workers, gpus = arguments.get("workers", 0), arguments.get("gpus", 0)
    least = workers[0] if isinstance(workers, tuple) else workers
    if not isinstance(least, int) or isinstance(least, Handle):
        return {}
    return {"CPU": float(least), "GPU": float((gpus or 0) * max(least, 1))}


def check_gates(arguments: Mapping[str, Any], scores: Sequence[str]) -> None:
    """A gate's thresholds are numbers, and its names are among the scores of the families behind it."""
    for value in arguments.values():
        if isinstance(value, Gate):
            for name, threshold in {**value.least, **value.most}.items():
                if isinstance(threshold, Handle) or not isinstance(threshold, int | float):
                    raise UsageError(f"The threshold of {name!r} must be a number, but got {threshold!r}.")
                if scores and name not in scores:
                    near = nearest(name, scores)
                    raise UsageError(f"A gate asks for a score, but got {name!r}.{near} There are {', '.join(scores)}.")

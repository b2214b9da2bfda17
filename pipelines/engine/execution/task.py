"""
Running one node: from its plain description to its manifest, in whatever process it is.
"""

import errno
import importlib
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from components.errors import DataError, RayfieldError, no_exit
from components.runtime import objects
from components.runtime.crash_points import point
from components.runtime.objects import Damaged
from components.runtime.redaction import redact
from components.runtime.serialization import allow, class_of, decode, encode, readable
from components.source import Source
from components.step import Step
from pipelines.engine.caching.cache_key import root_of
from pipelines.engine.caching.fingerprint import is_in_no_key
from pipelines.engine.caching.modules import ROOT
from pipelines.engine.execution.code_snapshot import CODE, modules, own_modules
from pipelines.engine.execution.context import Running, handed_over, name_of_source
from pipelines.engine.execution.observed_inputs import observing
from pipelines.engine.execution.process_state import SET, put_back
from pipelines.engine.execution.retry import kind_of, ours
from pipelines.engine.execution.usage import spent
from pipelines.engine.graph.kinds import FAMILY, is_a
from pipelines.engine.store.store import Store


def work(
    node: Mapping[str, Any], run: str, store: str | objects.Told, resources: Mapping[str, float]
) -> dict[str, Any]:
    """
    Calls the node's step and commits what it made.

    Returns {"ok": True} or {"ok": False, "error", "kind", "code", "traceback"}: an error is a value here, since it
    must reach the driver whole from any process.
    """
    try:
        objects.use(store)
    except RayfieldError as error:
        return _failed(error)
    return _worked(node, run, Store.here(), resources)


def _worked(node: Mapping[str, Any], run: str, store: Store, resources: Mapping[str, float]) -> dict[str, Any]:
    store.look_again()
    context = Running(store, run, node["key"], (), node["seed"], resources, own=tuple(own_modules([node])))
    began = time.time()
    try:
        point("work: a step begins")
        with no_exit(f"Step {node['title']}"), context.working("step"), importable(node), put_back(keyed(node)):
            with observing(node, lambda: imported(own_modules([node]))) as seen:
                step = step_of(node["step"])
                context.roots = (root_of(step.function),)
                arguments = {name: resolve(value, store) for name, value in node["parameters"].items()}
                given = list(sources(arguments, node["ingredients"]["parameters"]))
                context.sources = {name_of_source(source): digest for source, digest in given}
                seen.arguments = arguments
                result = step.run(arguments, context)
            for source, _ in given:
                if name_of_source(source) not in context.asked:  # the step's own way to read it
                    context.listed(source)
            point("work: a result is made, what was said of it waits")
            _tell(seen.also, step, context)
        point("work: all is said, nothing committed")
        cost = {"seconds": round(time.time() - began, 3), **spent(store, run, node["key"])}
        files = handed_over(store, run, node["key"])
        store.commit(node["key"], {**manifest(node, step, run, result, cost, files), "also": seen.also})
        point("work: committed, the runner not told")
        return {"ok": True}
    except Exception as error:
        failed = _failed(error)
        with suppress(OSError, RayfieldError):  # a full disk may be what went wrong: the first error is the one to tell
            context.flush()
        return failed


def _failed(error: Exception) -> dict[str, Any]:
    said = {"error": sentence(ours(error)), "kind": kind_of(error), "code": code_of(error)}
    return {"ok": False, **said, "traceback": readable(redact("".join(traceback.format_exception(error))))}


@contextmanager
def importable(node: Mapping[str, Any]) -> Iterator[None]:
    """
    Imports what the step's code imports of the project, before the step can change any of it.

    One's own code can be imported meanwhile, from the run's copy: it is for each step anew, and what it does then is
    the step's.
    """
    own, folder, path = own_modules([node]), os.environ.get(CODE), list(sys.path)
    others = {name: sys.modules.pop(name) for name in own if folder and name in sys.modules}
    allow(own)
    sys.path[:0] = [folder] if folder else []
    try:
        imported(name for name in modules(node) if name not in own)
        imported(name for package, name in SET.items() if f"package {package}" in node["ingredients"]["code"])
        yield
    finally:
        sys.path[:] = path
        for name in own if folder else ():
            sys.modules.pop(name, None)  # another run may have others of the same names
        sys.modules.update(others)


def imported(names: Iterable[str]) -> None:
    for name in names:
        with suppress(ImportError):  # what a function would try to import, and does without
            importlib.import_module(name)


def keyed(node: Mapping[str, Any]) -> list[str]:
    """The modules of a step whose code its key holds."""
    return [name for name in modules(node) if not is_in_no_key(name)]


def _tell(also: list[str], step: Step, context: Running) -> None:
    """Names what a step read that is in no key; a strict one ends there."""
    if also and step.strict:
        raise DataError(
            f"A strict step reads what its key holds, but {step.name} read {', '.join(also)}. "
            "Pass it as a parameter, or as a source."
        )
    if also:
        context.note({"also read": ", ".join(also)})


def step_of(name: str) -> Step:
    """The step that step:train, or own:shapes:score, stands for."""
    word, _, rest = name.partition(":")
    module, _, function = rest.partition(":") if word == "own" else (_steps().get(rest, ""), "", rest)
    if not module:
        raise RayfieldError(f"No step {rest!r} in components/steps. It was made by another version of the code.")
    found: Step = getattr(importlib.import_module(module), function)
    return found


@cache
def _steps() -> dict[str, str]:
    """Step -> the module of components/steps that defines it."""
    folder = ROOT / "components" / "steps"
    files = {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))}
    return {
        name: ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path, text in files.items()
        for name in re.findall(r"^@step\b.*?^def (\w+)", text, re.MULTILINE | re.DOTALL)
    }


def resolve(value: Any, store: Store) -> Any:
    """A parameter with each {"$": key} replaced by what that key made."""
    if isinstance(value, list):
        return tuple(resolve(item, store) for item in value)
    if not isinstance(value, Mapping):
        return value
    if "$" in value:
        return made(store, value["$"], value["output"])
    inner = {name: resolve(item, store) for name, item in value.items() if name != "@"}
    return class_of(value["@"])(**inner) if "@" in value else inner


def sources(value: Any, counted: Any) -> Iterator[tuple[Source, str]]:
    """The sources in a step's arguments, each with the digest of its listing in what the key holds of them."""
    if isinstance(value, Source):
        yield value, counted["digest"]
    elif isinstance(counted, Mapping) and counted.keys() != {
        "key",
        "output",
    }:  # what another step made was checked there
        for name, inner in counted.items():
            held = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
            yield from sources(held, inner)
    elif isinstance(counted, list):
        for held, inner in zip(value, counted, strict=True):
            yield from sources(held, inner)


def made(store: Store, key: str, output: str = "") -> Any:
    """The result of a key, or one of its named outputs."""
    found = store.manifest(key)
    if found is None:
        # an object of it was lost since the run began: whatever made it makes it anew, and this step is tried again
        raise Damaged(f"The result of key {key} is not in {store.address}. Run the pipeline again.")
    result = decode(found["result"])
    return result[found["outputs"].index(output)] if output else result


def manifest(
    node: Mapping[str, Any],
    step: Step,
    run: str,
    result: Any,
    cost: Mapping[str, float],
    files: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The record of a finished step; a lost one of its `files`, figures among them, has it made anew as well."""
    return {
        "key": node["key"],
        "step": node["step"],
        "title": node["title"],
        "result": encode(result),
        "outputs": list(step.outputs),
        "describe": encode(describe(result)),
        "ingredients": node["ingredients"],
        "class": "tolerance" if "package torch" in node["ingredients"]["code"] else "bitwise",
        "python": platform.python_version(),
        "run": run,
        "when": time.time(),
        "cost": dict(cost),
        "host": os.uname().nodename,
        "files": list(files),
    }


def describe(artifact: Any) -> str:
    """An artifact in a line that a person understands."""
    if hasattr(artifact, "describe"):
        return str(artifact.describe())
    if is_a(artifact, FAMILY):
        shown = {name: getattr(artifact, name) for name in artifact.space()}
        words = (
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in shown.items()
        )
        return f"{artifact.name}: " + ", ".join(words)
    if isinstance(artifact, tuple):
        said = [describe(one) for one in artifact if hasattr(one, "describe")]
        return said[0] if said else f"{len(artifact)} results"  # of a best and its checkpoint, what was chosen
    return str(artifact)


def sentence(error: BaseException) -> str:
    """An error in one line, with what was noted of it on its way."""
    text = readable(redact(" ".join(" ".join([str(error), *getattr(error, "__notes__", ())]).split())))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"The disk is full: {error.filename or 'a file'} was not written. Make room; the same command continues."
    return text if isinstance(error, RayfieldError) else f"{type(error).__name__}: {text}"


def code_of(error: BaseException) -> int:
    """The exit code that an error asks for."""
    return error.code if isinstance(error, RayfieldError) else 1

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from components.errors import DataError, RayfieldError
from components.runtime.crash import point
from components.runtime.plain import allow, class_of, decode, encode
from components.runtime.secrets import redact
from components.step import Step
from pipelines.engine.code import ROOT
from pipelines.engine.context import Running
from pipelines.engine.errors import kind_of
from pipelines.engine.fingerprint import is_in_no_key
from pipelines.engine.keys import root_of
from pipelines.engine.kinds import FAMILY, is_a
from pipelines.engine.observing import observing
from pipelines.engine.snapshot import CODE, own_modules
from pipelines.engine.spending import spent
from pipelines.engine.state import put_back
from pipelines.engine.store import Store


def work(node: Mapping[str, Any], run: str, address: str, resources: Mapping[str, float]) -> dict[str, Any]:
    """
    Calls the node's step and commits what it made.

    Returns {"ok": True} or {"ok": False, "error", "kind", "code", "traceback"}: an error is a value here, since it
    must reach the driver whole from any process.
    """
    os.environ["RAYFIELD_STORE"] = address
    store = Store(address)
    store.look_again()
    context = Running(store, run, node["key"], (), node["seed"], resources, own=tuple(own_modules([node])))
    began = time.time()
    try:
        point("work: a step begins")
        with context.working("step"), importable(node), put_back(keyed(node)):
            step = step_of(node["step"])
            context.roots = (root_of(step.function),)
            arguments = {name: resolve(value, store) for name, value in node["parameters"].items()}
            with observing(node, arguments) as seen:
                result = step.run(arguments, context)
            point("work: a result is made, what was said of it waits")
            _tell(seen.also, step, context)
        point("work: all is said, nothing committed")
        cost = {"seconds": round(time.time() - began, 3), **spent(store, run, node["key"])}
        store.commit(node["key"], {**manifest(node, run, result, cost), "also": seen.also})
        point("work: committed, the runner not told")
        return {"ok": True}
    except Exception as error:
        said = {"error": sentence(error), "kind": kind_of(error), "code": code_of(error)}
        trace = redact(traceback.format_exc())
        with suppress(OSError, RayfieldError):  # a full disk may be what went wrong: the first error is the one to tell
            context.flush()
        return {"ok": False, **said, "traceback": trace}


@contextmanager
def importable(node: Mapping[str, Any]) -> Iterator[None]:
    """Imports what the step's code imports, one's own from the run's copy, before the step can change any of it."""
    own, folder, path = own_modules([node]), os.environ.get(CODE), list(sys.path)
    allow(own)
    if folder:
        sys.path.insert(0, folder)
        for name in own:
            if not str(getattr(sys.modules.get(name), "__file__", folder)).startswith(folder):
                del sys.modules[name]  # of another pipeline, which this process drew or ran before
    try:
        for name in node["modules"]:
            with suppress(ImportError):  # what a function would try to import, and does without
                importlib.import_module(name)
        yield
    finally:
        sys.path[:] = path


def keyed(node: Mapping[str, Any]) -> list[str]:
    """The modules that a step's code imports and that are in its key."""
    return [name for name in node["modules"] if not is_in_no_key(name)]


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


def made(store: Store, key: str, output: str = "") -> Any:
    """What a key made, or one of its named outputs."""
    found = store.manifest(key)
    if found is None:
        raise RayfieldError(f"The result of key {key} is not in {store.address}. Run the pipeline again.")
    result = decode(found["result"])
    return result[found["outputs"].index(output)] if output else result


def manifest(node: Mapping[str, Any], run: str, result: Any, cost: Mapping[str, float]) -> dict[str, Any]:
    """The record of a finished step."""
    return {
        "key": node["key"],
        "step": node["step"],
        "title": node["title"],
        "result": encode(result),
        "outputs": list(step_of(node["step"]).outputs),
        "describe": describe(result),
        "ingredients": node["ingredients"],
        "class": "tolerance" if "package torch" in node["ingredients"]["code"] else "bitwise",
        "python": platform.python_version(),
        "run": run,
        "when": time.time(),
        "cost": dict(cost),
        "host": os.uname().nodename,
    }


def describe(artifact: Any) -> str:
    """What a step made, in a line that a person understands."""
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
    """An error in one line."""
    text = redact(" ".join(str(error).split()))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"The disk is full: {error.filename or 'a file'} was not written. Make room; the same command continues."
    return text if isinstance(error, RayfieldError) else f"{type(error).__name__}: {text}"


def code_of(error: BaseException) -> int:
    """The exit code that an error asks for."""
    return error.code if isinstance(error, RayfieldError) else 1

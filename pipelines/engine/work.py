"""
Running one node: from its plain description to its manifest, in whatever process it is.
"""

import errno
import importlib
import os
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from components.errors import RayfieldError
from components.runtime import files
from components.runtime.crash import point
from components.runtime.plain import class_of, decode, encode
from components.runtime.secrets import redact
from components.step import Step
from pipelines.engine.context import Running
from pipelines.engine.errors import kind_of, ours
from pipelines.engine.keys import check_code
from pipelines.engine.kinds import FAMILY, is_a
from pipelines.engine.spending import spent
from pipelines.engine.store import Store


def work(node: Mapping[str, Any], run: str, store: str | files.Told, resources: Mapping[str, float]) -> dict[str, Any]:
    """
    Calls the node's step and commits what it made.

    Returns {"ok": True} or {"ok": False, "error", "kind", "code", "traceback"}: an error is a value here, since it
    must reach the driver whole from any process.
    """
    try:
        files.use(store)
    except RayfieldError as error:
        return _failed(error)
    return _worked(node, run, Store.here(), resources)


def _worked(node: Mapping[str, Any], run: str, store: Store, resources: Mapping[str, float]) -> dict[str, Any]:
    store.look_again()
    context = Running(store, run, node["key"], (node["step"].partition(":")[0],), node["seed"], resources)
    began = time.time()
    try:
        point("work: a step begins")
        with context.working("step"):
            arguments = {name: resolve(value, store) for name, value in node["parameters"].items()}
            step = step_of(node["step"])
            check_code(node)  # now that it is imported
            result = step.run(arguments, context)
            point("work: a result is made, what was said of it waits")
        point("work: all is said, nothing committed")
        cost = {"seconds": round(time.time() - began, 3), **spent(store, run, node["key"])}
        store.commit(node["key"], manifest(node, run, result, cost))
        point("work: committed, the runner not told")
        return {"ok": True}
    except Exception as error:
        failed = _failed(error)
        with suppress(OSError, RayfieldError):  # a full disk may be what went wrong: the first error is the one to tell
            context.flush()
        return failed


def _failed(error: Exception) -> dict[str, Any]:
    said = {"error": sentence(ours(error)), "kind": kind_of(error), "code": code_of(error)}
    return {"ok": False, **said, "traceback": redact("".join(traceback.format_exception(error)))}


def step_of(name: str) -> Step:
    """The step that "module:name" stands for."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


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
        "class": "tolerance" if "torch" in str(node["ingredients"]["code"].keys()) else "bitwise",
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

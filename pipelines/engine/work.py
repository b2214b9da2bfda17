"""
Running one node: from its plain description to its manifest, in whatever process it is.
"""

import errno
import importlib
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from components.errors import RayfieldError
from components.runtime.crash import point
from components.runtime.files import Damaged
from components.runtime.plain import class_of, decode, encode
from components.runtime.secrets import redact
from components.step import Step
from pipelines.engine.context import Running, handed_over
from pipelines.engine.errors import kind_of
from pipelines.engine.keys import check_code
from pipelines.engine.kinds import FAMILY, is_a
from pipelines.engine.spending import spent
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
        files = handed_over(store, run, node["key"])
        store.commit(node["key"], manifest(node, run, result, cost, files))
        point("work: committed, the runner not told")
        return {"ok": True}
    except Exception as error:
        said = {"error": sentence(error), "kind": kind_of(error), "code": code_of(error)}
        trace = redact(traceback.format_exc())
        with suppress(OSError, RayfieldError):  # a full disk may be what went wrong: the first error is the one to tell
            context.flush()
        return {"ok": False, **said, "traceback": trace}


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
        # an object of it was lost since the run began: whatever made it makes it anew, and this step is tried again
        raise Damaged(f"The result of key {key} is not in {store.address}. Run the pipeline again.")
    result = decode(found["result"])
    return result[found["outputs"].index(output)] if output else result


def manifest(
    node: Mapping[str, Any], run: str, result: Any, cost: Mapping[str, float], files: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The record of a finished step; a lost one of its `files`, figures among them, has it made anew as well."""
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
        "files": list(files),
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

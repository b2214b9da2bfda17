"""
Runs in a store as `running.execute` leaves them, without a command line, a cluster or MLflow.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.engine.execution.executors import Here
from pipelines.engine.execution.scheduler_loop import Runner
from pipelines.engine.store.store import Store, owner
from tests.pipelines.engine.execution.test_scheduler_loop import nodes_of


def recorded(
    store: Store, pipeline: Callable[..., None], run: str = "20260101-000000-aa01", *, code: int = 0, **more: Any
) -> list[dict[str, Any]]:
    """Runs a pipeline here, and writes its record; gives its nodes."""
    nodes = nodes_of(pipeline)
    record = {
        "pipeline": "toy",
        "title": "toy 2026-01-01 00:00",
        "parameters": {"size": "tiny"},
        "nodes": [{name: node[name] for name in ("key", "title", "step", "needs")} for node in nodes],
        "commit": "abc",
        "command": "rayfield run toy",
        "environment": {"python": "3.11"},
        "started": time.time(),
        "owner": owner(),
    }
    Runner(store, run, nodes, Here)()
    write(store, run, {**record, "ended": time.time(), "code": code, **more})
    return nodes


def write(store: Store, run: str, record: Mapping[str, Any]) -> None:
    store.write(f"runs/{run}/run.json", json.dumps(record).encode())


def change(store: Store, run: str, *gone: str, **more: Any) -> None:
    """Changes a run's record."""
    held = store.load(f"runs/{run}/run.json")
    write(store, run, {**{name: value for name, value in held.items() if name not in gone}, **more})


def held(store: Store, key: str, **more: Any) -> None:
    """Changes a manifest."""
    manifest = store.manifest(key)
    store.delete(f"keys/{key}.json")
    store.commit(key, {**(manifest or {}), **more})

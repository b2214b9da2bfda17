"""
A run from its plan to its end: the record, the executor, the display, MLflow, the exit code.
"""

import json
import os
import signal
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pipelines.engine.display import console, results, summary, watcher
from pipelines.engine.executors import OnRay
from pipelines.engine.pipeline import sketch
from pipelines.engine.plans import REFUSED, Request, statuses, verdict
from pipelines.engine.runner import Outcome, Runner
from pipelines.engine.stopping import stoppable
from pipelines.engine.store import Store, owner
from pipelines.engine.tracking import Tracker, commit, ledger_lines

__all__ = ["execute", "ledger_lines"]

INTERRUPTED = 5


def execute(request: Request, nodes: list[dict[str, Any]], store: Store, as_json: bool) -> int:
    """Runs what is not in the store yet, and returns the exit code."""
    # a job's driver goes on with the run that was submitted
    own = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{request.digest()[:4]}{os.getpid() % 0xFFF:03x}"
    run = os.environ.get("RAYFIELD_RUN") or own
    record = _begin(request, nodes, store, run)
    tracker, screen = Tracker(store, run), watcher(len(nodes))
    runner = Runner(store, run, nodes, OnRay, [screen])
    tracker.start()
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with stoppable(store, run):
            outcome = runner()
        code = verdict(statuses(nodes, store)) if outcome.ok else max(_code(e) for e in outcome.errors.values())
    except KeyboardInterrupt:
        runner.cancel()
        outcome, code = runner.outcome, INTERRUPTED
    finally:
        screen.close()
        signal.signal(signal.SIGTERM, previous)
    store.write(f"runs/{run}/run.json", json.dumps({**record, "ended": time.time(), "code": code}).encode())
    problem = tracker.finish()
    _say(nodes, store, outcome, code, problem, run, as_json)
    return code


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _code(error: Mapping[str, Any]) -> int:
    return int(error.get("code", 1))


def _begin(request: Request, nodes: list[dict[str, Any]], store: Store, run: str) -> dict[str, Any]:
    record = {
        "pipeline": request.name,
        "title": f"{request.name} {datetime.now(UTC):%Y-%m-%d %H:%M}",
        "parameters": {p.name: p.default for p in sketch(request.pipeline).parameters} | request.said(),
        "nodes": [{"key": n["key"], "title": n["title"], "step": n["step"]} for n in nodes],
        "commit": commit(),
        "started": time.time(),
        "owner": owner(),
    }
    store.write(f"runs/{run}/run.json", json.dumps(record).encode())
    return record


def _say(
    nodes: list[dict[str, Any]], store: Store, outcome: Outcome, code: int, problem: str, run: str, as_json: bool
) -> None:
    manifests = statuses(nodes, store)
    status = {node["key"]: outcome.status.get(node["key"], "skipped") for node in nodes}
    if as_json:
        print(json.dumps(summary(nodes, manifests, status), indent=1))
    else:
        results(nodes, manifests, status)
    screen = console()
    if problem:
        screen.print(f"  {problem}")
    if code == INTERRUPTED:
        screen.print("  Interrupted. The same command continues.")
    elif code == REFUSED:
        screen.print("  The gate said no: the model is registered, and the champion stays.")
    elif code:
        screen.print(f"  A step failed. `rayfield show {run}` has its traceback; the same command continues.")

"""
A run from its plan to its end: the record, the executor, the display, MLflow, the exit code.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from components.errors import UsageError
from components.runtime.crash_points import point
from components.runtime.objects import tracking_uri
from components.steps.registry.versions import check_address
from pipelines.cli.hints import typed
from pipelines.engine.execution import cancellation
from pipelines.engine.execution.code_snapshot import CODE, PACKED, take
from pipelines.engine.execution.executors import Executor, OnRay, check_head
from pipelines.engine.execution.scheduler_loop import Outcome, Runner
from pipelines.engine.graph.plan_cache import REFUSED, Request, statuses, verdict
from pipelines.engine.monitoring.console import console, results, summary, watcher
from pipelines.engine.monitoring.mlflow_sync import Tracker, ledger_lines
from pipelines.engine.monitoring.registrations import told_now
from pipelines.engine.store.orphans import INTERRUPTED, end, hold, mark, tried
from pipelines.engine.store.run_record import begun, counts, new_name
from pipelines.engine.store.store import Store, owner

__all__ = ["execute", "ledger_lines", "run_name"]


def run_name(request: Request) -> str:
    """RAYFIELD_RUN, which a driver that is started again gets as well; else the time, what was asked, and who asks."""
    name = os.environ.get("RAYFIELD_RUN", "")
    if not name:
        return new_name(request)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UsageError(f"RAYFIELD_RUN is made of letters, digits, '-', '_' and '.', but got {name!r}.")
    return name


def execute(request: Request, nodes: list[dict[str, Any]], store: Store, as_json: bool) -> int:
    """
    Runs what is not in the store yet, and returns the exit code.

    Of several drivers of one run the first writes its record and sends it to MLflow; the others work beside it.
    """
    run = run_name(request)
    check_address(tracking_uri())
    check_head(os.environ.get("RAY_ADDRESS", ""))
    with _clean_stdout():
        outcome, code, problem = _carried_out(request, nodes, store, run)
    _say(nodes, store, outcome, code, problem, run, as_json)
    return code


def _carried_out(request: Request, nodes: list[dict[str, Any]], store: Store, run: str) -> tuple[Outcome, int, str]:
    """How the steps ended, the exit code, and what MLflow did not take."""
    lease = hold(store, run)
    tracker, screen = Tracker(store, run), watcher(nodes)
    if lease is not None:
        _begin(request, nodes, store, run)
        tracker.start()
    runner = Runner(
        store, run, nodes, partial(_executor, request, nodes, store), [screen], held=[lease] if lease else []
    )
    try:
        with _interruptible() as runner.check, cancellation.stoppable(store, run):
            outcome = runner()
        code = verdict(statuses(nodes, store)) if outcome.ok else max(_code(e) for e in outcome.errors.values())
    except KeyboardInterrupt:
        runner.cancel()
        outcome, code = runner.outcome, INTERRUPTED
    finally:
        screen.close()
    lease = lease or hold(store, run)  # whoever had it may have died since
    problem = _finish(store, run, code, outcome, tracker) if lease else ""
    if lease is not None:
        lease.release()
    return outcome, code, problem


def _executor(request: Request, nodes: list[dict[str, Any]], store: Store) -> Executor:
    """Where the steps run, with a copy of the code that its processes import."""
    if not os.environ.get(PACKED):
        os.environ[CODE] = str(take(request, nodes, store))
    return OnRay()


@contextmanager
def _clean_stdout() -> Iterator[None]:
    """Send what libraries print to stderr meanwhile: stdout is for the JSON that was asked for."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _finish(store: Store, run: str, code: int, outcome: Outcome, tracker: Tracker) -> str:
    """Writes how a run ended, and tells MLflow. Returns what went wrong with that."""
    point("run: over, its end not recorded")
    end(store, run, code, counts=counts(outcome.status))
    point("run: its end recorded, not sent")
    _report(store, run)
    problem = tracker.finish()
    tried(store, run)
    return problem


def _report(store: Store, run: str) -> None:
    """Writes the run's report; what it lacks then is no reason to lose the run's exit code."""
    from pipelines.engine.monitoring.report import write_report

    damaged: list[str] = []
    try:
        write_report(store, run, damaged)
    except Exception as error:
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        again = typed(f"rayfield report {run}")
        console(stderr=True).print(f"  The report was not written ({words}). `{again}` tries again.", soft_wrap=True)
    for words in damaged:
        console(stderr=True).print(f"  {words}", soft_wrap=True)


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Convert SIGTERM to KeyboardInterrupt; yield a check that raises it again: a callback of Ray may lose it."""
    came: list[int] = []

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    def interrupt(number: int, _: object) -> None:
        came.append(number)
        check()

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield check
    finally:
        signal.signal(signal.SIGTERM, previous)


def _code(error: Mapping[str, Any]) -> int:
    return int(error.get("code", 1))


def _begin(request: Request, nodes: list[dict[str, Any]], store: Store, run: str) -> None:
    """Writes a run's record; one that a driver left behind goes on under its first title and time."""
    point("run: before its mark")
    mark(store, run)
    before = store.record(run) or {}
    if before.get("owner", {}).get("pid"):
        store.delete(cancellation.mark(run))  # for a driver that is gone
    kept: dict[str, Any] = {name: before[name] for name in ("title", "started") if name in before}
    store.begin(run, {**begun(request, nodes), **kept, "owner": owner()})
    point("run: its record written")


def _say(
    nodes: list[dict[str, Any]], store: Store, outcome: Outcome, code: int, problem: str, run: str, as_json: bool
) -> None:
    manifests = told_now(nodes, statuses(nodes, store))
    status = {node["key"]: outcome.status.get(node["key"], "skipped") for node in nodes}
    if as_json:
        print(json.dumps(summary(nodes, manifests, status), indent=1))
    else:
        results(nodes, manifests, status, store)
    screen = console(stderr=True)
    if problem:
        screen.print(f"  {problem}")
    if code == INTERRUPTED:
        screen.print("  Interrupted. The same command continues.")
    elif code == REFUSED:
        screen.print("  The gate said no: the model is registered, and the champion stays.")
    elif code:
        why = typed(f"rayfield show {run}")
        screen.print(f"  A step failed. `{why}` says why; the same command continues.", soft_wrap=True)

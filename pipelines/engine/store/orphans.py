"""
Runs whose driver died, or whose MLflow sync is incomplete.

A run has a mark at open/<run> from before it begins until MLflow has all of it, and a lease that its driver renews.
A mark whose lease is free is anybody's to finish: on the driver's host at once, elsewhere when the lease runs out.
"""

import time
from collections.abc import Iterator
from typing import Any

from components.runtime.crash_points import point
from pipelines.engine.store.store import Lease, Store

INTERRUPTED = 5
"""the exit code of a run that can be continued"""


def hold(store: Store, run: str) -> Lease | None:
    """The right to write a run's record and to send it; None while a living driver has it."""
    return store.lease(f"run-{run}")


def mark(store: Store, run: str) -> None:
    """Says that a run begins: whatever happens to its driver, the next run finds it."""
    store.write(f"open/{run}", run.encode())
    point("run: marked as open")


def unmark(store: Store, run: str) -> None:
    """Says that nothing of a run is left to do."""
    point("run: nothing left to send, mark not removed")
    store.delete(f"open/{run}")


def left(store: Store, *, own: str = "", dead: bool = False) -> Iterator[str]:
    """
    The open runs that nobody works on, `own` apart; each is held by this process while it has its turn.

    `dead` leaves out those whose drivers lived to the end, and wait for MLflow alone.
    """
    for run in store.names("open"):
        if run == own or (dead and (_record(store, run) or {}).get("tried")):
            continue
        lease = hold(store, run)
        if lease is not None:
            try:
                yield run
            finally:
                lease.release()


def ended(store: Store, run: str) -> bool:
    """True if a run's driver wrote how it ended."""
    return (_record(store, run) or {}).get("ended") is not None


def tried(store: Store, run: str) -> None:
    """Says that a run's driver lived until it had tried to send all of it."""
    _write(store, run, {**(_record(store, run) or {}), "tried": True})
    point("run: sent, its lease still held")


def end(store: Store, run: str, code: int = INTERRUPTED, **more: Any) -> bool:
    """Writes how a run ended, if that is not known. False if its driver died before there was a record."""
    record = _record(store, run)
    if record is not None and record.get("ended") is None:
        _write(store, run, {**record, "ended": time.time(), "code": code, **more})
    return record is not None


def _record(store: Store, run: str) -> dict[str, Any] | None:
    return store.record(run)


def _write(store: Store, run: str, record: dict[str, Any]) -> None:
    store.save(f"runs/{run}/run.json", record)

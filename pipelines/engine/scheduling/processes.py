"""
The runs of a scheduler: processes of their own, found again by the name of their run.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

from pipelines.engine.caching.modules import ROOT
from pipelines.engine.scheduling.schedules import Schedule, Tick
from pipelines.engine.store.store import Store

GONE = -1
"""the code of a run that ended and told nobody"""


class Child(Protocol):
    """A run that goes on."""

    def poll(self) -> int | None: ...

    def terminate(self) -> None: ...


def run(schedule: Schedule, tick: Tick, store: Store) -> Child:
    """Starts `rayfield run` or `rayfield submit` with the run's own name; its lines go where the scheduler's go."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    own = {"RAYFIELD_RUN": tick.run, "RAYFIELD_TICK": tick.name, "RAYFIELD_STORE": store.address, "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pipelines", *schedule.command(tick)],
        cwd=schedule.folder if Path(schedule.folder).is_dir() else None,
        env={**os.environ, **own},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is the scheduler's: it interrupts each run once
    )


class Orphan:
    """A run whose scheduler died, and that goes on."""

    def __init__(self, process: Any, run: str, store: Store) -> None:
        self.process, self.run, self.store = process, run, store

    def poll(self) -> int | None:
        if self.process.is_running() and self.process.status() != "zombie":
            return None
        code = recorded(self.run, self.store)
        return GONE if code is None else code

    def terminate(self) -> None:
        self.process.terminate()


def orphan(name: str, store: Store) -> Child | None:
    """The process of a run, if it goes on here: found by the name that it was given."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            words = process.cmdline()
            if "pipelines" in words and process.environ().get("RAYFIELD_RUN") == name:
                return Orphan(process, name, store)
    return None


def recorded(name: str, store: Store) -> int | None:
    """The exit code that a run wrote down; None if it did not come to it."""
    record = store.record(name)
    return record.get("code") if record and record.get("ended") is not None else None

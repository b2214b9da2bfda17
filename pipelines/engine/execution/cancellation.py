"""
Stopping a run from anywhere that reaches its store: a mark there, which the run's driver looks for.

No signal and no cluster is needed for it, so that it reaches a driver on any machine.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from components.errors import RayfieldError
from pipelines.engine.store.store import Store, owner

LOOK = 2.0  # seconds between looks for the mark


def mark(run: str) -> str:
    return f"runs/{run}/stop.json"


def ask(store: Store, run: str) -> None:
    """Asks the driver of a run to end it, so that it can be continued."""
    store.write(mark(run), json.dumps({"when": time.time(), "by": owner()}).encode())


@contextmanager
def stoppable(store: Store, run: str) -> Iterator[None]:
    """Ends this process as SIGTERM would when somebody asks for it."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK):
            with suppress(OSError, RayfieldError):  # a store that does not answer stops nothing
                if store.read(mark(run)) is not None:
                    return os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=look, daemon=True, name="stop")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        store.delete(mark(run))  # the run may be continued

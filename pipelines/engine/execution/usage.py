"""
The cost of a step: the CPU seconds of every process that worked for it, and the seconds for which it held GPUs.

A process adds up what it spends on a step in one small file, so that a worker that Ray uses again counts once for
each piece of work. What Ray itself takes (its controllers, its object store) is not counted.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from components.errors import RayfieldError
from pipelines.engine.store.store import Store

_PROCESS = uuid.uuid4().hex[:8]
_spent: dict[str, dict[str, float]] = {}
_inside: list[str] = []


@contextmanager
def spending(store: Store, folder: str, gpus: float) -> Iterator[None]:
    """Adds what this process spends inside to the folder of a step; work inside work is counted once."""
    outermost, wall, cpu = not _inside, time.time(), time.process_time()
    _inside.append(folder)
    try:
        yield
    finally:
        _inside.remove(folder)
        own = _spent.setdefault(folder, {"cpu": 0.0, "gpu": 0.0})
        own["cpu"] += time.process_time() - cpu if outermost else 0.0
        own["gpu"] += (time.time() - wall) * gpus
        with suppress(OSError, RayfieldError):  # if the work failed, its own error is the one to tell
            store.save(f"{folder}/{_PROCESS}.json", own)


def spent(store: Store, run: str, key: str) -> dict[str, float]:
    """The CPU and GPU seconds of a step in a run, over all of its processes and attempts."""
    folder = f"runs/{run}/spent/{key}"
    files = [store.load(f"{folder}/{name}") or {} for name in store.names(folder)]
    return {kind: round(sum(file.get(kind, 0.0) for file in files), 3) for kind in ("cpu", "gpu")}

"""
What Ray's workers print for a step is in the step's logs, and what they take is in its cost.
"""

import os
import time
from pathlib import Path

from components.steps.ray_workers import spread
from pipelines.engine.execution.context import Running
from pipelines.engine.execution.usage import spent
from pipelines.engine.monitoring.logs import read
from pipelines.engine.store.store import Store


def loud(item: int) -> int:
    """Says where it is, by Python and past it, and takes some time of the CPU."""
    print(f"item {item} in {os.getpid()}")
    os.write(2, f"error {item}\n".encode())
    began = time.process_time()
    while time.process_time() - began < 0.05:
        pass
    return item


def test_data_tasks_print_into_the_logs_of_their_step(ray_session, own_store: Path, capfd):
    store = Store(str(own_store))
    context = Running(store, "run", "key", (), 0, {"CPU": 4.0})
    with context.working("step"):
        found = sorted(item for item, _ in spread(loud, range(6), (), on="ray", context=context))
    lines = read(store, "run", "key", {})

    assert found == list(range(6))
    for item in range(6):
        assert sum(line.text.startswith(f"item {item} ") for line in lines) == 1
        assert sum(line.text == f"error {item}" for line in lines) == 1
    assert {line.writer for line in lines if line.text.startswith("item")} == {"step", "data"}
    assert {int(line.text.split()[-1]) for line in lines if line.text.startswith("item")} != {os.getpid()}
    assert spent(store, "run", "key")["cpu"] >= 6 * 0.05
    assert len(store.names("runs/run/spent/key")) >= 2

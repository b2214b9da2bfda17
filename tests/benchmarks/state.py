"""
What it costs to put the state of a process back after a step, beside a process of its own for each step.

CPU milliseconds a step. The first lines are `put_back` alone, with the modules of a step that does nothing and of a
training. The last are Ray's tasks that do nothing, its daemons and workers included: the slope between many and few, so
that neither Ray's start nor an import is in it.

    python -m tests.benchmarks.state
"""

import importlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from pipelines.engine import pipeline
from pipelines.engine.execution.executors import connect
from pipelines.engine.execution.process_state import put_back
from pipelines.engine.execution.task import keyed
from pipelines.engine.graph.plan_cache import Request, drawn
from pipelines.engine.store.store import Store
from tests.benchmarks.processes import Sampler
from tests.benchmarks.trivial import add

TRIVIAL = ("tests.benchmarks.trivial",)
ROUNDS = 200
FEW = 2


def plain(number: int) -> int:
    return add.function(number=number)


def restoring(number: int) -> int:
    with put_back(TRIVIAL):
        return add.function(number=number)


WAYS = {
    "a task in a process that is used again": (plain, 0, 500),
    "the same, and its state is put back": (restoring, 0, 500),
    "a task in a process of its own": (plain, 1, 12),
}


def alone(modules: Iterable[str]) -> tuple[float, float]:
    """CPU milliseconds of `put_back` around nothing: of the first, and of each after it."""
    for name in (names := list(modules)):
        with suppress(ImportError):
            importlib.import_module(name)
    return rounds(names, 1), rounds(names, ROUNDS)


def rounds(names: list[str], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        with put_back(names):
            pass
    return 1000 * (time.process_time() - began) / times


def training() -> list[str]:
    """The modules of a training of quickstart."""
    with tempfile.TemporaryDirectory() as folder:
        nodes = drawn(Request(pipeline.find("quickstart"), {}, {}, {}), Store(folder))
    return keyed(next(node for node in nodes if node["step"] == "step:train"))


def spent(task: Any, count: int) -> float:
    """CPU milliseconds of so many tasks, one after the other."""
    import ray

    with Sampler(every=0.02) as sampler:
        for number in range(count):
            assert ray.get(task.remote(number)) == number
    return 1000 * sampler.cpu


def slope(function: Callable[[int], int], calls: int, many: int) -> float:
    """CPU milliseconds that one more task costs; a process ends after so many calls, or never after 0."""
    import ray

    task = ray.remote(num_cpus=0, max_calls=calls)(function)
    spent(task, FEW)
    return (spent(task, many) - spent(task, FEW)) / (many - FEW)


def main() -> None:
    modules = training()
    print(f"{'CPU ms a step':46}{'each':>9}{'the first':>11}")
    for said, names in {
        "of a step that does nothing": TRIVIAL,
        f"of a training, {len(modules)} modules": modules,
    }.items():
        first, each = alone(names)
        print(f"{f'put_back, {said}':46}{each:9.2f}{first:11.2f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RAYFIELD_STORE"] = folder
        connect()
        for said, way in WAYS.items():
            print(f"{said:46}{slope(*way):9.1f}", flush=True)


if __name__ == "__main__":
    main()

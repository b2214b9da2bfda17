"""
A training that streams from its preprocessing against one that waits for it: the first run, and the second.

Wall time, in one Ray session whose first job is over: preprocess then train; a stream, whose shards are made while the
trainer starts and learns; and the same stream again, which finds them in the store. What can be saved is the smaller
of the two: the time to preprocess, and the time that a worker takes to start and to pass over the data once.

`python -m tests.benchmarks.streaming [--times 4] [--steps 150]`
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

from components.families.shapes.voxnet import VoxNet
from components.runtime import objects
from components.steps.preprocess import preprocess
from components.steps.train import train
from pipelines.engine.execution.context import Running
from pipelines.engine.execution.executors import connect
from pipelines.engine.store.store import Store
from tests.benchmarks.preprocessing import Repeated


def context(store: Store, key: str) -> Running:
    module = (("components.steps.preprocess", "preprocess"),)
    return Running(store, "benchmark", key, module, seed=0, resources={"CPU": float(max(4, os.cpu_count() or 1))})


def stored(family: VoxNet, source: Repeated, store: Store, name: str) -> None:
    """Preprocesses, then trains."""
    arguments = {"source": source, "representations": [family.representation()], "on": "ray", "after": None}
    table = preprocess.run(arguments, context(store, "preprocess"))
    train.run(train.bind((family, table), {"workers": 1}), context(store, name))


def streamed(family: VoxNet, source: Repeated, store: Store, name: str) -> None:
    """Trains while it preprocesses."""
    stream = preprocess.stream(source, family.representation())
    train.run(train.bind((family, stream), {"workers": 1}), context(store, name))


def seconds(run: Callable[..., None], *told: object) -> float:
    began = time.monotonic()
    run(*told)
    return time.monotonic() - began


def fresh() -> Store:
    """A store with nothing in it."""
    store = Store(tempfile.mkdtemp(prefix="bench-"))
    objects.use(store.address)
    return store


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--times", type=int, default=4, help="how often the 446 shapes are repeated [4]")
    words.add_argument("--steps", type=int, default=150)
    words.add_argument("--turns", type=int, default=3)
    told = words.parse_args()
    family, source = replace(VoxNet.tiny(), steps=told.steps, falls=(10**9,) * 3), Repeated(times=told.times)
    connect()
    stored(replace(family, steps=1), Repeated(), fresh(), "first")  # starts Ray Data, and compiles the kernels
    taken: dict[str, list[float]] = {"preprocess, then train": [], "stream, first run": [], "stream, second run": []}
    for turn in range(told.turns):
        taken["preprocess, then train"].append(seconds(stored, family, source, fresh(), "stored"))
        store = fresh()
        taken["stream, first run"].append(seconds(streamed, family, source, store, "one"))
        taken["stream, second run"].append(seconds(streamed, family, source, store, "two"))
        print(f"turn {turn + 1}: " + ", ".join(f"{name} {own[-1]:.1f} s" for name, own in taken.items()), flush=True)
    before = statistics.median(taken["preprocess, then train"])
    print(f"\n{446 * told.times} shapes, {told.steps} updates; medians of {told.turns}")
    for name, own in taken.items():
        print(f"{name:<24} {statistics.median(own):7.1f} s   {statistics.median(own) / before:.2f} of the first")


if __name__ == "__main__":
    main()

"""
What it costs to put the state of a process back after a step, beside a process of its own for each step.

CPU milliseconds a step. The first lines are `put_back` alone, with the modules of a step that does nothing and of a
training. The last are Ray's tasks that do nothing, its daemons and workers included: the slope between many and few, so
that neither Ray's start nor an import is in it.

    python -m tests.benchmarks.state
"""

import argparse
import importlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from statistics import median

from pipelines.engine import pipeline
from pipelines.engine.plans import Request, drawn
from pipelines.engine.state import put_back
from pipelines.engine.store import Store
from pipelines.engine.work import keyed
from tests.benchmarks.overhead import measured

TRIVIAL = ("tests.benchmarks.trivial",)
ROUNDS = 200
FEW, MANY = 5, 25
WAYS = {
    "a task in a process that is used again": "plain",
    "the same, and its state is put back": "put back",
    "a task in a process of its own": "own",
}
TASKS = """
import sys
from pipelines.engine.executors import connect
connect()
import ray
from pipelines.engine.state import put_back
from tests.benchmarks.trivial import add

way, count = sys.argv[1], int(sys.argv[2])

def plain(number):
    return add.function(number=number)

def restoring(number):
    with put_back(["tests.benchmarks.trivial"]):
        return add.function(number=number)

task = ray.remote(num_cpus=0, max_calls=1 if way == "own" else 0)(restoring if way == "put back" else plain)
for number in range(count):
    assert ray.get(task.remote(number)) == number
"""


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


def slope(way: str, times: int) -> float:
    """CPU milliseconds that one more task costs."""
    runs = [
        [measured([sys.executable, "-c", TASKS, way, str(count)])[0] for count in (FEW, MANY)] for _ in range(times)
    ]
    return 1000 * median((many - few) / (MANY - FEW) for few, many in runs)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--times", type=int, default=3)
    times, modules = words.parse_args().times, training()
    print(f"{'CPU ms a step':46}{'each':>9}{'the first':>11}")
    for said, names in {
        "of a step that does nothing": TRIVIAL,
        f"of a training, {len(modules)} modules": modules,
    }.items():
        first, each = alone(names)
        print(f"{f'put_back, {said}':46}{each:9.2f}{first:11.2f}")
    try:
        for said, way in WAYS.items():
            print(f"{said:46}{slope(way, times):9.1f}", flush=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(error.stderr.decode()) from error


if __name__ == "__main__":
    main()

"""
What the engine costs: a pipeline of twenty trivial steps against a script that sends the same tasks to Ray by hand.

CPU seconds of the whole tree of processes, Ray's daemons and workers included. What a step costs is the slope between
twenty steps and one, so that neither Ray's start nor an import is in it. Run it on a quiet machine:

    python -m tests.benchmarks.overhead
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.processes import Sampler

STEPS = 20
PIPELINE = """
from pipelines.engine.pipeline import pipeline
from tests.benchmarks.trivial import add

@pipeline
def trivial(steps: int = 20):
    last = add(number=0)
    for number in range(1, steps):
        last = add(number=number, to=last)
"""
BY_HAND = """
import sys
from pipelines.engine.executors import connect
connect()
import ray

@ray.remote(num_cpus=0)
def add(number, to):
    return to + number

last = 0
for number in range(int(sys.argv[1])):
    last = ray.get(add.remote(number, last))
"""
IMPORTS = "from components.steps.registry import client; client()"
TARGETS = "targets: 0.050 a step, 0.9 for the first run apart from what Ray and MLflow take to start, 0.4 all cached"


def measured(command: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of a command and of all that it starts."""
    with Sampler(every=0.02) as sampler:
        subprocess.run(command, check=True, capture_output=True)
    return sampler.cpu, sampler.wall


def least(times: int, run: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """The least CPU of several runs, and the wall time of that one: what else the machine does only adds."""
    return min(run() for _ in range(times))


def pipeline(steps: int, folder: Path, *, fresh: bool) -> tuple[float, float]:
    """`rayfield run` of so many steps, into an empty store or into the one that the last run filled."""
    store = folder / "store"
    if fresh:
        for name in ("keys", "plans", "runs", "open", "leases"):
            subprocess.run(["rm", "-rf", str(store / name)], check=True)
    (folder / "trivial.py").write_text(PIPELINE)
    command = ["run", str(folder / "trivial.py"), "--steps", str(steps), "--store", str(store), "--json"]
    return measured([sys.executable, "-m", "pipelines", *command])


def by_hand(steps: int) -> tuple[float, float]:
    return measured([sys.executable, "-c", BY_HAND, str(steps)])


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--times", type=int, default=3)
    times = words.parse_args().times
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["RAYFIELD_STORE"] = str(folder / "store")
        pipeline(1, folder, fresh=True)  # makes MLflow's database: seconds of migrations, once for a store
        mlflow = least(times, lambda: measured([sys.executable, "-c", IMPORTS]))
        ray = least(times, lambda: by_hand(1))  # with the workers that any task needs
        hand = least(times, lambda: by_hand(STEPS))
        one = least(times, lambda: pipeline(1, folder, fresh=True))
        first = least(times, lambda: pipeline(STEPS, folder, fresh=True))
        cached = least(times, lambda: pipeline(STEPS, folder, fresh=False))
    rows = {
        "Ray starts, runs a task by hand, and stops": ray,
        "MLflow is imported, its database opened": mlflow,
        f"{STEPS} tasks by hand": hand,
        "pipeline, 1 step, first run": one,
        f"pipeline, {STEPS} steps, first run": first,
        f"pipeline, {STEPS} steps, all cached": cached,
    }
    print(f"{'':44}{'CPU s':>8}{'wall s':>8}")
    for said, (cpu, wall) in rows.items():
        print(f"{said:44}{cpu:8.2f}{wall:8.2f}")
    print(f"{'a step on warm Ray':44}{(first[0] - one[0]) / (STEPS - 1):8.3f}")
    print(f"{'a task by hand':44}{(hand[0] - ray[0]) / (STEPS - 1):8.3f}")
    print(f"{'first run, apart from Ray and MLflow':44}{first[0] - ray[0] - mlflow[0]:8.2f}")
    print(TARGETS)


if __name__ == "__main__":
    main()

"""
What the engine costs: a pipeline of twenty trivial steps against a script that sends the same tasks to Ray by hand.

CPU seconds of the whole tree of processes, Ray's daemons and workers included. What a step costs is the slope between
two hundred steps and twenty, so that neither Ray's start nor an import is in it. Run it on a quiet machine:

    python -m tests.benchmarks.overhead
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from tests.benchmarks.processes import Sampler

STEPS, MANY = 20, 200
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
from pipelines.engine.execution.executors import connect
connect()
import ray

@ray.remote(num_cpus=0)
def add(number, to):
    return to + number

last = 0
for number in range(int(sys.argv[1])):
    last = ray.get(add.remote(number, last))
"""
IMPORTS = "from components.steps.registry.versions import client; client()"
TARGETS = "targets: 0.050 a step, 0.9 for the first run apart from what Ray and MLflow take to start, 0.4 all cached"


def measured(command: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of a command and of all that it starts."""
    with Sampler(every=0.02) as sampler:
        subprocess.run(command, check=True, capture_output=True)
    return sampler.cpu, sampler.wall


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


def medians(times: int, cases: Mapping[str, Callable[[], tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """
    CPU and wall seconds of each case, in turns: one start of Ray differs from the next by more than we cost.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(times):
        for name, run in cases.items():
            found[name].append(run())
    return {name: (median(cpu for cpu, _ in runs), median(wall for _, wall in runs)) for name, runs in found.items()}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--times", type=int, default=5)
    times = words.parse_args().times
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["RAYFIELD_STORE"] = str(folder / "store")
        pipeline(1, folder, fresh=True)  # makes MLflow's database: seconds of migrations, once for a store
        cases = {
            "Ray starts, runs a task by hand, and stops": lambda: by_hand(1),
            "MLflow is imported, its database opened": lambda: measured([sys.executable, "-c", IMPORTS]),
            f"pipeline, {STEPS} steps, first run": lambda: pipeline(STEPS, folder, fresh=True),
            f"pipeline, {STEPS} steps, all cached": lambda: pipeline(STEPS, folder, fresh=False),
            f"{STEPS} tasks by hand": lambda: by_hand(STEPS),
            f"{MANY} tasks by hand": lambda: by_hand(MANY),
            f"pipeline, {MANY} steps, first run": lambda: pipeline(MANY, folder, fresh=True),
        }
        rows = medians(times, cases)
    print(f"{'':44}{'CPU s':>8}{'wall s':>8}")
    for said, (cpu, wall) in rows.items():
        print(f"{said:44}{cpu:8.2f}{wall:8.2f}")
    ray, mlflow, first, _, hand, hands, many = (cpu for cpu, _ in rows.values())
    print(f"{'a step on warm Ray':44}{(many - first) / (MANY - STEPS):8.3f}")
    print(f"{'a task by hand':44}{(hands - hand) / (MANY - STEPS):8.3f}")
    print(f"{'first run, apart from Ray and MLflow':44}{first - ray - mlflow:8.2f}")
    print(TARGETS)


if __name__ == "__main__":
    main()

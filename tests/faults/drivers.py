"""
Drivers that tests kill: the command line in a process of its own, forked from one that has imported everything.

What a driver does is appended to files of its case, so that it outlives the kill:

    steps      a step's key, when it begins        updates    the number of each update of `train`
    aliases    an alias, when it has moved         committed  the keys that were committed before this driver began
    points     how many crash points it came by, when it ends by itself
"""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WHOLE = Path(__file__).with_name("whole.py")
EVERY = 3
"""updates between two checkpoints of a training"""

SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NUMBA_CACHE_DIR": str(ROOT / ".rayfield" / "numba"),
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONWARNINGS": "ignore",
}


def warm() -> Any:
    """A server of forks that has imported torch, MLflow and Ray, and opened nothing."""
    os.environ.update(SETTINGS)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.imported"])
    return context


_one_at_a_time = threading.Lock()


def start(context: Any, target: Any, *arguments: Any) -> Any:
    """A forked process. Its end is read under the lock: two threads that read it would both spoil it."""
    process = context.Process(target=target, args=arguments)
    with _one_at_a_time:
        process.start()
    return process


def ended(process: Any, seconds: float = 300.0) -> int:
    """How a process ended: its exit code, or minus the number of the signal."""
    if not wait([process.sentinel], seconds):
        process.kill()
        raise AssertionError(f"a driver did not end within {seconds:.0f} s")
    with _one_at_a_time:
        process.join()
    return int(process.exitcode)


def drive(folder: str, number: int, words: list[str], settings: Mapping[str, str]) -> None:
    """Runs the command line as driver `number` of a case, until it ends or is killed."""
    place = _settle(folder, number, settings)
    from components.runtime import crash_points
    from pipelines.cli.main import main

    watch(place, number)
    try:
        main([*words, "--store", str(place / "store"), "--json"], standalone_mode=True)
    finally:
        (place / f"points-{number}").write_text(str(crash_points._met["*"]))


def alone(folder: str, number: int, words: list[str], settings: Mapping[str, str]) -> None:
    """The same without MLflow and in this process: for steps of which nothing is to be logged."""
    from pipelines.engine.execution import driver
    from pipelines.engine.execution.executors import Here

    driver.OnRay = Here
    on_ray(folder, number, words, settings)


def on_ray(folder: str, number: int, words: list[str], settings: Mapping[str, str]) -> None:
    """A driver whose steps run on Ray: on the cluster of RAY_ADDRESS, or on one of its own."""
    place = _settle(folder, number, settings)
    from pipelines.cli.main import main
    from pipelines.engine.execution import driver

    driver.Tracker.start = lambda self: None
    driver.Tracker.finish = lambda self: ""
    time.sleep(max(0.0, float(settings.get("FAULTS_BEGIN", 0)) - time.time()))
    main([*words, "--store", str(place / "store"), "--json"], standalone_mode=True)


def _settle(folder: str, number: int, settings: Mapping[str, str]) -> Path:
    """Has this process use a case's own store, database and output."""
    place = Path(folder)
    os.environ.update(settings)
    os.environ["RAYFIELD_STORE"] = str(place / "store")
    os.environ["RAYFIELD_CACHE"] = str(place / "cache")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{place}/mlflow.db"
    output = os.open(place / f"output-{number}", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    return place


def watch(place: Path, number: int) -> None:
    """Has this process write down what it does, and do by itself what Ray would do elsewhere."""
    from mlflow import MlflowClient

    from components.steps import train, tune
    from components.training import learner as training
    from pipelines.engine.execution import context, driver
    from pipelines.engine.execution.executors import Here

    def note(name: str, word: object) -> None:
        with (place / f"{name}-{number}").open("a") as stream:
            stream.write(f"{word}\n")

    keys = place / "store" / "keys"
    for path in keys.iterdir() if keys.is_dir() else ():
        note("committed", path.stem)

    class Noting(Here):
        def submit(self, node: Any, run: str, address: str) -> None:
            note("steps", node["key"])
            super().submit(node, run, address)

    class Every:
        def __init__(self, seconds: float) -> None:
            self.asked = 0

        def struck(self) -> bool:
            self.asked += 1
            return self.asked % EVERY == 0

    update, loop, alias = training.Learner.update, train.Training._loop, MlflowClient.set_registered_model_alias

    def counted(self: Any, step: int) -> Any:
        logged = update(self, step)
        if getattr(self, "trained", False):
            note("updates", step)
        return logged

    def trained(self: Any, learner: Any, *more: Any) -> None:
        learner.trained = True
        loop(self, learner, *more)

    def moved(self: Any, name: str, word: str, version: str) -> None:
        alias(self, name, word, version)
        note("aliases", f"{word} {version}")

    def in_turn(climbs: Mapping[int, Any], name: str, table: Any, own: Any) -> dict[int, BaseException]:
        for climb in climbs.values():
            climb.run(table, own)
        return {}

    driver.OnRay = Noting
    train.Clock = Every
    training.Learner.update = counted
    train.Training._loop = trained
    MlflowClient.set_registered_model_alias = moved
    tune._on_tune = in_turn
    context.png = lambda picture: b"a picture"  # drawing takes longer than all the rest

"""
Ray for the steps: work spread over a cluster, a group of workers, and requests that would never fit one.
"""

import logging
import os
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from components.errors import Infeasible, RayfieldError, UsageError, no_exit
from components.runtime import filesystem, objects
from components.runtime.redaction import is_secret
from components.step import Context

SMALL = 4.0  # seconds of work below which Ray Data costs more than it saves: its first job takes 11 CPU seconds
BLOCK = 1.5  # seconds of work in a block: each costs 55 to 100 ms of CPU
LOST = 3  # workers that a group may lose to a crash or a killed node
PREEMPTED = 20  # machines that it may lose to a cloud that said so: nobody's error, so it has a budget apart
RESIZE = 60.0  # seconds between looks whether more workers would fit

OURS = (RayfieldError, MemoryError, NotImplementedError)
BUGS = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, NameError, AssertionError, ImportError)
FINAL = OURS + BUGS
"""errors of a worker that would only be made again"""

Workers = int | tuple[int, int]
"""how many workers a group has, or the least and the most"""


def spread(
    function: Callable[..., Any],
    items: Sequence[Any],
    held: tuple[Any, ...],
    *,
    on: str,
    context: Context,
    spare: int = 0,
) -> Generator[tuple[Any, Any]]:
    """
    Pairs of an item and `function(item, *held)`, in no order, from this process or from Ray Data.

    `on` is "here", "ray" or "auto": the first items are timed here, and Ray Data takes the rest if much is left. Even
    for "ray" the first is done here: it compiles the kernels once, for all workers of the node to load. `spare` CPUs
    are left to what runs beside it.
    """
    waiting, began, seconds = list(items), time.monotonic(), 0.0
    while waiting:
        item = waiting.pop(0)
        yield item, function(item, *held)
        seconds = (time.monotonic() - began) / (len(items) - len(waiting))
        if on == "ray" or (on == "auto" and seconds * len(waiting) > SMALL):
            break
    if waiting:
        cpus = max(1.0, context.resources.get("CPU", 1) - spare)
        blocks = _blocks(len(waiting), seconds, cpus)
        yield from _on_ray(function, waiting, held, blocks, cpus, context)


def _blocks(count: int, seconds: float, cpus: float) -> int:
    """Blocks sized by work where it is known, and a few for each CPU where it is not."""
    wanted = count * seconds / BLOCK if seconds else 4 * cpus
    return int(np.clip(round(wanted), min(count, 2 * cpus), count))


def _on_ray(
    function: Callable[..., Any], items: list[Any], held: tuple[Any, ...], blocks: int, cpus: float, context: Context
) -> Iterator[tuple[Any, Any]]:
    import ray
    from ray import cloudpickle

    quiet()
    shared, store = ray.put((function, items, held, context)), objects.told()

    def work(batch: dict[str, Any]) -> dict[str, Any]:
        objects.use(store)
        function, items, held, context = ray.get(shared)
        with context.working("data"):
            results = [_outcome(function, items[place], held) for place in batch["place"]]
        return {"place": batch["place"], "result": np.array(results, dtype=object)}

    places = ray.data.from_items([{"place": place} for place in range(len(items))], override_num_blocks=blocks)
    places.context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(cpu=cpus)
    # one item a batch: progress comes as items end, and a killed job keeps those that did
    for batch in places.map_batches(work, batch_size=1).iter_batches(batch_size=None):
        for place, result in zip(batch["place"], batch["result"], strict=True):
            made, error, trace = cloudpickle.loads(result)
            if error is not None:
                error.__context__ = _There(trace)
                raise error
            yield items[int(place)], made


class _There(Exception):
    """The traceback of an error in the process that met it."""


def _outcome(function: Callable[..., Any], item: Any, held: tuple[Any, ...]) -> bytes:
    """
    A function's result, or the error that it met and its traceback, pickled.

    Ray Data hands on a text of an error; whether it is tried again depends on its class.
    """
    from ray import cloudpickle

    try:
        with no_exit("Work that is spread over a cluster"):
            return cloudpickle.dumps((function(item, *held), None, ""))
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        with suppress(Exception):  # one that cannot be made again from its parts is Ray's to tell
            outcome = cloudpickle.dumps((None, error, trace))
            cloudpickle.loads(outcome)
            return outcome
        raise


def quiet() -> None:
    """Ray Data in the manner of this project: order kept, no bars of its own."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    settings = ray.data.DataContext.get_current()
    settings.enable_progress_bars = False
    settings.execution_options.preserve_order = True


def keep_secrets_from_trials() -> None:
    """
    Has Ray Tune tell its trials no secret: it copies AWS's keys into each one's runtime_env, which Ray's logs show.

    A local Ray's workers have the variables of this process anyway, and the nodes of a cluster have their own. The
    variables stay where they are meanwhile: who writes to a bucket, and who redacts the logs, reads them.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if not is_secret(name)}


def on_workers(
    function: Callable[[Mapping[str, Any]], Any],
    config: Mapping[str, Any],
    *,
    workers: Workers,
    gpus: float,
    scratch: str,
) -> Any:
    """
    Call `function` on each of a Ray Train group, and return the first's result; `workers=0` calls it here.

    A group that loses a worker begins anew, with as many workers as then fit. What is somebody's to mend comes back as
    it was raised, and is not tried again.
    """
    from ray.train import ControllerError, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    def work(config: Mapping[str, Any]) -> Any:
        with no_exit("Work in a group of workers"):
            return function(config)

    local = workers == 0
    needs = {"CPU": 1.0, **({"GPU": gpus} if gpus else {})}
    trainer = TorchTrainer(
        work,
        train_loop_config={**config, "store": objects.told(), "gpus": gpus},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker=None if local else needs,
            elastic_resize_monitor_interval_s=RESIZE,
        ),
        run_config=RunConfig(
            # the key is the name: Ray silently continues whatever run has the same one
            name=scratch.rpartition("/")[2],
            storage_path=f"{scratch}/ray",
            failure_config=FailureConfig(
                max_failures=0 if local else LOST, max_preemption_failures=0 if local else PREEMPTED
            ),
            logging_config=LoggingConfig(log_level="ERROR"),
            callbacks=None if local else [_verdict()],
        ),
    )
    try:
        return trainer.fit().return_value
    except ControllerError as error:
        raise error.controller_failure if _is_final(error.controller_failure) else error from None


def probe(store: objects.Told, name: str) -> str:
    """Reads and writes the store that a driver means, in whatever process this is; returns what it wrote."""
    objects.use(store)
    said = f"{os.uname().nodename} {os.getpid()}"
    filesystem.write(f"{objects.root()}/{name}", said.encode())
    return said


def probe_worker(config: Mapping[str, Any]) -> str:
    """The same as a worker of Ray Train."""
    return probe(config["store"], config["name"])


def _verdict() -> Any:
    """A callback of Ray Train that ends a group at once where trying again could not help."""
    from ray.train import UserCallback

    class Verdict(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
            for error in worker_exceptions.values():
                if _is_final(error):
                    raise error

    return Verdict()


def _is_final(error: BaseException) -> bool:
    """True if an error is somebody's to mend. A RuntimeError may be what is heard of a worker that died."""
    return isinstance(error, FINAL)


def check_workers(
    workers: Workers,
    gpus: float | None,
    resources: Mapping[str, float],
    machines: Sequence[Mapping[str, float]] = (),
) -> None:
    """
    Refuses what the cluster could never schedule: Ray would wait for it for ever.

    Of `workers=(least, most)` the least counts; `gpus=None` is one for each worker where there are any. `machines`, if
    known, are the parts of `resources`: a worker must fit one of them.
    """
    least, most = workers if isinstance(workers, tuple) else (workers, workers)
    if not 0 <= least <= most or (isinstance(workers, tuple) and least == 0):
        raise UsageError(f"`workers` is a number, or the least and the most as in 1,4, but got {workers}.")
    cpus, cards = resources.get("CPU", 1), resources.get("GPU", 0)
    each = float(cards > 0) if gpus is None else gpus
    if least > 1 and least + 1 > cpus:
        raise Infeasible(
            f"{least} workers take {least} CPUs and loading data takes 1 more, but the cluster has {cpus:g}. "
            f"Ask for --workers {max(1, int(cpus) - 1)}."
        )
    if each * max(least, 1) > cards:
        raise Infeasible(
            f"{_counted(max(least, 1), 'worker')} of {_counted(each, 'GPU')} take {each * max(least, 1):g}, "
            f"but the cluster has {cards:g}."
        )
    largest = max((machine.get("GPU", 0) for machine in machines), default=each)
    if each > largest:
        raise Infeasible(
            f"A worker of {_counted(each, 'GPU')} needs a machine with as many, but the largest has {largest:g}."
        )
    places = sum(_fit(machine, each) for machine in machines)
    if machines and least > places:
        raise Infeasible(
            f"{_counted(least, 'worker')} of 1 CPU and {_counted(each, 'GPU')} must each fit a machine, "
            f"but the cluster's {_counted(len(machines), 'machine')} have room for {places}."
        )


def _fit(machine: Mapping[str, float], gpus: float) -> int:
    """How many workers of one CPU and so many GPUs a machine holds."""
    cpus = int(machine.get("CPU", 0))
    return min(cpus, int(machine.get("GPU", 0) / gpus)) if gpus else cpus


def _counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"

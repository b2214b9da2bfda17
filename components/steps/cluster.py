"""
What the steps share of Ray: work spread over a cluster, and what would never fit one.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from components import files
from components.errors import Infeasible
from components.step import Context

SMALL = 4.0  # seconds of work below which Ray Data costs more than it saves: its first job takes 11 CPU seconds
BLOCK = 1.5  # seconds of work in a block: each costs 55 to 100 ms of CPU


def spread(
    function: Callable[..., Any], items: Sequence[Any], held: tuple[Any, ...], *, on: str, context: Context
) -> Iterator[tuple[Any, Any]]:
    """
    Pairs of an item and `function(item, *held)`, in no order, from this process or from Ray Data.

    `on` is "here", "ray" or "auto": the first items are timed here, and Ray Data takes the rest if much is left. Even
    for "ray" the first is done here: it compiles the kernels once, for all workers of the node to load.
    """
    waiting, began, seconds = list(items), time.monotonic(), 0.0
    while waiting:
        item = waiting.pop(0)
        yield item, function(item, *held)
        seconds = (time.monotonic() - began) / (len(items) - len(waiting))
        if on == "ray" or (on == "auto" and seconds * len(waiting) > SMALL):
            break
    if waiting:
        blocks = _blocks(len(waiting), seconds, context.resources.get("CPU", 1))
        yield from _on_ray(function, waiting, held, blocks, context)


def _blocks(count: int, seconds: float, cpus: float) -> int:
    """Blocks sized by work where it is known, and a few for each CPU where it is not."""
    wanted = count * seconds / BLOCK if seconds else 4 * cpus
    return int(np.clip(round(wanted), min(count, 2 * cpus), count))


def _on_ray(
    function: Callable[..., Any], items: list[Any], held: tuple[Any, ...], blocks: int, context: Context
) -> Iterator[tuple[Any, Any]]:
    import ray
    from ray import cloudpickle

    _quiet()
    shared, store = ray.put((function, items, held, context)), files.root()

    def work(batch: dict[str, Any]) -> dict[str, Any]:
        files.use(store)
        function, items, held, context = ray.get(shared)
        with context.working("data"):
            results = [cloudpickle.dumps(function(items[place], *held)) for place in batch["place"]]
        return {"place": batch["place"], "result": np.array(results, dtype=object)}

    places = ray.data.from_items([{"place": place} for place in range(len(items))], override_num_blocks=blocks)
    # one item a batch: progress comes as items end, and a killed job keeps those that did
    for batch in places.map_batches(work, batch_size=1).iter_batches(batch_size=None):
        for place, result in zip(batch["place"], batch["result"], strict=True):
            yield items[int(place)], cloudpickle.loads(result)


def _quiet() -> None:
    """Ray Data in the manner of this project: order kept, no bars of its own."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    settings = ray.data.DataContext.get_current()
    settings.enable_progress_bars = False
    settings.execution_options.preserve_order = True


def check_workers(workers: int, gpus: float, resources: Mapping[str, float]) -> None:
    """Refuses what the cluster could never schedule: Ray would wait for it for ever."""
    cpus, cards = resources.get("CPU", 1), resources.get("GPU", 0)
    if workers > 1 and workers + 1 > cpus:
        raise Infeasible(
            f"{workers} workers take {workers} CPUs and loading data takes 1 more, but the cluster has {cpus:g}. "
            f"Ask for --workers {max(1, int(cpus) - 1)}."
        )
    if gpus * max(workers, 1) > cards:
        raise Infeasible(f"{workers} workers of {gpus:g} GPUs take {gpus * workers:g}, but the cluster has {cards:g}.")

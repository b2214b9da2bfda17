"""
The feed for a table that does not fit in memory: its shards pass through Ray Data, shuffled in a buffer.

Unlike the indexed feed its batches depend on the number of workers, and a training that continues begins its pass
over the data anew.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from components import files
from components.errors import UsageError
from components.family import Family
from components.steps.cluster import Workers
from components.table import Rows, Table
from components.training import World

SHARE = 0.25  # of the machine's memory that a training split may take
GROWTH = 4.0  # what zstd takes off, about
BUFFER = 8  # batches that are shuffled among each other


def too_large(table: Table, family: Family) -> bool:
    """Whether a family's set would take too much of this machine's memory."""
    import psutil

    stored = sum(shard.size for shard in table.set(family.representation()).shards)
    return stored * GROWTH > SHARE * psutil.virtual_memory().total


def check_workers(workers: Workers) -> None:
    """Refuses workers that a stream cannot feed."""
    if workers == 0:
        raise UsageError("A stream needs a worker of Ray Train, but `workers` is 0. Pass --workers 1.")
    if isinstance(workers, tuple):
        raise UsageError(
            f"A stream's batches depend on the number of workers, so it must be one number, but got {workers}. "
            f"Pass --workers {workers[0]}, or feed='indexed'."
        )


def head(table: Table, family: Family) -> Rows:
    """The training rows of the first shard that has any: enough for `adapt` to see the columns and the labels."""
    for shard in table.set(family.representation()).shards:
        rows = table.open(family.representation(), "train", shards=[shard])
        if len(rows):
            return rows
    return rows


def dataset(table: Table, family: Family) -> Any:
    """The training rows of a family's set as a Ray Dataset, with labels: a shard is read where it is wanted."""
    import ray.data

    representation, store = family.representation(), files.root()
    shards = table.set(representation).shards

    def read(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        files.use(store)
        rows = table.open(representation, "train", shards=[shards[place] for place in batch["shard"]])
        columns = {name: column.numpy() for name, column in rows.columns.items()}
        return {**columns, "label": rows.label.numpy(), "id": rows.id.numpy()}

    places = ray.data.from_items([{"shard": place} for place in range(len(shards))], override_num_blocks=len(shards))
    return places.map_batches(read, batch_size=1)


def batches(shard: Any, size: int, seed: int, world: World, device: torch.device) -> Iterator[dict[str, Any]]:
    """This worker's part of batch after batch, pass after pass; `size` is that of the global batch."""
    mine = len(range(world.rank, size, world.size))
    row = torch.arange(world.rank, size, world.size, device=device)
    number = 0
    while True:
        passed = shard.iter_batches(
            batch_size=mine,
            batch_format="numpy",
            drop_last=True,
            local_shuffle_buffer_size=BUFFER * mine,
            local_shuffle_seed=seed + number,
        )
        for batch in passed:
            tensors = {name: torch.from_numpy(np.array(column)).to(device) for name, column in batch.items()}
            yield {**tensors, "index": torch.zeros_like(row), "row": row}
        number += 1

"""
The feed of what does not fit in memory, or is not made yet: shards pass through Ray Data, shuffled in a buffer.

Unlike the indexed feed its batches depend on the number of workers, and a training that continues begins its pass
over the data anew. Of a table it is pass after pass. Of a source it is one pass, whose tasks make the shards that are
not in the store and keep them there; after it the training reads the store like any other.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from components import files
from components.errors import DataError, UsageError
from components.family import Family
from components.representation import Representation
from components.step import Context
from components.steps.cluster import Workers, quiet
from components.steps.preprocess import Work, make, make_missing
from components.table import Rows, Table
from components.training import Learner, World

SHARE = 0.25  # of the machine's memory that a training split may take
GROWTH = 4.0  # what zstd takes off, about
BUFFER = 8  # batches that are shuffled among each other


def too_large(table: Table, family: Family) -> bool:
    """Whether a family's set would take too much of this machine's memory."""
    import psutil

    stored = sum(shard.size for shard in table.set(family.representation()).shards)
    return stored * GROWTH > SHARE * psutil.virtual_memory().total


def check(workers: Workers, representation: Representation) -> None:
    """Refuses what a stream cannot feed."""
    if workers == 0:
        raise UsageError("A stream needs a worker of Ray Train, but `workers` is 0. Pass --workers 1.")
    if isinstance(workers, tuple):
        raise UsageError(
            f"A stream's batches depend on the number of workers, so it must be one number, but got {workers}. "
            f"Pass --workers {workers[0]}, or feed='indexed'."
        )
    if ragged := [name for name, column in representation.columns().items() if None in column.shape]:
        raise UsageError(f"A stream carries columns of one shape, but {ragged[0]} has another in each row.")


@dataclass
class Feed:
    """Where the rows of a training come from: a table in memory, one that passes by, or a source on its way to one."""

    data: Table | Work
    streamed: bool
    context: Context
    judged: Rows | None = None

    def rows(self, family: Family) -> Rows:
        """The training rows, or the first of a stream: enough for `adapt` to see the columns and the labels."""
        if isinstance(self.data, Work):
            return first_rows(self.data, self.context)
        if not self.streamed:
            return self.data.open(family.representation(), "train")
        for shard in self.data.set(family.representation()).shards:
            rows = self.data.open(family.representation(), "train", shards=[shard])
            if len(rows):
                break
        return rows

    def start(self, learner: Learner) -> None:
        """Sends a learner's batches through Ray Data, unless it continues from a pass that is over."""
        if not self.streamed:
            return
        resumed = isinstance(self.data, Work) and learner.state.step > 0
        if resumed and _all(not self.data.missing(self.context), learner):  # type: ignore[union-attr]
            self._read(learner)
        else:
            learner.feed = self._passes(learner) if isinstance(self.data, Table) else self._pass(learner)

    def _passes(self, learner: Learner, passes: int | None = None) -> Iterator[dict[str, Any]]:
        from ray.train import get_dataset_shard

        shard = get_dataset_shard("train")
        return batches(shard, learner.family.batch, self.context.seed, learner.world, learner.device, passes=passes)

    def _pass(self, learner: Learner) -> Iterator[dict[str, Any]]:
        """One pass while the shards are made, then what was kept."""
        yield from self._passes(learner, 1)
        self._read(learner)
        yield learner.batch(learner.state.step)

    def _read(self, learner: Learner) -> None:
        table, family = self.table(), learner.family
        if too_large(table, family):
            learner.feed = self._passes(learner)
            return
        rows = table.open(family.representation(), "train", getattr(family, "labels", ()))
        learner.rows, learner.feed = rows.to(learner.device), None

    def table(self) -> Table:
        """The table; of a source, with the shards that no pass has made yet."""
        if isinstance(self.data, Work):
            make_missing(self.data, self.context, on="here")
            self.data = self.data.table(self.context)
        return self.data

    def may_judge(self, learner: Learner) -> bool:
        """Whether the rows to choose by are made: all workers are past a stream, or at the end."""
        ended = learner.state.step == learner.family.steps
        return ended or not self.streamed or _all(isinstance(self.data, Table), learner)

    def held(self, learner: Learner) -> Rows:
        """The rows to choose by: the validation split, or the training rows where a method has no others (t-SNE)."""
        if self.judged is None:
            if learner.world.rank == 0:
                self.table()  # one worker makes what is missing; the others find it
            if self.streamed and learner.world.size > 1:
                dist.barrier()
            self.judged = judged(self.table(), learner.family, learner.rows).to(learner.device)
        return self.judged

    def adapted(self, family: Family) -> Representation:
        """The representation with what it learned."""
        return self.data.adapted[0] if isinstance(self.data, Work) else self.data.set(family.representation()).adapted


def _all(said: bool, learner: Learner) -> bool:
    """Whether every worker says so."""
    told = torch.tensor(int(said), device=learner.device)
    if learner.world.size > 1:
        dist.all_reduce(told, dist.ReduceOp.MIN)
    return bool(told)


def judged(table: Table, family: Family, rows: Rows) -> Rows:
    """The rows to choose by: the validation split, or the training rows where a method has no others (t-SNE)."""
    held = table.open(family.representation(), "val", getattr(family, "labels", ()))
    return held if len(held) else rows


def first_rows(work: Work, context: Context) -> Rows:
    """The training rows of the first shard that has any."""
    for place in range(len(work.groups)):
        if (rows := shard_rows(work, place, context)) is not None and len(rows):
            return rows
    raise DataError("A training split must have rows, but none could be made. Run `preprocess` to see the reasons.")


def shard_rows(work: Work, place: int, context: Context) -> Rows | None:
    """The training rows of one shard, which is made if the store lacks it; None if no asset of it could be read."""
    if job := work.job(place, context):
        make(job, work.source, context)
    made = context.recall(work.keys[place][0])
    if made.rows is None:
        return None
    assets = [{"id": a.id, "label": a.label, "split": a.split} for a in work.groups[place]]
    labels = tuple(sorted({asset.label for asset in work.assets}))
    return Rows.of(assets, [pq.read_table(made.rows.path())], "train", labels, work.adapted[0])


def dataset(data: Table | Work, family: Family, context: Context) -> Any:
    """The training rows as a Ray Dataset, with labels: a shard is read, or made, where it is wanted."""
    if isinstance(data, Work):
        return _dataset(len(data.groups), _made, (data, context), data.adapted[0])
    one = data.set(family.representation())
    return _dataset(len(one.shards), _stored, (data, family.representation()), one.adapted)


def _made(place: int, work: Work, context: Context) -> Rows | None:
    return shard_rows(work, place, context)


def _stored(place: int, table: Table, representation: Representation) -> Rows | None:
    return table.open(representation, "train", shards=[table.set(representation).shards[place]])


def _dataset(size: int, read: Callable[..., Rows | None], held: tuple[Any, ...], representation: Representation) -> Any:
    import ray
    import ray.data

    quiet()
    shared, store = ray.put(held), files.root()

    def columns(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        files.use(store)
        rows = read(int(batch["shard"][0]), *ray.get(shared))
        return _empty(representation) if rows is None else _columns(rows)

    places = ray.data.from_items([{"shard": place} for place in range(size)], override_num_blocks=size)
    return places.map_batches(columns, batch_size=1)


def _columns(rows: Rows) -> dict[str, np.ndarray]:
    own = {name: column.numpy() for name, column in rows.columns.items()}
    return {**own, "label": rows.label.numpy(), "id": rows.id.numpy()}


def _empty(representation: Representation) -> dict[str, np.ndarray]:
    own = {name: np.zeros((0, *(n or 0 for n in c.shape)), c.dtype) for name, c in representation.columns().items()}
    return {**own, "label": np.zeros(0, np.int64), "id": np.zeros(0, np.int64)}


def batches(
    shard: Any, size: int, seed: int, world: World, device: torch.device, *, passes: int | None = None
) -> Iterator[dict[str, Any]]:
    """This worker's part of batch after batch, pass after pass; `size` is that of the global batch."""
    mine = len(range(world.rank, size, world.size))
    row = torch.arange(world.rank, size, world.size, device=device)
    for number in count() if passes is None else range(passes):
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

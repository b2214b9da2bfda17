"""
The feeds of what is not made yet, or does not fit in memory. No result depends on which of them it was.

A source is followed: a Ray Data job makes its shards in their order, and the training takes each as it comes to the
store. After that one pass it reads the store like any other.

A table that does not fit in memory stays on the disk of each machine, and the same rows are read from there in the same
order: batches are a function of (seed, step), whatever the memory and the workers, and a training continues where it
was.
"""

import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from threading import Event, Thread
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from components.errors import DataError, UsageError
from components.family import Family
from components.representation import Representation
from components.runtime import filesystem
from components.step import Context
from components.steps.preprocess import Work, make, make_missing
from components.steps.ray_workers import Workers, spread
from components.table import Rows, Table
from components.training.learner import Learner, phase_at
from components.training.memory_map import mapped

SHARE = 0.25  # of the machine's memory that a training split may take
GROWTH = 4.0  # what zstd takes off, about
AHEAD = 2  # batches of a source that must be there to be shuffled: a shard is a random part of it
LOOK = 0.2  # seconds between looks whether a shard is made
PATIENCE = 60.0  # seconds without one, after which who waits for it makes it: its maker may wait for this one's CPU


def too_large(data: Table | Work, family: Family, context: Context) -> bool:
    """True if a family's set would take too much of this machine's memory; of a source the first shard is the guide."""
    import psutil

    if isinstance(data, Work):
        known = [made.rows.size for keys in data.keys if (made := context.recall(keys[0])) and made.rows]
        stored = sum(known) / max(len(known), 1) * len(data.keys)
    else:
        stored = sum(shard.size for shard in data.set(family.representation()).shards)
    return stored * GROWTH > SHARE * psutil.virtual_memory().total


def check(representation: Representation) -> None:
    """Refuses what cannot be mapped."""
    if ragged := [name for name, column in representation.columns().items() if None in column.shape]:
        raise UsageError(
            f"What is streamed has columns of one shape, but {ragged[0]} has another in each row. Pass feed='indexed'."
        )


@contextmanager
def making(work: Work, workers: Workers, context: Context) -> Iterator[str]:
    """
    Make the shards that a source lacks, in a thread, beside what is done inside.

    Yield the address of the sentinel that is written after the last shard: whoever still waits for one then makes it,
    and meets the error if there was one.
    """
    over, stop = f"{context.scratch}/over-{uuid.uuid4().hex[:8]}", Event()
    spare = int(np.max(workers))
    on = "auto" if context.resources.get("CPU", 1) > spare else "here"

    def work_on() -> None:
        try:
            jobs = work.missing(context)
            with closing(spread(make, jobs, (work.source, context), on=on, context=context, spare=spare)) as made:
                while not stop.is_set() and next(made, None):
                    pass
        except Exception as error:
            logging.getLogger(__name__).warning("no more shards are made ahead of the training: %s", error)
        finally:
            filesystem.write(over, b"")

    thread = Thread(target=work_on, name="shards")
    thread.start()
    try:
        yield over
    finally:
        stop.set()
        thread.join()


@dataclass
class Feed:
    """Where the rows of a training come from: a table in memory, one that passes by, or a source on its way to one."""

    data: Table | Work
    streamed: bool
    """whether the table's rows stay on the disk"""
    context: Context
    over: str = ""
    """the address of what `making` writes at its end; none where nobody makes a source's shards ahead"""
    judged: Rows | None = None

    def rows(self, family: Family) -> Rows:
        """The training rows, or the first of a stream: enough for `adapt` to see the columns and the labels."""
        if isinstance(self.data, Work):
            return first_rows(self.data, self.context)
        return self._opened(self.data, family)

    def _opened(self, table: Table, family: Family, labels: Sequence[str] = ()) -> Rows:
        """The training rows of a table, in memory or on the disk."""
        return (mapped if self.streamed else Table.open)(table, family.representation(), "train", labels)

    def start(self, learner: Learner) -> None:
        """Gives a learner its batches, unless it cuts them from its rows."""
        if isinstance(self.data, Work):
            learner.feed = self._follow(learner)

    def _follow(self, learner: Learner) -> Iterator[dict[str, Any]]:
        """One pass while the shards are made, then what was kept."""
        yield from islice(self._first_pass(learner), learner.state.step, None)
        table, family = self.table(), learner.family
        rows = self._opened(table, family, getattr(family, "labels", ()))
        learner.rows, learner.feed = rows.to(learner.device), None
        yield learner.batch(learner.state.step)

    def _first_pass(self, learner: Learner) -> Iterator[dict[str, Any]]:
        """This worker's part of each batch: shard after shard, the rows of a few shuffled among each other."""
        world, family, held, step = learner.world, learner.family, list[Rows](), 0
        for place, shard, last in self._shards(learner):
            size = phase_at(family, step).batch or family.batch  # not that of a checkpoint, which is far ahead
            held += [shard] if shard is not None and len(shard) else []
            count = sum(map(len, held))
            if count < (size if last else AHEAD * size):
                continue
            order = np.random.default_rng([learner.seed, place]).permutation(count)
            rows, whole = Rows.joined(held), count // size * size
            for batch in order[:whole].reshape(-1, size):
                mine = np.arange(world.rank, size, world.size)
                cut = rows.batch(batch[mine], row=mine, columns=learner.state.phase.columns)
                yield {**cut, "index": torch.zeros_like(cut["index"])}  # places in the split are not known yet
                step += 1
            held = [rows.picked(order[whole:])]

    def _shards(self, learner: Learner) -> Iterator[tuple[int, Rows | None, bool]]:
        """The training rows of one shard after another, as they are made, and whether it is the last."""
        work = self.data
        assert isinstance(work, Work)
        for place in range(len(work.keys)):
            self._wait(work, place)
            if not learner.state.step and not learner.world.rank:
                self.context.progress(place + 1, len(work.keys), "shards")
            rows = shard_rows(work, place, self.context)
            yield place, rows.to(learner.device) if rows is not None else None, place + 1 == len(work.keys)

    def _wait(self, work: Work, place: int) -> None:
        """Waits for a shard, while somebody may be making it."""
        began = time.monotonic()
        while self.over and self.context.recall(work.keys[place][0]) is None:
            if filesystem.read(self.over) is not None or time.monotonic() - began > PATIENCE:
                self.over = ""
            else:
                time.sleep(LOOK)

    def table(self) -> Table:
        """The table; of a source, when its shards are made."""
        if isinstance(self.data, Work):
            for place in range(len(self.data.keys)):
                self._wait(self.data, place)
            if self.data.missing(self.context):
                make_missing(self.data, self.context, on="here")
            self.data = self.data.table(self.context)
        return self.data

    def may_judge(self, learner: Learner) -> bool:
        """True if the rows to choose by are made: past a pass that follows a source, or at the end."""
        return isinstance(self.data, Table) or learner.state.step == learner.family.steps

    def held(self, learner: Learner) -> Rows:
        """The rows to choose by: the validation split, or the training rows where a method has no others (t-SNE)."""
        if self.judged is None:
            self.judged = judged(self.table(), learner.family, learner.rows).to(learner.device)
        return self.judged

    def adapted(self, family: Family) -> Representation:
        """The representation with what it learned."""
        return self.data.adapted[0] if isinstance(self.data, Work) else self.data.set(family.representation()).adapted


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

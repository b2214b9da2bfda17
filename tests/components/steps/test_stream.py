"""
The feed of what is not made yet, in this process: it is followed, then read, from memory or from the disk.
"""

import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

import components.steps.preprocess as preprocessing
from components.artifacts import Checkpoint
from components.errors import DataError, UsageError
from components.family import Family, Phase
from components.runtime.serialization import decode, encode
from components.source import Asset
from components.sources.folder import Folder
from components.step import Printing
from components.steps import stream
from components.steps.preprocess import Streamed, Work, preprocess
from components.steps.stream import Feed, check, first_rows, making, shard_rows, too_large
from components.steps.train import Training, train
from components.table import stable_hash
from components.training.learner import Learner, World
from pipelines.engine.execution.context import Running
from pipelines.engine.graph.tracing import Node, draw
from pipelines.engine.store.store import Store
from tests.meshes import small_pointnet, small_voxnet, write_shapes


class Counted(Folder):
    """A folder that remembers what was opened."""

    opened: tuple[str, ...] = ()

    def open(self, asset: Asset) -> Any:
        object.__setattr__(self, "opened", (*self.opened, asset.id))
        return super().open(asset)


FAMILY = small_voxnet(steps=20, batch=4, dropout=0.0)  # some 24 rows to learn from make a pass of 6 updates


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """36 shapes in four shards."""
    monkeypatch.setattr(preprocessing, "SHARD", 8)
    return Counted(root=str(write_shapes(tmp_path / "shapes", each=12)))


def work_of(source: Folder, context: Printing) -> Work:
    return Work.of(source, [FAMILY.representation()], context)


def trained(source: Folder, context: Printing, family: Family = FAMILY, *, streamed: bool = False) -> Checkpoint:
    """A training that follows the making of its shards."""
    work = work_of(source, context)
    first_rows(work, context)
    with making(work, 1, context) as over:
        return Training(family, Feed(work, streamed, context, over), None, context, 0.0).run(torch.device("cpu"))


def train_rows(source: Folder) -> int:
    return sum(asset.split == "train" for asset in source.rows())


def test_each_asset_is_decoded_once_and_a_later_preprocess_finds_every_shard(source):
    context = Printing()
    trained(source, context)
    opened = list(source.opened)
    table = preprocess.run(preprocess.bind((source, [FAMILY.representation()]), {"on": "here"}), context)

    assert sorted(opened) == sorted(asset.id for asset in source.rows())
    assert list(source.opened) == opened
    assert len(table.sets[0].shards) == 4


def followed(source: Folder, rank: int = 0, size: int = 1, family: Family = FAMILY) -> list[list[int]]:
    """The ids in each batch of the pass over a source."""
    context = Printing()
    work = work_of(source, context)
    rows = first_rows(work, context)
    learner = Learner.begin(family.adapt(rows), rows, world=World(rank, size))
    return [batch["id"].tolist() for batch in Feed(work, False, context)._first_pass(learner)]


def test_a_pass_has_each_row_once_but_for_the_last_few(source):
    batches = followed(source)
    seen = [one for batch in batches for one in batch]

    assert [len(batch) for batch in batches] == [FAMILY.batch] * (train_rows(source) // FAMILY.batch)
    assert len(set(seen)) == len(seen)
    assert set(seen) <= {stable_hash(asset.id) for asset in source.rows() if asset.split == "train"}


def test_the_last_rows_make_a_batch_where_they_are_enough(source):
    size = train_rows(source) - 1

    assert [len(batch) for batch in followed(source, family=replace(FAMILY, batch=size))] == [size]


def test_a_pass_is_the_same_for_one_worker_and_for_two(source):
    one, (left, right) = followed(source), (followed(source, rank, 2) for rank in range(2))

    assert one == [[*chain(*zip(a, b, strict=True))] for a, b in zip(left, right, strict=True)]


def test_the_rows_of_a_pass_are_shuffled(source):
    context = Printing()
    work = work_of(source, context)
    order = [one for n in range(len(work.groups)) for one in shard_rows(work, n, context).id.tolist()]
    seen = [one for batch in followed(source) for one in batch]

    assert seen != order[: len(seen)]


def test_what_is_too_little_for_a_batch_is_read_at_once(source):
    family = replace(FAMILY, batch=train_rows(source) + 1, steps=2)
    losses = [line["loss"] for line in trained(source, Printing(), family).curves() if "loss" in line]

    assert len(losses) == 2 and np.isfinite(losses).all()


def test_nothing_is_judged_before_its_rows_are_made(source):
    """20 updates have ten moments to judge; a pass is over before the half of them."""
    lines = trained(source, Printing()).curves()

    judged = [line["step"] for line in lines if "val_loss" in line]
    assert judged == [step for step in range(2, 21, 2) if step > train_rows(source) // FAMILY.batch]
    assert judged[-1] == 20


def test_shards_that_are_in_the_store_give_the_same_weights(source):
    cold = trained(source, Printing())
    context = Printing()
    preprocess.run(preprocess.bind((source, [FAMILY.representation()]), {"on": "here"}), context)
    opened = source.opened
    warm = trained(source, context)

    assert warm.weights == cold.weights
    assert source.opened == opened


def test_a_training_says_which_shards_it_has_until_it_has_taken_a_step(source, monkeypatch):
    said = []
    monkeypatch.setattr(Printing, "progress", lambda self, done, total, unit: said.append((done, total, unit)))
    trained(source, Printing())

    waited = [line for line in said if line[2] == "shards"]
    assert waited == [(n + 1, 4, "shards") for n in range(len(waited))] and waited
    assert [line[2] for line in said[len(waited) :]] == ["steps"] * FAMILY.steps


def test_a_training_in_the_steps_own_process_follows_too(source):
    whole = train.bind((FAMILY, preprocess.stream(source, FAMILY.representation())), {"workers": 0})

    assert train.run(whole, Printing()).weights == trained(source, Printing()).weights


def test_a_training_that_ends_before_the_pass_makes_what_it_is_judged_by(source):
    context, short = Printing(), replace(FAMILY, steps=2)
    checkpoint = trained(source, context, short)

    assert work_of(source, context).missing(context) == []
    assert [line["step"] for line in checkpoint.curves() if "val_loss" in line] == [2]


class Killed(BaseException):
    """Nobody catches it: the process is gone."""


class Phased(type(FAMILY)):  # type: ignore[misc]
    """Takes larger batches from its third update on."""

    def phases(self) -> list[Phase]:
        return [Phase("first", 3, batch=2), Phase("rest", self.steps - 3)]


PHASED = Phased(**{one.name: getattr(FAMILY, one.name) for one in fields(FAMILY)})


@pytest.mark.parametrize("family", [FAMILY, PHASED], ids=["one phase", "phases"])
@pytest.mark.parametrize("streamed", [False, True], ids=["in memory", "on the disk"])
@pytest.mark.parametrize("at", [5, 15])
def test_a_killed_training_goes_on_where_it_was(source, tmp_path, monkeypatch, at, streamed, family):
    """In the pass over the source, and past it."""
    context = Printing(folder=str(tmp_path / "scratch"))
    real = Printing.log

    def log(self: Printing, metrics: Any, step: int, *, trial: str = "") -> None:
        if step == at:
            raise Killed
        real(self, metrics, step, trial=trial)

    with monkeypatch.context() as patch:
        patch.setattr(Printing, "log", log)
        with pytest.raises(Killed):
            trained(source, context, family, streamed=streamed)
    continued = trained(source, context, family, streamed=streamed)

    assert [line["step"] for line in continued.curves() if "loss" in line] == list(range(1, 21))
    assert continued.weights == trained(source, Printing(), family).weights


# Who makes the shards


def test_shards_that_their_maker_gives_up_are_made_by_who_waits(source, monkeypatch, caplog):
    whole = trained(source, Printing())

    def broken(*_: Any, **__: Any) -> Iterator[Any]:
        raise RuntimeError("no Ray")
        yield

    monkeypatch.setattr(stream, "spread", broken)
    context = Printing()

    assert trained(source, context).weights == whole.weights
    assert work_of(source, context).missing(context) == []
    assert "no more shards are made ahead of the training: no Ray" in caplog.text


def test_who_waits_too_long_makes_the_shard(source, monkeypatch):
    """Two streams may each have the CPU that the other's shards are to be made on."""
    monkeypatch.setattr(stream, "PATIENCE", 0.0)
    context = Printing()
    feed = Feed(work_of(source, context), False, context, over=f"{context.scratch}/never")

    assert sum(len(rows) for _, rows, _ in feed._shards(a_learner(source)) if rows is not None) == train_rows(source)


def a_learner(source: Folder) -> Learner:
    context = Printing()
    rows = first_rows(work_of(source, context), context)
    return Learner.begin(FAMILY.adapt(rows), rows)


def test_a_shard_is_waited_for_while_it_is_made(source, monkeypatch):
    monkeypatch.setattr(stream, "LOOK", 0.01)
    context = Printing()
    work = work_of(source, context)
    feed = Feed(work, False, context, over=f"{context.scratch}/never")
    waits = threading.Thread(target=feed._wait, args=(work, 0))
    waits.start()
    waits.join(0.1)
    waited = waits.is_alive()
    shard_rows(work, 0, context)
    waits.join(10)

    assert waited and not waits.is_alive()
    assert feed.over


def test_no_more_shards_are_made_when_the_training_has_failed(source, monkeypatch):
    ended = []

    def endless(*_: Any, **__: Any) -> Iterator[Any]:
        try:
            while True:
                yield "job", True
        finally:
            ended.append("closed")

    monkeypatch.setattr(stream, "spread", endless)
    context = Printing()
    with pytest.raises(DataError, match="nothing learned"), making(work_of(source, context), 1, context):
        raise DataError("nothing learned")

    assert ended == ["closed"]
    assert all(thread.name != "shards" for thread in threading.enumerate())


def test_where_the_workers_take_every_cpu_the_shards_are_made_without_one(source, monkeypatch):
    told = list[str]()

    def spread(*_: Any, on: str, **__: Any) -> Iterator[Any]:
        told.append(on)
        yield from ()

    monkeypatch.setattr(stream, "spread", spread)
    for cpus, workers in ((2.0, 1), (2.0, 2), (4.0, (1, 4)), (4.0, (1, 3))):
        context = Printing(resources={"CPU": cpus})
        with making(work_of(source, context), workers, context):
            pass

    assert told == ["auto", "here", "here", "auto"]


def test_what_is_too_large_is_read_from_the_disk_with_the_same_weights(source):
    assert trained(source, Printing(), streamed=True).weights == trained(source, Printing()).weights


def test_the_first_shard_tells_whether_a_source_is_too_large(source, monkeypatch):
    context = Printing()
    work = work_of(source, context)
    first_rows(work, context)
    stored = context.recall(work.keys[0][0]).rows.size * len(work.keys) * stream.GROWTH

    def answer(memory: float) -> bool:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=memory))
        return too_large(work, FAMILY, context)

    assert answer(stored / stream.SHARE * 0.99)
    assert not answer(stored / stream.SHARE * 1.01)


def test_a_shard_of_which_nothing_can_be_read_is_empty(tmp_path):
    root = write_shapes(tmp_path / "bad", each=4)
    for path in root.rglob("*.obj"):
        path.write_text("v 0 0\n")
    context = Printing()
    work = work_of(Folder(root=str(root)), context)

    assert shard_rows(work, 0, context) is None
    with pytest.raises(DataError, match="A training split must have rows, but none could be made"):
        first_rows(work, context)


# What is refused


def test_a_stream_of_what_the_family_does_not_read_is_refused(source):
    with pytest.raises(UsageError, match=r"voxnet learns from Voxels\(.*\), but got Points\("):
        train(FAMILY, preprocess.stream(source, small_pointnet().representation()))


def test_a_column_of_another_shape_in_each_row_is_refused():
    class Ragged:
        def columns(self) -> dict[str, Any]:
            from components.representation import Column

            return {"words": Column((None,), "int32")}

    with pytest.raises(UsageError, match="columns of one shape, but words has another in each row"):
        check(Ragged())  # type: ignore[arg-type]


def test_a_stream_is_written_down_and_read_back(source):
    streamed = preprocess.stream(Folder(root=source.root), FAMILY.representation())

    assert isinstance(streamed, Streamed)
    assert decode(encode(streamed)) == streamed


# In a pipeline


def drawn(after: bool, source: Folder) -> dict[str, Node]:
    def pipeline() -> None:
        family = small_voxnet()
        checkpoint = train(family, preprocess.stream(source, family.representation()))
        preprocess(source, [family.representation()], after=checkpoint if after else None)

    return {node.title: node for node in draw(pipeline, {}, {}).nodes.values()}


def test_a_table_that_waits_for_a_stream_has_the_key_of_one_that_does_not(tmp_path):
    source = Folder(root=str(write_shapes(tmp_path / "shapes")))
    waits, alone = drawn(True, source), drawn(False, source)
    (table,) = (node for node in waits.values() if node.step.endswith(":preprocess"))

    assert table.needs == (waits["train voxnet"].key,)
    assert alone["preprocess"].needs == ()
    assert table.key == alone["preprocess"].key
    assert waits["train voxnet"].key == alone["train voxnet"].key


def test_another_source_is_another_training(tmp_path):
    one = drawn(False, Folder(root=str(write_shapes(tmp_path / "one"))))
    other = drawn(False, Folder(root=str(write_shapes(tmp_path / "other", each=9))))
    moved = drawn(False, Folder(root=str(write_shapes(tmp_path / "elsewhere"))))

    assert one["train voxnet"].key != other["train voxnet"].key
    assert one["train voxnet"].key == moved["train voxnet"].key


def test_a_shard_has_one_key_whichever_step_makes_it(tmp_path):
    source = Folder(root=str(write_shapes(tmp_path / "shapes")))
    store = Store(str(tmp_path / "store"))
    steps = (("components.steps.train", "train"),), (("components.steps.preprocess", "preprocess"),)
    one, other = (
        Work.of(source, [FAMILY.representation()], Running(store, "run", "key", step, 0, {})) for step in steps
    )

    assert one.keys == other.keys

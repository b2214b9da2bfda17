"""
The feed of a stream, in this process: what passes, what follows it, and what it refuses; Ray Data is integration's.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.train
import torch

import components.steps.preprocess as preprocessing
from components.artifacts import Checkpoint
from components.errors import DataError, UsageError
from components.family import Family
from components.plain import decode, encode
from components.source import Asset
from components.sources.folder import Folder
from components.step import Printing
from components.steps import stream
from components.steps.preprocess import Streamed, Work, preprocess
from components.steps.stream import Feed, _columns, _empty, check, first_rows, shard_rows
from components.steps.train import Training, train
from pipelines.engine.context import Running
from pipelines.engine.drawing import Node, draw
from pipelines.engine.store import Store
from tests.meshes import small_pointnet, small_voxnet, write_shapes


class Counted(Folder):
    """A folder that remembers what was opened."""

    opened: tuple[str, ...] = ()

    def open(self, asset: Asset) -> Any:
        object.__setattr__(self, "opened", (*self.opened, asset.id))
        return super().open(asset)


class Shard:
    """A Ray Data shard without Ray: batches of what `read` makes of each place, in order."""

    def __init__(self, read: Any, places: int) -> None:
        self.read, self.places, self.passes = read, places, 0

    def iter_batches(self, *, batch_size: int, **_: Any) -> Iterator[dict[str, np.ndarray]]:
        self.passes += 1
        held: dict[str, np.ndarray] = {}
        for place in range(self.places):
            more = self.read(place)
            held = {name: np.concatenate([held[name], more[name]]) if held else more[name] for name in more}
            while len(held["id"]) >= batch_size:
                yield {name: column[:batch_size] for name, column in held.items()}
                held = {name: column[batch_size:] for name, column in held.items()}


FAMILY = small_voxnet(steps=20, batch=4, dropout=0.0)  # some 24 rows to learn from make a pass of 6 updates


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """36 shapes in four shards."""
    monkeypatch.setattr(preprocessing, "SHARD", 8)
    return Counted(root=str(write_shapes(tmp_path / "shapes", each=12)))


@pytest.fixture
def shard(source: Counted, monkeypatch: pytest.MonkeyPatch) -> Shard:
    """What `get_dataset_shard` gives, over a context that the tests set."""
    made = Shard(None, 0)
    monkeypatch.setattr(ray.train, "get_dataset_shard", lambda name: made)
    return made


def work_of(source: Folder, context: Printing) -> Work:
    return Work.of(source, [FAMILY.representation()], context)


def trained(source: Folder, shard: Shard, context: Printing, family: Family = FAMILY) -> Checkpoint:
    work = work_of(source, context)

    def read(place: int) -> dict[str, np.ndarray]:
        rows = shard_rows(work, place, context)
        return _empty(work.adapted[0]) if rows is None else _columns(rows)

    shard.read, shard.places = read, len(work.groups)
    return Training(family, Feed(work, True, context), None, context, 0.0).run(torch.device("cpu"))


def test_each_asset_is_decoded_once_and_a_later_preprocess_finds_every_shard(source, shard):
    context = Printing()
    trained(source, shard, context)
    opened = list(source.opened)
    table = preprocess.run(preprocess.bind((source, [FAMILY.representation()]), {"on": "here"}), context)

    assert sorted(opened) == sorted(asset.id for asset in source.rows())
    assert list(source.opened) == opened
    assert len(table.sets[0].shards) == shard.places == 4


def test_one_pass_streams_and_the_rest_is_read(source, shard):
    trained(source, shard, Printing())

    assert shard.passes == 1


def test_nothing_is_judged_before_its_rows_are_made(source, shard):
    """20 updates have ten moments to judge; a pass is over before the half of them."""
    lines = trained(source, shard, Printing()).curves()

    train_rows = sum(asset.split == "train" for asset in source.rows())
    judged = [line["step"] for line in lines if "val_loss" in line]
    assert judged == [step for step in range(2, 21, 2) if step > train_rows // FAMILY.batch]
    assert judged[-1] == 20


def test_shards_that_are_in_the_store_give_the_same_weights(source, shard, tmp_path):
    cold = trained(source, shard, Printing())
    context = Printing()
    preprocess.run(preprocess.bind((source, [FAMILY.representation()]), {"on": "here"}), context)
    opened = source.opened
    warm = trained(source, shard, context)

    assert warm.weights == cold.weights
    assert source.opened == opened


def test_a_training_that_ends_before_the_pass_makes_what_it_is_judged_by(source, shard):
    context, short = Printing(), replace(FAMILY, steps=2)
    checkpoint = trained(source, shard, context, short)

    assert work_of(source, context).missing(context) == []
    assert [line["step"] for line in checkpoint.curves() if "val_loss" in line] == [2]


class Killed(BaseException):
    """Nobody catches it: the process is gone."""


@pytest.mark.parametrize(("at", "passes"), [(4, 2), (15, 1)])
def test_a_killed_training_begins_its_pass_anew_or_reads_the_store_where_it_is_over(
    source, shard, tmp_path, monkeypatch, at, passes
):
    context = Printing(folder=str(tmp_path / "scratch"))
    real = Printing.log

    def log(self: Printing, metrics: Any, step: int, *, trial: str = "") -> None:
        if step == at:
            raise Killed
        real(self, metrics, step, trial=trial)

    with monkeypatch.context() as patch:
        patch.setattr(Printing, "log", log)
        with pytest.raises(Killed):
            trained(source, shard, context)
    continued = trained(source, shard, context)

    assert shard.passes == passes
    steps = [line["step"] for line in continued.curves() if "loss" in line]
    assert steps == list(range(1, 21))


def test_a_shard_of_which_nothing_can_be_read_is_empty(tmp_path):
    root = write_shapes(tmp_path / "bad", each=4)
    for path in root.rglob("*.obj"):
        path.write_text("v 0 0\n")
    context = Printing()
    work = work_of(Folder(root=str(root)), context)
    nothing = _empty(work.adapted[0])

    assert shard_rows(work, 0, context) is None
    assert {name: (len(column), column.ndim) for name, column in nothing.items()} == {
        "voxels": (0, 4),
        "label": (0, 1),
        "id": (0, 1),
    }
    with pytest.raises(DataError, match="A training split must have rows, but none could be made"):
        first_rows(work, context)


# What is refused


def test_a_stream_of_what_the_family_does_not_read_is_refused(source):
    with pytest.raises(UsageError, match=r"voxnet learns from Voxels\(.*\), but got Points\("):
        train(FAMILY, preprocess.stream(source, small_pointnet().representation()))


def test_an_indexed_feed_of_a_stream_is_refused(source):
    with pytest.raises(UsageError, match="is read while it is made, but `feed` is 'indexed'. Pass what `preprocess`"):
        train(FAMILY, preprocess.stream(source, FAMILY.representation()), feed="indexed")


def test_a_stream_without_a_worker_makes_nothing(source):
    with pytest.raises(UsageError, match="A stream needs a worker of Ray Train"):
        train(FAMILY, preprocess.stream(source, FAMILY.representation()), workers=0)

    assert source.opened == ()


def test_a_column_of_another_shape_in_each_row_is_refused():
    class Ragged:
        def columns(self) -> dict[str, Any]:
            from components.representation import Column

            return {"words": Column((None,), "int32")}

    with pytest.raises(UsageError, match="A stream carries columns of one shape, but words has another in each row"):
        check(1, Ragged())  # type: ignore[arg-type]


def test_a_stream_is_written_down_and_read_back(source):
    streamed = preprocess.stream(Folder(root=source.root), FAMILY.representation())

    assert isinstance(streamed, Streamed)
    assert decode(encode(streamed)) == streamed


def test_too_large_a_table_is_streamed_again_after_the_pass(source, shard, monkeypatch):
    monkeypatch.setattr(stream, "too_large", lambda *_: True)
    trained(source, shard, Printing())

    assert shard.passes > 2


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
    steps = ("components.steps.train",), ("components.steps.preprocess",)
    one, other = (
        Work.of(source, [FAMILY.representation()], Running(store, "run", "key", step, 0, {})) for step in steps
    )

    assert one.keys == other.keys

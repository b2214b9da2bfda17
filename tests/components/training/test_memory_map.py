"""
Rows on the disk: those that are in memory, in the same order, whatever the shards.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from components.representations.points import Points
from components.representations.views import Views
from components.sources.folder import Folder
from components.steps import preprocess as module
from components.steps.preprocess import preprocess
from components.table import Table, tensor_of
from components.training.learner import Learner, World
from components.training.memory_map import Mapped, mapped
from tests.meshes import small_pointnet, write_shapes

POINTS, VIEWS = Points(count=16), Views(count=3, size=8, hold_out=3)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """Four shards of each set; one asset is in quarantine."""
    monkeypatch.setattr(module, "SHARD", 8)
    root = write_shapes(tmp_path / "shapes", each=12)
    (root / "flat" / "bad.obj").write_text("v 0")
    return preprocess(Folder(root=str(root)), [POINTS, VIEWS], on="here")


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache" / "rows").iterdir() if path.is_dir()]


@pytest.mark.parametrize("representation", [POINTS, VIEWS], ids=lambda one: one.name)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_rows_are_those_in_memory(table, representation, split):
    """Splits of assets, and those that the views have of their own."""
    held, read = mapped(table, representation, split), table.open(representation, split)
    index = np.random.default_rng(0).permutation(len(read))[:5]

    assert isinstance(held, Mapped)
    assert len(table.sets[0].shards) == 4
    assert (held.ids, held.labels, held.representation) == (read.ids, read.labels, read.representation)
    assert held.columns.keys() == read.columns.keys()
    for name in read.columns:
        assert_close(held[name], read[name], rtol=0, atol=0)
    assert_close(held.batch(index), read.batch(index), rtol=0, atol=0)
    assert_close(held.batch(index, row=[1, 0, 4, 2, 3], columns=()), read.batch(index, row=[1, 0, 4, 2, 3], columns=()))


def test_the_order_of_the_classes_is_the_one_given(table):
    labels = ("round", "flat")

    assert mapped(table, POINTS, "train", labels).label.tolist() == table.open(POINTS, "train", labels).label.tolist()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_workers_of_any_group_see_the_batches_of_one_in_memory(table, size):
    family = small_pointnet(batch=6, steps=9, stored=16, points=16)

    def ids(rows, world):
        learner = Learner.begin(family.adapt(rows), rows, seed=3, world=world)
        return [learner.batch(step)["id"] for step in range(9)]

    parts = [ids(mapped(table, POINTS, "train"), World(rank, size)) for rank in range(size)]
    joined = [torch.stack(list(step), 1).reshape(-1) for step in zip(*parts, strict=True)]

    assert_close(joined, ids(table.open(POINTS, "train"), World()))


def test_a_split_without_rows_has_none(table):
    assert len(mapped(table, POINTS, "other")) == 0


def test_what_is_written_to_a_tensor_is_not_in_the_file(table):
    mapped(table, POINTS, "train").columns["points"][:] = 7

    assert not (mapped(table, POINTS, "train")["points"] == 7).any()


def test_shards_are_unpacked_once_and_the_files_of_the_last_table_stay(table, tmp_path, monkeypatch):
    first = mapped(table, POINTS, "train")
    (kept,) = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("components.training.memory_map._unpack", lambda *_: pytest.fail("it is there"))
        mapped(table, POINTS, "train")
    mapped(table, VIEWS, "train")

    assert len(files(tmp_path)) == 1 and not kept.exists()
    assert_close(first["points"], table.open(POINTS, "train")["points"], rtol=0, atol=0)  # who has it keeps it


def test_a_process_that_was_killed_while_it_unpacked_leaves_nothing_half_done(table, tmp_path, monkeypatch):
    def killed(folder: Path, *_: object) -> None:
        (folder / "points").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("components.training.memory_map._unpack", killed)
        with pytest.raises(KeyboardInterrupt):
            mapped(table, POINTS, "train")

    assert_close(mapped(table, POINTS, "train")["points"], table.open(POINTS, "train")["points"], rtol=0, atol=0)
    assert len(files(tmp_path)) == 1


def test_no_more_than_a_shard_is_in_memory_at_once(table, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "components.training.memory_map.tensor_of", lambda column: sizes.append(len(column)) or tensor_of(column)
    )
    mapped(table, POINTS, "train")

    assert max(sizes) <= 12 < sum(sizes)

"""
Tables: rows that are read back as they were written, in an order that nothing changes.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from components.errors import DataError, UsageError
from components.representation import Column, Representation
from components.representations.points import Points
from components.representations.voxels import Voxels
from components.sources.folder import Folder
from components.steps.preprocess import preprocess, write_rows
from components.table import Rows, Set, Table, stable_hash
from tests.meshes import write_shapes

ASSETS = [
    {"id": name, "label": label, "split": split}
    for name, label, split in [("a", "x", "train"), ("b", "y", "train"), ("c", "x", "test"), ("d", "z", "train")]
]


class Kinds(Representation):
    """A column of each kind."""

    def columns(self):
        return {
            "cloud": Column((2, 3), "float32"),
            "count": Column((), "int64"),
            "codes": Column((None,), "int32"),
            "edges": Column((None, 2), "float32"),
        }


def row(name: str, lengths: int, split: str | None = None) -> dict:
    number = float(stable_hash(name) % 100)
    return {
        "id": name,
        "split": split,
        "cloud": np.full((2, 3), number),
        "count": lengths,
        "codes": np.arange(lengths),
        "edges": np.full((lengths, 2), number),
    }


def rows_of(rows: list[dict], split: str = "train", labels: tuple[str, ...] = ("x", "y", "z")) -> Rows:
    shards = [pq.read_table(write_rows([one], Kinds()).path()) for one in rows]
    return Rows.of(ASSETS, shards, split, labels, Kinds())


def test_every_kind_of_column_is_read_back_with_its_shape():
    rows = rows_of([row("a", 3), row("b", 0), row("d", 2)])
    values, offsets = rows["codes"]
    edges, _ = rows["edges"]

    assert rows["cloud"].shape == (3, 2, 3)
    assert rows["cloud"].dtype == torch.float32
    assert rows["count"].tolist() == [3, 0, 2]
    assert values.tolist() == [0, 1, 2, 0, 1]
    assert offsets.tolist() == [0, 3, 3, 5]
    assert edges.shape == (5, 2)


def test_the_order_of_rows_is_that_of_ids_whatever_the_shards():
    one = rows_of([row("d", 1), row("a", 2), row("b", 3)])
    other = rows_of([row("b", 3), row("d", 1), row("a", 2)])

    assert one.ids == other.ids == ["a", "b", "d"]
    assert_close(one["cloud"], other["cloud"], rtol=0, atol=0)


def test_parts_are_joined_and_picked_row_by_row():
    parts = [rows_of([row("a", 3), row("b", 0)]), rows_of([row("d", 2)])]
    whole, joined = rows_of([row("a", 3), row("b", 0), row("d", 2)]), Rows.joined(parts)
    picked = joined.picked([2, 0])

    assert joined.ids == whole.ids
    assert picked.ids == ["d", "a"]
    for ours, theirs in ((joined.batch(range(3)), whole.batch(range(3))), (picked.batch([0]), whole.batch([2]))):
        assert {n: v for n, v in ours.items() if n != "index"}.keys() == {n for n in theirs if n != "index"}
        for name in ("cloud", "count", "id", "label"):
            assert_close(ours[name], theirs[name], rtol=0, atol=0)
        for name in ("codes", "edges"):
            assert_close(ours[name], theirs[name], rtol=0, atol=0)


def test_a_rows_own_split_wins_over_its_assets():
    rows = [row("a", 1), row("a", 2, "test"), row("c", 3)]

    assert rows_of(rows)["count"].tolist() == [1]
    assert rows_of(rows, "test")["count"].tolist() == [2, 3]


def test_rows_of_assets_in_quarantine_are_passed_over():
    assert rows_of([row("a", 1), row("nobody", 2)]).ids == ["a"]


def test_labels_are_places_in_the_order_that_is_asked_for():
    rows = [row("a", 1), row("b", 1), row("d", 1)]

    assert rows_of(rows).label.tolist() == [0, 1, 2]
    assert rows_of(rows, labels=("z", "x")).label.tolist() == [1, -1, 0]


def test_a_batch_holds_its_rows_and_where_they_stand():
    rows = rows_of([row("a", 3), row("b", 0), row("d", 2)])
    batch = rows.batch([2, 0], row=[5, 7])
    values, offsets = batch["codes"]

    assert batch["index"].tolist() == [2, 0]
    assert batch["row"].tolist() == [5, 7]
    assert batch["label"].tolist() == [2, 0]
    assert batch["id"].tolist() == [stable_hash("d"), stable_hash("a")]
    assert values.tolist() == [0, 1, 0, 1, 2]
    assert offsets.tolist() == [0, 2, 5]


def test_a_batch_of_some_columns_has_no_others():
    batch = rows_of([row("a", 3)]).batch([0], columns=("count",))

    assert set(batch) == {"count", "id", "index", "label", "row"}


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.randoms())
@settings(max_examples=40, deadline=None)
def test_ragged_rows_are_cut_where_they_were_joined(lengths, random):
    offsets = torch.tensor(np.cumsum([0, *lengths]))
    rows = Rows({"codes": (torch.arange(int(offsets[-1])), offsets)}, [str(n) for n in lengths], torch.zeros(1), ())
    rows.label = torch.zeros(len(lengths), dtype=torch.int64)
    index = random.choices(range(len(lengths)), k=4)
    values, cuts = rows.batch(index)["codes"]

    for place, chosen in enumerate(index):
        assert values[cuts[place] : cuts[place + 1]].tolist() == list(range(offsets[chosen], offsets[chosen + 1]))


def test_a_column_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UsageError, match=r"no column 'points'; they have \['cloud', 'codes', 'count', 'edges'\]"):
        rows_of([row("a", 1)])["points"]


def test_a_table_of_other_columns_is_refused_with_what_it_has(tmp_path):
    table = preprocess(Folder(root=str(write_shapes(tmp_path / "shapes", each=2))), [Points(count=8)], on="here")

    with pytest.raises(UsageError, match=r"This table has no Voxels\(.*it has Points\(count=8.*Add it to `preprocess`"):
        table.open(Voxels(), "train")
    assert len(table.open(Points(count=8), "train"))


def test_a_table_is_found_by_what_was_declared_and_by_what_was_adapted():
    declared, adapted = Points(count=8), Points(count=9)
    one = Set(declared, adapted, (), 0)
    file = write_rows([row("a", 1)], Kinds())
    table = Table(file, (), (one,), file, {})

    assert table.set(declared) is one
    assert table.set(adapted) is one
    assert table.describe() == "; 0 rows of points"
    assert replace(table, counts={"train": 3, "val": 0}).describe() == "3 train; 0 rows of points"


def test_a_set_without_rows_is_refused():
    with pytest.raises(DataError, match="has no rows: every asset is in quarantine"):
        Rows.of(ASSETS, [], "train", (), Kinds())


def test_rows_unlike_their_declared_shape_are_refused():
    bad = row("a", 1)
    bad["cloud"] = np.zeros((3, 3))

    with pytest.raises(ValueError, match=r"declared as \(2, 3\) has rows of \(3, 3\)"):
        write_rows([bad], Kinds())


def test_tensors_are_written_so_that_pyarrow_alone_knows_their_shapes():
    kinds = pq.read_table(write_rows([row("a", 2)], Kinds()).path()).schema

    assert isinstance(kinds.field("cloud").type, pa.FixedShapeTensorType)
    assert kinds.field("cloud").type.shape == [2, 3]
    assert kinds.field("codes").type == pa.large_list(pa.int32())

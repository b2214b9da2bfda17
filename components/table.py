"""
The table that `preprocess` makes, and how a family reads it.

A `Table` names files; `Rows` holds one split of one of its sets in memory, as tensors that batches are cut from.
"""

# B rows of a batch

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from components.errors import DataError, UsageError
from components.representation import Representation
from components.runtime.objects import File
from components.source import ASIDE, Source


@dataclass(frozen=True)
class Set:
    """All rows of one representation: a Parquet file for each shard."""

    declared: Representation
    """as the family asked for it"""
    adapted: Representation
    """with what it learned from the training split"""
    shards: tuple[File, ...]
    rows: int


@dataclass(frozen=True)
class Table:
    """One set for each representation, over the same assets, and what could not be read."""

    assets: File
    """Parquet: id, label, split, digest, attributes"""
    labels: tuple[str, ...]
    sets: tuple[Set, ...]
    quarantine: File
    """Parquet: id, uri, reason, by (the representations that refused it; empty where none could be tried), traceback"""
    counts: Mapping[str, int]
    """assets in each split, and in quarantine"""
    source: Source | None = field(default=None, metadata=ASIDE)
    """where the assets were read; None for what a model made"""

    def describe(self) -> str:
        parts = ", ".join(f"{count} {split}" for split, count in self.counts.items() if count)
        return f"{parts}; " + ", ".join(f"{one.rows} rows of {one.declared.name}" for one in self.sets)

    def set(self, representation: Representation) -> Set:
        """The set of a representation."""
        for one in self.sets:
            if representation in (one.declared, one.adapted):
                return one
        held = ", ".join(str(one.declared) for one in self.sets)
        raise UsageError(f"This table has no {representation}; it has {held}. Add it to `preprocess`.")

    def open(
        self,
        representation: Representation,
        split: str,
        labels: Sequence[str] = (),
        shards: Sequence[File] | None = None,
    ) -> "Rows":
        """
        One split in memory.

        `labels` gives the order of the classes, the table's own by default; `shards` reads some of the shards only.
        """
        one = self.set(representation)
        assets = pq.read_table(self.assets.path()).to_pylist()
        read = [pq.read_table(shard.path(), memory_map=True) for shard in (one.shards if shards is None else shards)]
        return Rows.of(assets, read, split, tuple(labels) or self.labels, one.adapted)


@dataclass
class Rows:
    """
    The rows of one split, as tensors: a column is [N, ...], a ragged one a pair (values, offsets [N + 1]).

    Besides the representation's columns a batch holds, each [B]: `id` (a hash of the asset's id), `index` (place in
    this split), `label` (place in `labels`, -1 where it is not among them) and `row` (place in the global batch).
    """

    columns: dict[str, Any]
    ids: list[str]
    label: Tensor
    labels: tuple[str, ...]
    representation: Representation | None = None
    id: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.id = torch.tensor([stable_hash(name) for name in self.ids], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, column: str) -> Any:
        if column not in self.columns:
            raise UsageError(f"These rows have no column {column!r}; they have {sorted(self.columns)}.")
        return self.columns[column]

    @classmethod
    def of(
        cls,
        assets: Iterable[Mapping[str, Any]],
        shards: Sequence[pa.Table],
        split: str,
        labels: tuple[str, ...],
        representation: Representation,
    ) -> "Rows":
        """Those rows of the shards whose split is `split`, in the order of (asset id, place in its asset)."""
        by_id = {asset["id"]: asset for asset in assets}
        whole = pa.concat_tables(shards) if shards else None
        if whole is None or not len(whole):
            raise DataError(f"The set {representation.name} has no rows: every asset is in quarantine.")
        ids, own = whole["id"].to_pylist(), whole["split"].to_pylist()
        wanted = picked_rows(by_id, ids, own, split)
        picked = whole.take(pa.array(wanted, pa.int64()))
        place_of = {label: place for place, label in enumerate(labels)}
        label = torch.tensor([place_of.get(by_id[ids[p]]["label"], -1) for p in wanted], dtype=torch.int64)
        columns = {name: tensor_of(picked[name]) for name in picked.column_names if name not in ("id", "split")}
        return cls(columns, [ids[p] for p in wanted], label, labels, representation)

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        """The rows of several parts of one split, one part after the other."""
        first = parts[0]
        columns = {name: _joined([part[name] for part in parts]) for name in first.columns}
        label = torch.cat([part.label for part in parts])
        rows = cls(columns, [name for part in parts for name in part.ids], label, first.labels, first.representation)
        rows.id = torch.cat([part.id for part in parts])
        return rows

    def picked(self, index: Any) -> "Rows":
        """The rows at `index`, [B]."""
        at = torch.as_tensor(np.asarray(index), dtype=torch.int64, device=self.label.device)
        columns = {name: taken(column, at) for name, column in self.columns.items()}
        rows = Rows(columns, [self.ids[n] for n in index], self.label[at], self.labels, self.representation)
        rows.id = self.id[at]
        return rows

    def to(self, device: torch.device | str) -> "Rows":
        """The same rows on a device."""
        moved = {name: _to(column, device) for name, column in self.columns.items()}
        rows = Rows(moved, self.ids, self.label.to(device), self.labels, self.representation)
        rows.id = rows.id.to(device)
        return rows

    def batch(self, index: Any, row: Any = None, columns: Iterable[str] | None = None) -> dict[str, Any]:
        """The rows at `index`, [B]; `row` says where each stands in the global batch."""
        index = torch.as_tensor(np.asarray(index), dtype=torch.int64, device=self.label.device)
        row = torch.arange(len(index)) if row is None else torch.as_tensor(row)
        names = self.columns if columns is None else columns
        batch = {name: taken(self[name], index) for name in names}
        own = {"id": self.id[index], "index": index, "label": self.label[index], "row": row.to(index.device)}
        return {**batch, **own}


def picked_rows(
    by_id: Mapping[str, Mapping[str, Any]], ids: Sequence[str], own: Sequence[str | None], split: str
) -> list[int]:
    """Which rows are of a split, in the order of (asset id, place in its asset); `own` is the split of a row itself."""
    wanted = [
        place
        for place, (name, assigned) in enumerate(zip(ids, own, strict=True))
        if name in by_id and (assigned or by_id[name]["split"]) == split
    ]
    return sorted(wanted, key=lambda place: (ids[place], place))


def stable_hash(text: str) -> int:
    """63 bits that stand for a text, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def tensor_of(column: pa.ChunkedArray) -> Any:
    """An Arrow column as a tensor [N, ...]; a list column as (values, offsets)."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    if isinstance(array.type, pa.FixedShapeTensorType):
        return torch.from_numpy(np.array(array.to_numpy_ndarray()))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        offsets = torch.from_numpy(np.array(array.offsets.to_numpy(), dtype=np.int64))
        return _values(array.flatten()), offsets - offsets[0]
    return torch.from_numpy(np.array(array.to_numpy(zero_copy_only=False)))


def _values(array: pa.Array) -> Tensor:
    """Values of a ragged column's lists: numbers, or fixed lists of them."""
    if isinstance(array.type, pa.FixedShapeTensorType):
        return torch.from_numpy(np.array(array.to_numpy_ndarray()))
    if pa.types.is_fixed_size_list(array.type):
        return torch.from_numpy(np.array(array.flatten().to_numpy())).reshape(-1, array.type.list_size)
    return torch.from_numpy(np.array(array.to_numpy()))


def _to(column: Any, device: torch.device | str) -> Any:
    return tuple(part.to(device) for part in column) if isinstance(column, tuple) else column.to(device)


def _joined(columns: Sequence[Any]) -> Any:
    if not isinstance(columns[0], tuple):
        return torch.cat(list(columns))
    starts = np.cumsum([0, *(len(values) for values, _ in columns)])
    ends = [offsets[1:] + int(start) for (_, offsets), start in zip(columns, starts, strict=False)]
    return torch.cat([values for values, _ in columns]), torch.cat([columns[0][1][:1], *ends])


def taken(column: Any, index: Tensor) -> Any:
    """The rows `index` of a column, ragged ones included."""
    if not isinstance(column, tuple):
        return column[index]
    values, offsets = column
    parts = [values[offsets[i] : offsets[i + 1]] for i in index.tolist()]
    lengths = torch.tensor([0] + [len(part) for part in parts], device=index.device)
    return torch.cat(parts) if parts else values[:0], lengths.cumsum(0)

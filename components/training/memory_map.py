"""
The rows of a split on this machine's disk: those of `Table.open`, in the same order, where they do not fit in memory.

    rows = mapped(table, representation, "train")

Each column is a file of plain numbers that is mapped, and a batch is copied out of it. The processes of a machine share
the files, and those of the last table stay: shards are unpacked once. Columns must have rows of one shape.
"""

# N rows of the split

import fcntl
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components.representation import Representation
from components.runtime.objects import File, digest_of, scratch_root
from components.table import Rows, Table, picked_rows, tensor_of


@dataclass
class Mapped(Rows):
    """Rows whose columns stay on the disk: a batch goes to the device, and a whole column only when it is asked for."""

    device: torch.device = torch.device("cpu")

    def __getitem__(self, column: str) -> Any:
        return super().__getitem__(column).to(self.device)

    def to(self, device: torch.device | str) -> "Mapped":
        """The same rows, whose batches go to a device."""
        moved = copy(self)
        moved.device = torch.device(device)
        moved.label, moved.id = self.label.to(device), self.id.to(device)
        return moved

    def batch(self, index: Any, row: Any = None, columns: Iterable[str] | None = None) -> dict[str, Any]:
        """The rows at `index`, [B]; `row` says where each stands in the global batch."""
        at = torch.as_tensor(np.asarray(index), dtype=torch.int64)
        own = super().batch(at.to(self.device), row, columns=())
        names = self.columns if columns is None else columns
        return {**{name: self.columns[name][at].to(self.device) for name in names}, **own}


def mapped(table: Table, representation: Representation, split: str, labels: Sequence[str] = ()) -> Rows:
    """One split, mapped; `labels` gives the order of the classes, the table's own by default."""
    one = table.set(representation)
    assets = {asset["id"]: asset for asset in pq.read_table(table.assets.path()).to_pylist()}
    ids, places = _order(assets, one.shards, split) if one.shards else ([], [])
    if not ids:
        return table.open(representation, split, labels)
    name = digest_of(repr([split, table.assets.digest, [shard.digest for shard in one.shards]]).encode())
    columns = _columns(scratch_root() / "rows" / name, one.adapted, one.shards, places)
    classes = tuple(labels) or table.labels
    place_of = {label: place for place, label in enumerate(classes)}
    label = torch.tensor([place_of.get(assets[asset]["label"], -1) for asset in ids], dtype=torch.int64)
    return Mapped(columns, ids, label, classes, one.adapted)


def _order(
    assets: Mapping[str, Mapping[str, Any]], shards: Sequence[File], split: str
) -> tuple[list[str], list[np.ndarray]]:
    """The ids of a split's rows, [N], and for each shard the rows [n, 2] to take of it: where they are, and go to."""
    whole = [pq.read_table(shard.path(), columns=["id", "split"]) for shard in shards]
    joined = pa.concat_tables(whole)
    ids = joined["id"].to_pylist()
    wanted = np.array(picked_rows(assets, ids, joined["split"].to_pylist(), split), np.int64)
    ends = np.cumsum([len(one) for one in whole])
    shard_of = np.searchsorted(ends, wanted, side="right")
    starts = ends - [len(one) for one in whole]
    found = [
        np.stack([wanted[at] - starts[n], at], 1) for n in range(len(whole)) for at in [np.nonzero(shard_of == n)[0]]
    ]
    return [ids[place] for place in wanted], found


def _columns(
    folder: Path, representation: Representation, shards: Sequence[File], places: Sequence[np.ndarray]
) -> dict[str, torch.Tensor]:
    """The columns, [N, ...], in the files of a folder, which is made if it is not there."""
    count = sum(map(len, places))
    with _alone(folder.parent):
        if not folder.exists():
            for other in filter(Path.is_dir, folder.parent.iterdir()):
                shutil.rmtree(other)  # what is mapped stays until its process ends
            part = folder.with_suffix(".part")
            part.mkdir()
            _unpack(part, representation, shards, places)
            part.rename(folder)
        return {
            name: torch.from_numpy(
                # "c": a tensor may be written to, and the file is not
                np.memmap(folder / name, column.dtype, "c", shape=(count, *(n or 1 for n in column.shape)))
            )
            for name, column in representation.columns().items()
        }


def _unpack(folder: Path, representation: Representation, shards: Sequence[File], places: Sequence[np.ndarray]) -> None:
    """Writes each column's rows to where they go, one shard in memory at a time; a full disk is an error here."""
    names = list(representation.columns())
    with ExitStack() as open_files:
        files = {name: open_files.enter_context((folder / name).open("wb")) for name in names}
        for shard, rows in zip(shards, places, strict=True):
            taken = pq.read_table(shard.path(), columns=names).take(pa.array(rows[:, 0]))
            for name in names:
                values = np.ascontiguousarray(tensor_of(taken[name]).numpy()) if len(rows) else ()
                for value, place in zip(values, rows[:, 1], strict=True):
                    files[name].seek(int(place) * value.nbytes)
                    files[name].write(value.tobytes())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of the processes of this machine one at a time does what is inside."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""
The contents of the assets that a model was trained and chosen on.

A checkpoint holds them, and a registered model beside its weights. A gate trusts these and never a split: sides move
with the fold, with a label, and in small classes with every new file.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from components.artifacts import Checkpoint
from components.representation import Representation
from components.runtime.objects import File, keep
from components.runtime.serialization import canonical
from components.table import Table

NAME = "seen.json"


def seen(
    table: Table, representation: Representation, start: Checkpoint | None, splits: Sequence[str] = ("train", "val")
) -> File | None:
    """
    The contents in some splits, and those that `start` has seen; None where it does not know.

    Of an asset with rows in test too, views were held out, which its representation chose: it is not listed.
    """
    if start is not None and start.seen is None:
        return None
    contents = contents_of(table.assets)
    sides = sides_of(table, representation).items()
    learned = {contents[name] for name, own in sides if own & set(splits) and "test" not in own}
    before = read(start.seen) if start is not None and start.seen is not None else set()
    return keep(NAME, canonical(sorted(learned | before)).encode())


def sides_of(table: Table, representation: Representation) -> dict[str, set[str]]:
    """Asset id -> the splits that its rows stand in."""
    listed = pq.read_table(table.assets.path(), columns=["id", "split"]).to_pylist()
    assigned, found = {row["id"]: row["split"] for row in listed}, defaultdict[str, set[str]](set)
    for shard in table.set(representation).shards:
        for row in pq.read_table(shard.path(), columns=["id", "split"]).to_pylist():
            if row["id"] in assigned:
                found[row["id"]].add(row["split"] or assigned[row["id"]])
    return found


def contents_of(assets: File) -> dict[str, str]:
    """Asset id -> content, of a listing."""
    rows = pq.read_table(assets.path(), columns=["id", "content"]).to_pylist()
    return {row["id"]: row["content"] for row in rows}


def read(file: File) -> set[str]:
    """The contents that a file of them lists."""
    return set(json.loads(file.read()))


def read_beside(folder: Path) -> set[str] | None:
    """The contents that the model in a folder has seen; None where that was not written down."""
    path = folder / NAME
    return set(json.loads(path.read_bytes())) if path.exists() else None

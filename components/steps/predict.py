"""
predict: a model's features of every asset, as a table that another family can learn from.
"""

from typing import Any, Literal

import numpy as np
import torch

from components.artifacts import Checkpoint
from components.errors import DataError
from components.representations.features import Features
from components.step import Context, step
from components.steps.preprocess import write_rows
from components.steps.ray_workers import spread
from components.table import Rows, Set, Table
from components.training.learner import batches


@step(aside=("on",), spreads=True, strict=True)
def predict(
    checkpoint: Checkpoint,
    table: Table,
    *,
    split: Literal["all", "train", "val", "test"] = "all",
    on: Literal["auto", "ray", "here"] = "auto",
    context: Context,
) -> Table:
    """
    A table of `Features`: a vector for each asset, the mean over its rows. All of them stand in its training split.

    A row may be one of many views of its asset: a map is to have a point for each shape, and not for each picture.
    """
    family, net = checkpoint.family, checkpoint.network()
    found: dict[str, list[np.ndarray]] = {}
    count = 0
    for name in ("train", "val", "test") if split == "all" else (split,):
        rows = table.open(checkpoint.representation, name, getattr(family, "labels", ()))
        groups = [tuple(index) for index in batches(len(rows), 256)]
        made = spread(_features, groups, (family, net, rows), on=on, context=context)
        for index, vectors in sorted(made, key=lambda pair: pair[0]):
            for place, vector in zip(index, vectors, strict=True):
                found.setdefault(rows.ids[place], []).append(vector)
        count += len(rows)
        context.progress(count, max(count, 1), "rows")
    if not found:
        raise DataError(f"The split {split!r} has no rows to predict.")
    joined = [{"id": name, "split": "train", "features": np.mean(own, 0)} for name, own in found.items()]
    representation = Features(dim=len(joined[0]["features"]))
    file = write_rows(joined, representation)
    one = Set(declared=Features(), adapted=representation, shards=(file,), rows=len(joined))
    counts = {"train": len(found), "val": 0, "test": 0, "quarantined": 0}
    return Table(table.assets, table.labels, (one,), table.quarantine, counts)


def _features(index: tuple[int, ...], family: Any, net: Any, rows: Rows) -> np.ndarray:
    net.eval()
    with torch.no_grad():
        return family.features(net, rows.batch(np.array(index))).float().cpu().numpy()

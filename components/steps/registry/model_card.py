"""
The model card: what a stranger must know of a registered model, as Markdown.
"""

import sys
from collections import Counter

import pyarrow.parquet as pq

from components.artifacts import Checkpoint, Scores


def model_card(scores: Scores, checkpoint: Checkpoint, name: str, key: str) -> str:
    """The family, its size, its scores with their errors, and whose data it learned from."""
    family = checkpoint.family
    doc = (sys.modules[type(family).__module__].__doc__ or "").strip().splitlines()
    numbers = [
        f"| {n} | {scores.val.get(n, float('nan')):.4g} | {v:.4g} | {scores.error.get(n, float('nan')):.2g} |"
        for n, v in scores.test.items()
    ]
    lines = [
        f"# {name}: {family.name}",
        "",
        *doc[:1],
        "",
        f"{checkpoint.parameters:,} parameters, {checkpoint.steps} updates on {checkpoint.device}; key `{key}`.",
        "",
        f"Tested on {scores.count} rows that it has not learned from.",
        "",
        "| score | val | test | standard error |",
        "|---|---|---|---|",
        *numbers,
        "",
        *_data_card(scores),
    ]
    return "\n".join(lines)


def _data_card(scores: Scores) -> list[str]:
    """The data's licences and authors: their attribution goes wherever the model goes."""
    if scores.assets is None:
        return []
    rows = pq.read_table(scores.assets.path()).to_pylist()
    attributes = [dict(row["attributes"] or []) for row in rows]
    licences = Counter(a.get("licence", "not stated") for a in attributes)
    authors = Counter(a.get("author", "") for a in attributes if a.get("author"))
    said = [f"Data: {len(rows)} assets; " + ", ".join(f"{n} {licence}" for licence, n in licences.most_common()) + "."]
    if authors:
        said += ["", "Authors: " + ", ".join(f"{author} ({n})" for author, n in authors.most_common(40)) + "."]
    return said

"""
`rayfield predict`: a registered model is asked about one file, with a picture, or about every asset of a source.
"""

import io
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from components.errors import DataError, UsageError
from components.formats.decode import beside, decode
from components.formats.mesh import Mesh
from components.representations.views import Views
from components.runtime import filesystem
from components.runtime.redaction import redact
from components.runtime.user_code import imported
from components.source import Asset, Source, Unreadable, content_of
from components.step import Printing
from components.steps.preprocess import opened, represented
from components.steps.ray_workers import spread
from components.steps.registry.inference import answer, joined
from components.steps.registry.training_data import read_beside
from components.steps.registry.versions import registered

PICTURES = (".png", ".svg", ".pdf")
OURS = "rayfield predict"  # who made a picture, in its own bytes


def ask(uri: str, file: Path, picture: Path, up: str = "y") -> dict[str, Any]:
    """Ask a registered classifier about a mesh: labels with their shares, best first."""
    if file.is_dir():
        raise UsageError(f"predict takes one FILE, but {file} is a folder. Pass --source folder --root {file}.")
    if not file.is_file():
        raise UsageError(f"No file {file}.")
    _may_be_drawn(picture)
    mesh = replace(_mesh(file), up=up)
    family, (representation, net), _ = registered(uri)
    try:
        rows = list(representation.rows(mesh, representation.generator(0, file.name)))
    except Unreadable as error:
        raise DataError(f"{file} cannot be used: {error}.") from error
    question = {name: np.stack([row[name] for row in rows]) for name in representation.columns()}
    answered = answer(family, net, question)
    if "probabilities" not in answered:
        raise UsageError(f"{uri} is a {family.name}, which classifies nothing: load it with mlflow.pyfunc instead.")
    shares = _shares(answered)
    order = np.argsort(-shares)
    answers = [(family.labels[place], float(shares[place])) for place in order]
    _draw(mesh, answers, picture)
    return {"model": uri, "file": str(file), "answers": answers, "picture": str(picture)}


def _mesh(file: Path) -> Mesh:
    try:
        mesh = decode(file.read_bytes(), file.suffix.lstrip(".").lower(), beside(file))
    except Unreadable as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
    except OSError as error:
        raise DataError(f"{error.filename or file} cannot be read: {error.strerror or error}.") from error
    if problem := mesh.problem():
        raise DataError(f"{file} cannot be used: {problem}.")
    return mesh


def _may_be_drawn(picture: Path) -> None:
    """Refuses what could not be drawn, or would replace a file that is no answer of ours, before any work is done."""
    _may_be_written(picture)
    if picture.is_dir():
        raise UsageError(f"--out is the picture itself, but {picture} is a folder. Pass {picture / 'answer.png'}.")
    if picture.suffix.lower() not in PICTURES:
        raise UsageError(f"--out is a {', '.join(PICTURES)} file, but got {picture}. Pass {picture.stem}.png.")
    if picture.exists() and OURS.encode() not in picture.read_bytes():
        raise UsageError(f"--out never replaces what is no answer, but {picture} is there. Pass another --out.")


def _may_be_written(file: Path) -> None:
    try:
        file.exists()  # a name may be too long
        near = next(folder for folder in file.absolute().parents if folder.exists())
        tempfile.TemporaryFile(dir=near).close()
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise UsageError(f"--out is a file that can be made, but {file} cannot: {words}. Pass another --out.") from None


def _draw(mesh: Mesh, answers: list[tuple[str, float]], picture: Path) -> None:
    from components.plotting.figures import figure

    views = Views(count=8, size=256)
    pictures = [row["color"] for row in views.rows(mesh, views.generator(0, "picture"))]
    made, axes = figure(10, 3.4, ncols=3, width_ratios=[1, 1, 1.1])
    for place, shown in zip(axes[:2], pictures[:2], strict=True):
        place.imshow(shown)
        place.set_axis_off()
    bars = answers[:5][::-1]
    axes[2].barh([label for label, _ in bars], [share for _, share in bars], color="#9db8d9")
    axes[2].set(xlim=(0, 1), title=f"{answers[0][0]}: {answers[0][1]:.0%}")
    for side in ("top", "right"):
        axes[2].spines[side].set_visible(False)
    drawn = io.BytesIO()
    made.savefig(drawn, format=picture.suffix[1:].lower(), dpi=110, metadata={"Creator": OURS})
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(drawn.getvalue())


# Every asset of a source

GROUP = 16  # assets that are answered together
ENOUGH = 64  # assets from which on a Ray is started for the rest


def ask_all(uri: str, source: Source, out: str, *, on: str = "auto") -> dict[str, Any]:
    """
    Ask a registered model about every asset of a source: a table with a row for each, and a summary.

    An asset without an answer has its reason in the column `reason`. The column `learned` says whether the model was
    trained or chosen on an asset: the accuracy is of the others. `on` is "here", "ray" (a Ray Data job) or "auto",
    which starts Ray for more than a few assets.
    """
    _may_be_filled(out)
    family, (representation, net), folder = registered(uri)
    assets = sorted(source.rows(), key=lambda asset: asset.id)
    if not assets:
        raise DataError("A source must have assets, but this one is empty. Check its --root.")
    groups = [tuple(assets[start : start + GROUP]) for start in range(0, len(assets), GROUP)]
    rows: list[dict[str, Any]] = []
    for found in _answered(groups, (source, family, representation, net), _place(on, len(assets))):
        rows += found
        _progress(len({row["id"] for row in rows}), len(assets))
    rows.sort(key=lambda row: (row["id"], row["row"]))
    known, contents = read_beside(folder), {asset.id: content_of(asset) for asset in assets}
    for row in rows:
        row["learned"] = None if known is None else contents[row["id"]] in known
    filesystem.write(out, TABLES[PurePath(out).suffix.lower()](_as_table(rows)))
    return {"model": uri, "assets": len(assets), **_summary(rows, getattr(family, "labels", ())), "out": out}


def _may_be_filled(out: str) -> None:
    """Refuses what no table could be written to, before any work is done."""
    table = Path(out.removeprefix("file://"))
    if not filesystem.is_remote(out):
        _may_be_written(table)
        if table.is_dir():
            raise UsageError(f"--out is the table itself, but {table} is a folder. Pass {table / 'answers.parquet'}.")
    if table.suffix.lower() not in TABLES:
        raise UsageError(f"--out is a {' or '.join(TABLES)} file, but got {out}. Pass {table.stem}.parquet.")


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _csv(table: pa.Table) -> bytes:
    """CSV has no lists: they are JSON in it."""
    for place, column in enumerate(table.columns):
        if pa.types.is_list(column.type):
            texts = [None if value is None else json.dumps(value) for value in column.to_pylist()]
            table = table.set_column(place, table.column_names[place], pa.array(texts, pa.string()))
    buffer = io.BytesIO()
    csv.write_csv(table, buffer)
    return buffer.getvalue()


TABLES = {".parquet": _parquet, ".csv": _csv}
"""how a table of answers is written, by the ending of its name"""


def _place(on: str, count: int) -> str:
    """Where to work, with Ray at hand if it is there."""
    where = ("ray" if count > ENOUGH else "here") if on == "auto" else on
    if where == "ray":
        from ray import cloudpickle

        from pipelines.engine.execution.executors import connect

        connect()
        for name in imported():  # which lie where no worker looks
            cloudpickle.register_pickle_by_value(sys.modules[name])
    return where


def _answered(groups: Sequence[Any], held: tuple[Any, ...], where: str) -> Iterator[list[dict[str, Any]]]:
    context = Printing(resources={"CPU": float(os.cpu_count() or 1)})
    for _, found in spread(answers, groups, held, on=where, context=context):
        yield found


def answers(
    assets: Sequence[Asset], source: Source, family: Any, representation: Any, net: Any
) -> list[dict[str, Any]]:
    """The rows of some assets: an answer to each, or the reason why its bytes can have none."""
    rows = []
    for asset in assets:
        known = {"id": asset.id, "uri": redact(asset.uri), "label": asset.label}
        try:
            rows += [{**known, **row, "reason": None} for row in _answer(source, asset, family, representation, net)]
        except Unreadable as error:  # one asset that cannot be answered stops none of the others
            rows.append({**known, "row": 0, "reason": redact(" ".join(str(error).split()))})
    return rows


def _answer(source: Source, asset: Asset, family: Any, representation: Any, net: Any) -> list[dict[str, Any]]:
    """One row for each answer; a classifier's views of one asset become one, as they do for a file."""
    made = represented(representation, opened(source, asset), asset, 0)
    said = answer(family, net, {name: np.stack([row[name] for row in made]) for name in representation.columns()})
    if "probabilities" not in said:
        return [{"row": place, **{name: column[place] for name, column in said.items()}} for place in range(len(made))]
    shares = _shares(said)
    best = int(shares.argmax())
    return [{"row": 0, "predicted": family.labels[best], "share": float(shares[best]), "probabilities": shares}]


def _shares(answered: Mapping[str, np.ndarray]) -> np.ndarray:
    """The views' probabilities as one, [K]; NaN, which `argmax` takes for the most, is no answer."""
    shares = joined(answered["probabilities"])
    if np.isnan(shares).any():
        raise DataError("An answer must be probabilities, but the model gives NaN. Train it with a lower lr.")
    return shares


def _as_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows as a table; an array is a list, with its shape beside it where it has more than one axis."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        arrays = [value for value in values if isinstance(value, np.ndarray)]
        if any(array.ndim > 1 for array in arrays):
            columns[f"{name}_shape"] = pa.array([None if v is None else list(v.shape) for v in values])
        columns[name] = pa.array([v.reshape(-1) if isinstance(v, np.ndarray) and v.ndim else v for v in values])
    columns["reason"], columns["learned"] = columns["reason"].cast(pa.string()), columns["learned"].cast(pa.bool_())
    return pa.table(columns)


def _summary(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> dict[str, Any]:
    """How many of each answer, how many are right of those not learned from, and why some have no answer."""
    told = [row for row in rows if row["reason"] is None]
    labelled = [row for row in told if "predicted" in row and row["label"] in labels]
    right = [row["predicted"] == row["label"] for row in labelled if not row["learned"]]
    accuracy = float(np.mean(right)) if right else None
    return {
        "answered": len({row["id"] for row in told}),
        "predicted": dict(Counter(row["predicted"] for row in told if "predicted" in row).most_common()),
        "labelled": len(right),
        "learned": None if any(row["learned"] is None for row in labelled) else len(labelled) - len(right),
        "accuracy": accuracy,
        "error": float(np.sqrt(accuracy * (1 - accuracy) / len(right))) if accuracy is not None else None,
        "quarantined": dict(Counter(row["reason"] for row in rows if row["reason"] is not None).most_common()),
    }


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r  {done}/{total} assets", end="\n" if done >= total else "", file=sys.stderr, flush=True)

"""
Questions to a model: an asset whose bytes cannot be used has that for an answer, and an ill machine gives none.
"""

import csv
import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.errors import DataError
from components.source import Asset, Source, Unreadable
from pipelines.cli.commands.predict import _say
from pipelines.inference import predict
from pipelines.inference.predict import _mesh, _shares, answers, ask_all

ASSETS = [Asset("a", "/x/a", "chair", "train", "d"), Asset("b", "/x/b", "chair", "train", "d")]


class Failing(Source):
    """Its second asset fails so."""

    error: Any = None

    def open(self, asset: Asset) -> str:
        if asset.id == "b":
            raise self.error
        return asset.id


class Letters:
    def rows(self, asset: str, generator: Any) -> Any:
        yield {"letter": asset}

    def generator(self, seed: int, asset: str) -> None:
        return None

    def columns(self) -> dict[str, Any]:
        return {"letter": None}


def asked(error: Exception, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(predict, "answer", lambda family, net, question: {"said": question["letter"]})
    return answers(ASSETS, Failing(error=error), None, Letters(), None)


def test_an_asset_that_cannot_be_used_stops_none_of_the_others(monkeypatch):
    rows = asked(Unreadable("it is torn"), monkeypatch)

    assert [(row["id"], row.get("said"), row["reason"]) for row in rows] == [
        ("a", "a", None),
        ("b", None, "it is torn"),
    ]


@pytest.mark.parametrize(
    "error", [ConnectionResetError("reset"), OSError(errno.EIO, "ill"), MemoryError(), KeyError("bug")]
)
def test_what_tells_nothing_of_the_bytes_is_no_answer(monkeypatch, error):
    with pytest.raises(type(error)) as caught:
        asked(error, monkeypatch)

    assert caught.value is error
    assert error.__notes__ == ["(asset b)"]


@pytest.fixture
def half_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model of a folder that was trained on the asset a, and answers "chair" to everything."""
    said = {"row": 0, "predicted": "chair", "share": 0.75, "probabilities": np.array([0.75, 0.25])}
    family = SimpleNamespace(labels=("chair", "table"))
    monkeypatch.setattr(predict, "registered", lambda _: (family, (None, None), tmp_path))
    monkeypatch.setattr(predict, "_answer", lambda *_: [said])
    (tmp_path / "seen.json").write_text('["da"]')
    return tmp_path


class Labelled(Source):
    """A chair that was learned from, and a table."""

    def rows(self) -> list[Asset]:
        labels = {"a": "chair", "b": "table"}
        return [Asset(name, f"/x/{name}", label, "test", f"d{name}") for name, label in labels.items()]


def test_an_accuracy_is_of_what_the_model_has_not_learned_from(half_known):
    out = str(half_known / "a.parquet")
    summary = ask_all("models:/m/1", Labelled(), out, on="here")

    assert (summary["accuracy"], summary["labelled"], summary["learned"]) == (0, 1, 1)
    assert [row["learned"] for row in pq.read_table(out).to_pylist()] == [True, False]


def test_a_model_that_did_not_write_down_what_it_learned_from_says_so(half_known, capsys):
    (half_known / "seen.json").unlink()
    summary = ask_all("models:/m/1", Labelled(), str(half_known / "a.parquet"), on="here")
    _say(summary)

    assert (summary["accuracy"], summary["labelled"], summary["learned"]) == (0.5, 2, None)
    assert "those that it was trained on may be among them" in capsys.readouterr().out


def test_a_model_that_learned_from_all_that_is_asked_has_no_accuracy(half_known, capsys):
    (half_known / "seen.json").write_text('["da", "db"]')
    summary = ask_all("models:/m/1", Labelled(), str(half_known / "a.parquet"), on="here")
    _say(summary)

    assert (summary["accuracy"], summary["learned"]) == (None, 2)
    assert "no accuracy: the model was trained or chosen on all 2" in capsys.readouterr().out


def test_a_table_is_written_as_its_name_ends(half_known):
    for name in ("a.csv", "a.CSV", "a.parquet"):
        ask_all("models:/m/1", Labelled(), str(half_known / name), on="here")
    texts = [(half_known / name).read_text() for name in ("a.csv", "a.CSV")]
    first, row = next(csv.DictReader(texts[0].splitlines())), pq.read_table(half_known / "a.parquet").to_pylist()[0]

    assert texts[0] == texts[1]
    assert first["predicted"] == row["predicted"] == "chair"
    assert json.loads(first["probabilities"]) == row["probabilities"] == [0.75, 0.25]
    assert first["reason"] == "" and row["reason"] is None


def test_a_picture_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.obj").write_bytes(b"mtllib a.mtl\nusemtl a\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (tmp_path / "a.mtl").write_bytes(b"newmtl a\nKd 1 0 0\n")
    read = Path.read_bytes

    def ill(path: Path) -> bytes:
        if path.name == "a.mtl":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", ill)

    with pytest.raises(DataError, match="a.mtl cannot be read: Input/output error"):
        _mesh(tmp_path / "a.obj")


def test_a_model_that_answers_nan_is_refused_and_has_not_said_the_first_class():
    """`argmax` takes NaN for the most."""
    with pytest.raises(DataError, match="An answer must be probabilities, but the model gives NaN"):
        _shares({"probabilities": np.array([[0.5, 0.5], [np.nan, np.nan]])})

"""
Questions to a model: an asset whose bytes cannot be used has that for an answer, and an ill machine gives none.
"""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.errors import DataError
from components.source import Asset, Source, Unreadable
from pipelines.engine import asking
from pipelines.engine.asking import _mesh, _shares, answers

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
    monkeypatch.setattr(asking, "answer", lambda family, net, question: {"said": question["letter"]})
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

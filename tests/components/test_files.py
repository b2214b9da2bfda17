"""
Files by their contents.
"""

import errno
import os
from pathlib import Path

import pytest

from components import files
from components.errors import DataError
from components.files import digest_of, keep, read_address, tracking_uri, where, write_address, write_atomically


def test_the_same_bytes_are_kept_once(own_store, monkeypatch):
    first = keep("a.bin", b"words")
    monkeypatch.setattr(files, "write_atomically", _never)
    second = keep("b.bin", b"words")

    assert first.digest == second.digest == digest_of(b"words")
    assert first.path() == own_store / where(first.digest)
    assert second.read() == b"words"


def _never(*_: object) -> None:
    raise AssertionError("it is kept already")


def test_a_path_is_kept_by_its_contents(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"words")

    assert keep("a.bin", tmp_path / "a.bin") == keep("a.bin", b"words")


def test_an_object_that_is_not_there_says_how_to_make_it():
    with pytest.raises(DataError, match="is not in .* Run the pipeline again to make it"):
        files.File("a.bin", "0" * 32, 3).path()


def test_a_damaged_object_of_a_bucket_is_refused(monkeypatch):
    monkeypatch.setenv("RAYFIELD_STORE", "memory://damaged")
    file = keep("a.bin", b"words")
    write_address(f"memory://damaged/{where(file.digest)}", b"wards")

    with pytest.raises(DataError, match="is damaged"):
        file.read()


@pytest.mark.parametrize("address", ["{tmp}/a/b.bin", "memory://addresses/a/b.bin"], ids=["disk", "bucket"])
def test_an_address_is_a_path_or_any_that_fsspec_knows(address, tmp_path):
    address = address.format(tmp=tmp_path)
    assert read_address(address) is None
    write_address(address, b"words")

    assert read_address(address) == b"words"


def test_a_full_disk_leaves_no_part_behind(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a.bin", b"words")

    assert list(tmp_path.iterdir()) == []


def test_mlflow_is_where_the_environment_says_or_beside_the_store(monkeypatch, own_store, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri() == "http://mlflow:5000"

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri() == f"sqlite:///{own_store}/mlflow.db"

    monkeypatch.setenv("RAYFIELD_STORE", "s3://bucket/rayfield")
    monkeypatch.chdir(tmp_path)
    assert tracking_uri() == f"sqlite:///{Path.cwd()}/.rayfield/mlflow.db"

"""
Who may read a store is decided by the umask, as for whatever else people make.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.runtime import filesystem
from components.runtime.objects import keep

MODES = {0o022: (0o644, 0o755), 0o027: (0o640, 0o750), 0o077: (0o600, 0o700), 0o002: (0o664, 0o775)}


@pytest.fixture(params=MODES, ids="{:03o}".format)
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> tuple[set[int], set[int]]:
    """The modes of all files below a folder, and of all folders, itself included."""
    found = [folder, *folder.rglob("*")]
    files = {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_file()}
    return files, {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_dir()}


def test_objects_manifests_and_leases_have_the_modes_that_the_umask_leaves(own_store, mask):
    keep("a.bin", b"words")
    filesystem.write(f"{own_store}/runs/one/run.json", b"{}")
    assert filesystem.create(f"{own_store}/keys/ab/abc", b"first")

    file, folder = MODES[mask]
    assert modes(own_store) == ({file}, {folder})


def test_mlflows_database_too_for_sqlite_alone_would_not_let_a_group_write(own_store, mask, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{own_store}/mlflow.db")
    monkeypatch.setattr("mlflow.MlflowClient.search_experiments", lambda *_, **__: [])
    from components.steps.registry.versions import client

    client()

    assert stat.S_IMODE((own_store / "mlflow.db").stat().st_mode) == MODES[mask][0]


def test_another_users_object_that_is_needed_again_is_replaced_by_ones_own(own_store, monkeypatch):
    """A group may write into the folder and not into the file, whose time it cannot set."""
    filesystem.write(f"{own_store}/a", b"words")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    before = (own_store / "a").stat().st_ino
    filesystem.touch(f"{own_store}/a", b"words")

    assert (own_store / "a").read_bytes() == b"words"
    assert (own_store / "a").stat().st_ino != before

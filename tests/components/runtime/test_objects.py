"""
Files by their contents.
"""

import errno
import getpass
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy

from components.errors import DataError, UsageError
from components.runtime import filesystem, objects
from components.runtime.filesystem import write_atomically
from components.runtime.objects import digest_of, keep, tracking_uri, where
from pipelines.engine.execution.retry import kind_of


def test_the_same_bytes_are_kept_once(own_store, monkeypatch):
    first = keep("a.bin", b"words")
    monkeypatch.setattr(filesystem, "write", _never)
    second = keep("b.bin", b"words")

    assert first.digest == second.digest == digest_of(b"words")
    assert first.path() == own_store / where(first.digest)
    assert second.read() == b"words"


def _never(*_: object) -> None:
    raise AssertionError("it is kept already")


@pytest.mark.parametrize("address", ["{tmp}/store", "memory://kept-again"], ids=["disk", "bucket"])
def test_what_is_kept_again_is_young_again(address, tmp_path, monkeypatch):
    """`gc` spares young objects: an old one that a running step relies on must not look old."""
    monkeypatch.setenv("RAYFIELD_STORE", address.format(tmp=tmp_path))
    place = f"{objects.root()}/{where(keep('a.bin', b'words').digest)}"
    before = filesystem.look(place)
    monkeypatch.setattr(objects, "FRESH", -1.0)
    time.sleep(0.02)  # the clock of the file system must have moved
    keep("a.bin", b"words")

    assert filesystem.look(place).when > before.when
    assert filesystem.read(place) == b"words"


def test_what_was_cut_short_is_written_again():
    file = keep("a.bin", b"words")
    filesystem.write(f"{objects.root()}/{where(file.digest)}", b"wo")

    assert keep("a.bin", b"words").read() == b"words"


def test_a_path_is_kept_by_its_contents(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"words")

    assert keep("a.bin", tmp_path / "a.bin") == keep("a.bin", b"words")


def test_an_object_that_is_not_there_says_how_to_make_it():
    with pytest.raises(DataError, match="is not in .* Run the pipeline again to make it anew"):
        objects.File("a.bin", "0" * 32, 3).path()


@pytest.mark.parametrize("address", ["{tmp}/store", "memory://damaged"], ids=["disk", "bucket"])
def test_a_damaged_object_is_refused_and_set_aside(address, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYFIELD_STORE", address.format(tmp=tmp_path))
    file = keep("a.bin", b"words")
    filesystem.write(f"{objects.root()}/{where(file.digest)}", b"wards")

    with pytest.raises(objects.Damaged, match="was damaged in .* Run the pipeline again to make it anew"):
        file.read()
    assert filesystem.look(f"{objects.root()}/{where(file.digest)}") is None
    assert filesystem.read(f"{objects.root()}/damaged/{file.digest}") == b"wards"


def test_every_reading_is_compared_with_the_digest_and_a_path_after_each_writing(own_store):
    """A driver or a notebook lives for days."""
    for opened in (lambda file: file.read(), lambda file: file.path()):
        file = keep("a.bin", b"words")
        assert file.path().read_bytes() == file.read() == b"words"
        file.path().write_bytes(b"wards")
        with pytest.raises(objects.Damaged):
            opened(file)


def test_what_another_process_has_made_anew_meanwhile_is_not_set_aside(own_store):
    file = keep("a.bin", b"words")
    objects.set_aside(objects.root(), where(file.digest), file.digest)

    assert file.read() == b"words"
    assert not (own_store / "damaged").exists()


def test_a_damaged_copy_of_a_buckets_object_is_fetched_again(monkeypatch):
    monkeypatch.setenv("RAYFIELD_STORE", "memory://copies")
    file = keep("a.bin", b"words")
    copy = file.path()
    copy.write_bytes(b"wards")
    objects._verified.clear()

    assert file.path().read_bytes() == b"words"


def test_a_full_disk_leaves_no_part_behind(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a.bin", b"words")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["shapes/store", "./shapes/store", "file://shapes/store", "other/../shapes/store"])
def test_a_store_that_was_named_from_a_folder_is_the_same_from_every_other(monkeypatch, tmp_path, address):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    objects.use(address)
    monkeypatch.chdir("/")

    assert objects.root() == f"{tmp_path}/shapes/store"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri() == f"sqlite:///{tmp_path}/shapes/store/mlflow.db"


def test_without_a_name_the_store_is_in_the_folder_of_whoever_asks(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYFIELD_STORE", "")
    assert objects.root() == f"{tmp_path}/.rayfield"

    monkeypatch.delenv("RAYFIELD_STORE")
    assert objects.root() == f"{tmp_path}/.rayfield"


@pytest.mark.parametrize(
    "name", ["a?b", "100%20", "a#b", "a b", "it's", 'a "b"', "a&b=c", "ü", "a?b/%3F"], ids=lambda name: ascii(name)
)
def test_the_address_of_mlflows_database_leads_into_the_store_whatever_its_name(monkeypatch, tmp_path, name):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    objects.use(str(tmp_path / name))
    (tmp_path / name).mkdir(parents=True)

    assert objects.database(tracking_uri()) == tmp_path / name / "mlflow.db"
    with sqlalchemy.create_engine(tracking_uri()).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE a (b)")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name / "mlflow.db"]


def test_a_worker_that_sees_what_its_driver_sees_uses_it(own_store, monkeypatch):
    told = objects.told()
    monkeypatch.setattr(objects, "_marks", {})  # as in another process
    objects.use(told)

    assert objects.root() == str(own_store)
    assert objects.told() == told


@pytest.mark.parametrize(
    ("found", "words"),
    [(None, "has no such store there"), (b"another", "has another store there")],
    ids=["none", "another"],
)
def test_a_worker_that_does_not_see_it_names_both(own_store, monkeypatch, found, words):
    told = replace(objects.told(), teller="ada on laptop in /home/ada")
    monkeypatch.setattr(objects, "_marks", {})
    (own_store / "mark").write_bytes(found) if found else (own_store / "mark").unlink()

    with pytest.raises(objects.Unseen) as error:
        objects.use(told)
    said = f"{own_store} is of ada on laptop in /home/ada, and {getpass.getuser()} on {os.uname().nodename} in"
    assert f"A worker must see its driver's store, but {said} {os.getcwd()} {words}." in str(error.value)
    assert kind_of(error.value) == "user"  # which is never tried again


def test_a_store_that_was_emptied_meanwhile_is_marked_anew(own_store):
    before = objects.told()
    (own_store / "mark").unlink()

    assert objects.told().mark not in ("", before.mark)
    objects.use(objects.told())


def test_an_sqlite_database_that_was_named_from_a_folder_is_the_same_from_every_other(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///own/mlflow.db")

    assert tracking_uri() == f"sqlite:///{tmp_path}/own/mlflow.db"
    assert objects.database("sqlite:///:memory:") is None
    assert objects.database("http://host:5000") is None


def test_mlflow_is_where_the_environment_says_or_beside_the_store(monkeypatch, own_store, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri() == "http://mlflow:5000"

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri() == f"sqlite:///{own_store}/mlflow.db"

    monkeypatch.setenv("RAYFIELD_STORE", "s3://bucket/rayfield")
    monkeypatch.chdir(tmp_path)
    assert tracking_uri() == f"sqlite:///{Path.cwd()}/.rayfield/mlflow.db"


def test_what_can_be_made_again_lies_in_the_users_home(tmp_path, monkeypatch):
    monkeypatch.delenv("RAYFIELD_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert objects.scratch_root() == tmp_path / ".cache" / "rayfield"


@pytest.mark.parametrize("home", ["/nonexistent", None], ids=["that may not be written", "that nobody knows"])
def test_without_a_home_it_lies_in_a_temporary_folder_that_is_ones_own(home, tmp_path, monkeypatch):
    monkeypatch.delenv("RAYFIELD_CACHE")
    monkeypatch.setenv("HOME", home or "")
    if home is None:
        monkeypatch.setattr(objects.Path, "home", raised)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))

    assert objects.scratch_root() == tmp_path / f"rayfield-{os.getuid()}"
    assert objects.scratch_root().stat().st_mode & 0o777 == 0o700


def raised() -> None:
    raise RuntimeError("Could not determine home directory.")


def test_a_temporary_folder_that_another_laid_out_is_refused(tmp_path, monkeypatch):
    """A link would send what is written to where its maker likes."""
    monkeypatch.delenv("RAYFIELD_CACHE")
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"rayfield-{os.getuid()}").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(UsageError, match="must be this user's own, but is another's. Set RAYFIELD_CACHE"):
        objects.scratch_root()

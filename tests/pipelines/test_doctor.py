"""
The doctor: finds what is wrong, and says it.
"""

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from components.runtime import filesystem
from pipelines import doctor
from pipelines.doctor import examine
from pipelines.engine.cluster.jobs import Jobs, own_versions
from pipelines.engine.store.store import Store


@pytest.fixture
def store(own_store: Path) -> Store:
    return Store(str(own_store))


def row(store: Store, what: str) -> dict[str, Any]:
    return next(row for row in examine(store) if row["what"] == what)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow and Ray are looked at by tests of their own."""
    monkeypatch.setattr(doctor, "_mlflow", lambda _: (True, "here"))
    monkeypatch.setattr(doctor, "_workers", lambda _: (True, "here"))


def test_every_check_is_a_row(store):
    rows = examine(store)

    assert [row["what"] for row in rows][:7] == [*("python", "packages", "cpus", "disk", "store", "damage", "mlflow")]
    assert all(set(row) == {"what", "ok", "found"} for row in rows)


def test_a_store_that_creates_once_is_well_and_keeps_no_probe(store):
    assert row(store, "store")["ok"]
    assert store.names("leases") == store.names("probe") == []


def test_a_store_that_creates_twice_is_found(store, monkeypatch):
    monkeypatch.setattr(filesystem, "creates_once", lambda _: False)

    found = row(store, "store")
    assert not found["ok"]
    assert "one run at a time may use it, and a second is refused" in found["found"]


def test_what_readers_set_aside_is_found(store):
    assert row(store, "damage")["ok"]
    store.write("damaged/abc", b"wards")

    found = row(store, "damage")
    assert not found["ok"]
    assert "1 set aside" in found["found"] and "abc" in found["found"]


def test_what_was_made_anew_is_no_damage_any_more(store):
    store.write("damaged/abc", b"wards")
    store.write("damaged/keys-k.json", b"{")
    store.write("objects/ab/abc", b"words")
    assert "1 set aside" in row(store, "damage")["found"]

    store.commit("k", {"result": 1})
    assert row(store, "damage")["ok"]


def test_a_full_disk_is_found(store, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 0))

    assert not row(store, "disk")["ok"]


def test_another_version_than_the_locked_one_is_found(store, monkeypatch, tmp_path):
    lock = tmp_path / "constraints.txt"
    lock.write_text("numpy==0.1\nno-such-package==1.0\n")
    monkeypatch.setattr(doctor, "LOCK", lock)

    found = row(store, "packages")
    assert not found["ok"]
    assert "not 0.1" in found["found"]
    assert "no-such-package" not in found["found"]


def test_a_check_that_cannot_be_made_is_a_finding(store, monkeypatch):
    def fail(_: Store) -> tuple[bool, str]:
        raise ConnectionError("nobody\nanswers")

    monkeypatch.setattr(doctor, "_mlflow", fail)

    assert row(store, "mlflow") == {"what": "mlflow", "ok": False, "found": "ConnectionError: nobody answers"}


@pytest.mark.parametrize(("other", "ok"), [({}, True), ({"Ray": "2.9.0"}, False), ({"Python": "3.9.1"}, False)])
def test_another_python_or_ray_on_the_cluster_is_found_with_its_remedy(store, monkeypatch, other, ok):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265")
    monkeypatch.setattr(Jobs, "at", lambda address: Jobs(address, None))
    monkeypatch.setattr(Jobs, "versions", lambda _: {**own_versions(), **other})

    found = row(store, "cluster")
    assert found["ok"] is ok
    assert all(f"{name} {version} there" in found["found"] for name, version in other.items())
    assert ("constraints.txt" in found["found"]) is not ok


def test_without_a_cluster_there_is_nothing_to_compare(store, monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)

    assert row(store, "cluster")["ok"]


def test_a_store_that_nobody_could_write_is_found():
    found = row(Store("/proc/x"), "store")

    assert not found["ok"]
    assert "The store /proc/x did not take" in found["found"]

"""
The store: one winner, no half-written name, nothing damaged is read, and rights that end with their owner.
"""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from components.runtime import filesystem, objects
from components.runtime.objects import keep
from components.runtime.serialization import encode
from pipelines.engine.store import store as store_module
from pipelines.engine.store.store import COLLECTOR, Store, StoreError, owner, sealed_lines, unsealed_lines


@pytest.fixture
def store(own_store: Path) -> Store:
    return Store(str(own_store))


# Bytes by name


def test_what_is_written_is_read(store):
    store.write("plans/a.json", b"one")
    store.write("plans/a.json", b"two")

    assert store.read("plans/a.json") == b"two"
    assert store.read("plans/b.json") is None


def test_what_exists_is_not_created_again(store):
    assert store.create("keys/a.json", b"first")
    assert not store.create("keys/a.json", b"second")
    assert store.read("keys/a.json") == b"first"


def test_exactly_one_of_many_threads_creates_a_name(store):
    start = threading.Barrier(16)

    def create(number: int) -> bool:
        start.wait()
        return store.create("keys/a.json", str(number).encode())

    with ThreadPoolExecutor(16) as pool:
        won = [number for number, ok in enumerate(pool.map(create, range(16))) if ok]

    assert len(won) == 1
    assert store.read("keys/a.json") == str(won[0]).encode()


def test_a_write_that_fails_leaves_what_was_there_and_no_part(store, monkeypatch):
    store.write("plans/a.json", b"old")
    monkeypatch.setattr(os, "fsync", _full)

    with pytest.raises(StoreError):
        store.write("plans/a.json", b"new")

    assert store.read("plans/a.json") == b"old"
    assert os.listdir(Path(store.address) / "plans") == ["a.json"]


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _forbidden(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_full_disk_ends_in_one_line(store, monkeypatch):
    monkeypatch.setattr(os, "fsync", _full)

    with pytest.raises(StoreError, match=r"is full: keys/a.json was not written, and what was finished .* is safe"):
        store.create("keys/a.json", b"{}")
    assert store.manifest("a") is None


def test_a_store_that_may_not_be_written_ends_in_one_line(store, monkeypatch):
    monkeypatch.setattr(filesystem, "write_atomically", _forbidden)

    with pytest.raises(StoreError, match="must be writable, but Permission denied. Pass --store"):
        store.write("keys/a.json", b"{}")


def test_names_are_those_directly_below_and_none_of_a_write_under_way(store):
    store.write("runs/b/run.json", b"{}")
    store.write("runs/a/run.json", b"{}")
    (Path(store.address) / "runs" / ".part-x").write_bytes(b"half")

    assert store.names("runs") == ["a", "b"]
    assert store.names("nothing") == []


def test_any_fsspec_address_is_a_store(monkeypatch):
    store = Store("memory://rayfield-test")
    monkeypatch.setenv("RAYFIELD_STORE", store.address)
    store.write("plans/a.json", b"one")
    file = keep("words.txt", b"words")

    assert store.read("plans/a.json") == b"one"
    assert store.read("plans/b.json") is None
    assert store.names("plans") == ["a.json"]
    assert file.read() == b"words"
    assert file.path().read_bytes() == b"words"
    store.delete("plans/a.json")
    assert store.names("plans") == []


# Objects and manifests


def test_the_first_to_say_what_a_key_made_is_right(store):
    assert store.commit("k", {"result": 1})
    assert not store.commit("k", {"result": 2})
    assert store.manifest("k") == {"result": 1}


@pytest.mark.parametrize("address", ["{tmp}/store", "memory://forgets"], ids=["disk", "bucket"])
def test_what_made_a_damaged_object_is_forgotten_so_that_it_is_made_anew(address, tmp_path, monkeypatch):
    store = Store(address.format(tmp=tmp_path))
    monkeypatch.setenv("RAYFIELD_STORE", store.address)
    file = keep("words.txt", b"words")
    store.commit("k", {"result": {"inner": [encode(file)]}})
    store.commit("other", {"result": 3})
    filesystem.write(f"{store.address}/{objects.where(file.digest)}", b"wards")
    with pytest.raises(objects.Damaged):
        file.read()
    store_module._heard.clear()  # the next run is another process

    assert store.manifest("k") is None
    assert store.manifest("other") == {"result": 3}
    keep("words.txt", b"words")
    assert store.commit("k", {"result": {"inner": [encode(file)]}})
    assert store.manifest("k") is not None


def test_a_manifest_that_broke_off_is_set_aside_and_made_anew(store):
    store.write("keys/k.json", b'{"result": 1')

    assert store.commit("k", {"result": 2})
    assert store.manifest("k") == {"result": 2}
    assert store.read("damaged/keys-k.json") == b'{"result": 1'


def test_a_manifest_of_which_any_byte_was_changed_is_none_or_the_same(store):
    said = {"result": {"accuracy": 0.3333333333333333, "of": [1, None, "é"]}, "run": "first"}
    store.commit("k", said)
    whole = store.read("keys/k.json")
    for place in range(len(whole)):
        store.write("keys/k.json", whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert store.manifest("k") in (None, said), whole[place - 9 : place + 9]

    store.write("keys/k.json", whole.replace(b"0.3333", b"0.9333"))
    assert store.manifest("k") is None


def test_an_object_that_was_cut_short_is_found_by_whoever_looks_for_what_names_it(own_store):
    store = Store(str(own_store))
    file = keep("words.txt", b"words")
    store.commit("k", {"result": encode(file)})
    (own_store / objects.where(file.digest)).write_bytes(b"wor")

    assert store.manifest("k") is None
    assert store.read(f"damaged/{file.digest}") == b"wor"
    assert keep("words.txt", b"words").read() == b"words"


# Leases


def test_a_living_owners_lease_is_not_taken(store):
    lease = store.lease("k")

    assert lease is not None
    assert store.lease("k") is None


def test_a_lease_that_is_let_go_is_taken(store):
    store.lease("k").release()

    assert store.lease("k") is not None


def test_exactly_one_of_many_threads_gets_a_lease(store):
    start = threading.Barrier(8)

    def take(_: int) -> bool:
        start.wait()
        return store.lease("k") is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(8))) == 1


def lease_of(store: Store, **who: object) -> None:
    store.write("leases/k/0", json.dumps({**owner(), "until": time.time() + 3600, **who}).encode())


def test_of_many_threads_one_at_a_time_is_alone(store):
    inside, most = [], []

    def work(number: int) -> None:
        with store.alone("a model's name: any/words"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))

    assert most == [1, 1, 1, 1]


def test_who_is_alone_lets_others_in_when_it_fails(store):
    with pytest.raises(ZeroDivisionError), store.alone("name"):
        raise ZeroDivisionError
    with store.alone("name"):
        pass


def test_a_dead_owners_lease_is_taken_at_once(store):
    """The number of a process that has ended, of one killed: its lease had an hour to go."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lease_of(store, pid=ended.pid, start="1")

    assert store.lease("k") is not None


def test_a_number_that_another_process_has_now_keeps_no_lease(store):
    lease_of(store, start="1")

    assert store.lease("k") is not None


def test_a_lease_of_another_host_ends_when_it_runs_out(store):
    lease_of(store, host="elsewhere")
    assert store.lease("k") is None

    lease_of(store, host="elsewhere", until=time.time() - 1)
    assert store.lease("k") is not None


def test_a_renewed_lease_goes_on(store):
    lease = store.lease("k", seconds=0)
    held = store.load(lease.path)
    lease.seconds = 60
    lease.renew()

    assert store.load(lease.path)["until"] > held["until"] + 30


def test_a_listing_that_lags_gives_no_second_lease(store, monkeypatch):
    first = store.lease("k")
    monkeypatch.setattr(filesystem, "names", lambda _: [])

    assert store.lease("k") is None
    first.release()
    assert store.lease("k").epoch == 1


def test_a_lease_that_broke_off_is_nobodys(store):
    store.write("leases/k/0", b'{"host": ')

    assert store.lease("k") is not None
    assert store.lease("k") is None


# Runs


def test_a_run_waits_for_the_gc_that_may_not_have_seen_it(store, monkeypatch):
    collecting = store.lease(COLLECTOR)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        assert store.load("runs/r/run.json"), "the run must be seen before it waits"
        collecting.release()

    monkeypatch.setattr(store_module.time, "sleep", wait)
    store.begin("r", {"pipeline": "toy", "started": time.time()})

    assert len(waits) == 1


def test_where_nothing_can_be_created_once_a_second_run_is_refused(store, monkeypatch):
    monkeypatch.setattr(filesystem, "creates_once", lambda _: False)
    record = {"pipeline": "toy", "started": time.time()}
    lease = store.lease("run-first")
    store.begin("first", record)

    with pytest.raises(StoreError, match="one run at a time may use it, and first does. Wait"):
        store.begin("second", record)

    lease.release()
    store.begin("third", record)


def test_a_store_that_creates_twice_is_found_out(monkeypatch):
    filesystem.creates_once.cache_clear()
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", _careless(MemoryFileSystem.pipe_file))
    try:
        assert not filesystem.creates_once("memory://careless")
    finally:
        filesystem.creates_once.cache_clear()
    assert filesystem.names("memory://careless/probe") == []


def _careless(pipe_file: Any) -> Any:
    """A server that does not know If-None-Match."""
    return lambda self, path, value, mode="overwrite", **rest: pipe_file(self, path, value, **rest)


def test_runs_are_listed_the_newest_first(store):
    for name in ("20260101-000000-a", "20260102-000000-b"):
        store.write(f"runs/{name}/run.json", json.dumps({"pipeline": name}).encode())
    store.write("runs/20260103-000000-c/events/x", b"")

    assert [name for name, _ in store.runs()] == ["20260102-000000-b", "20260101-000000-a"]


def test_lines_that_a_disk_has_changed_are_never_taken_for_what_was_written():
    """Whichever bit it is: they are refused, or all that was written is still there, after a head that nobody takes."""
    lines = b'{"kind": "metrics", "value": 1}\n{"kind": "params"}\n'
    whole = sealed_lines(lines)
    assert unsealed_lines(whole) == lines
    assert unsealed_lines(lines) == lines, "what an earlier version wrote has no seal"
    for place in range(len(whole)):
        for bit in range(8):
            changed = whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :]
            try:
                read = unsealed_lines(changed)
            except ValueError:
                continue
            assert place in (0, whole.index(b"\n")), place
            assert read == changed and read.endswith(lines)

"""
A store in a bucket of a real S3 server.
"""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.runtime import filesystem
from components.runtime.objects import keep
from components.runtime.serialization import encode
from pipelines.engine.store.garbage_collection import Keeping, collect
from pipelines.engine.store.store import Store
from tests.services.servers import Seaweed

pytestmark = pytest.mark.services


def test_what_exists_is_not_created_again(bucket):
    assert filesystem.creates_once(bucket)
    assert filesystem.create(f"{bucket}/keys/a.json", b"first")
    assert not filesystem.create(f"{bucket}/keys/a.json", b"second")
    assert filesystem.read(f"{bucket}/keys/a.json") == b"first"


def test_exactly_one_of_many_threads_creates_each_of_many_names(bucket):
    start = threading.Barrier(6)

    def create(word: tuple[int, int]) -> bool:
        start.wait()
        return filesystem.create(f"{bucket}/keys/{word[0]}.json", str(word[1]).encode())

    with ThreadPoolExecutor(6) as pool:
        for name in range(10):
            won = [n for n, ok in enumerate(pool.map(create, [(name, n) for n in range(6)])) if ok]
            assert len(won) == 1
            assert filesystem.read(f"{bucket}/keys/{name}.json") == str(won[0]).encode()


def test_what_is_uploaded_in_parts_is_created_once_too(bucket):
    """s3fs cuts what has more than 100 MiB."""
    data = os.urandom(2**20) * 101

    assert filesystem.create(f"{bucket}/objects/large", data)
    assert not filesystem.create(f"{bucket}/objects/large", data[::-1])
    assert filesystem.look(f"{bucket}/objects/large").size == len(data)
    assert filesystem.read(f"{bucket}/objects/large") == data


def test_the_verbs_mean_what_they_mean_on_a_disk(bucket):
    assert filesystem.read(f"{bucket}/a") is None and filesystem.look(f"{bucket}/a") is None
    assert filesystem.names(f"{bucket}/nothing") == list(filesystem.walk(f"{bucket}/nothing")) == []
    began = time.time()
    for name in ("x/b", "x/a", "x/y/c"):
        filesystem.write(f"{bucket}/{name}", name.encode())

    assert filesystem.names(f"{bucket}/x") == ["a", "b", "y"]
    assert sorted((e.name, e.size) for e in filesystem.walk(f"{bucket}/x")) == [("a", 3), ("b", 3), ("y/c", 5)]
    found = filesystem.look(f"{bucket}/x/a")
    assert abs(found.when - began) < 60
    assert not filesystem.delete_old(f"{bucket}/x/a", found.when - 60)
    assert filesystem.delete_old(f"{bucket}/x/a", found.when)
    filesystem.delete(f"{bucket}/x/a")
    assert filesystem.names(f"{bucket}/x") == ["b", "y"]


def test_a_missing_bucket_or_a_wrong_key_is_said_in_one_line(seaweed, monkeypatch):
    from pipelines.engine.store.store import StoreError

    with pytest.raises(StoreError, match="did not take plans/a.json: .*bucket does not exist"):
        Store("s3://no-such-bucket/rayfield").write("plans/a.json", b"{}")


def test_a_dead_address_is_given_up_soon(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(filesystem, "_answered", set())
    monkeypatch.setattr(filesystem, "sleep", lambda _: None)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(filesystem.Unreachable, match="s3://nowhere must answer"):
            filesystem.read("s3://nowhere/a")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_server_that_was_killed_and_comes_back_is_waited_for(bucket, seaweed: Seaweed):
    """Two threads write all the while; every write that returned is there afterwards."""
    written: dict[str, bytes] = {}
    enough, errors = threading.Event(), []

    def work(worker: int) -> None:
        try:
            for n in range(10_000):
                name = f"{bucket}/objects/{worker}-{n}"
                if n % 2:
                    filesystem.write(name, name.encode())
                else:
                    assert filesystem.create(name, name.encode()), "nobody else creates it"
                written[name] = name.encode()
                if enough.is_set():
                    return
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    while len(written) < 100 and not errors:
        time.sleep(0.01)
    seaweed.kill()
    time.sleep(1)
    before = len(written)
    seaweed.start()
    while len(written) < before + 100 and not errors:
        time.sleep(0.01)
    enough.set()
    for thread in threads:
        thread.join()

    assert not errors
    assert all(filesystem.read(name) == data for name, data in written.items())


def test_a_bucket_is_collected(bucket):
    store = Store(bucket)
    for run, names in (("1", "ab"), ("2", "bc")):
        nodes = [{"key": name * 32} for name in names]
        record = {"pipeline": "toy", "nodes": nodes, "started": time.time()}
        store.begin(run, {**record, "ended": 1.0})
        for name in names:
            store.commit(name * 32, {"result": encode(keep(name, name.encode()))})
    found = collect(store, Keeping(last=1))

    assert found["objects"]["files"] == found["keys"]["files"] == found["runs"]["files"] == 1
    assert store.manifest("a" * 32) is None
    assert store.names("keys") == [f"{name * 32}.json" for name in "bc"]
    assert not any(e.name.endswith(".part") for e in filesystem.walk(bucket))

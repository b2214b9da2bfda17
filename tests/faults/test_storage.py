"""
A store behind a bad network: whatever fails at whatever call, nothing damaged is ever taken for a result.
"""

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from components.errors import RayfieldError
from components.runtime import filesystem
from components.runtime import objects as files
from components.runtime.objects import Damaged, File, keep
from components.runtime.serialization import decode, encode
from pipelines.engine.execution.executors import Here
from pipelines.engine.execution.scheduler_loop import Outcome, Runner
from pipelines.engine.graph.tracing import draw
from pipelines.engine.monitoring.mlflow_sync import ledger_lines
from pipelines.engine.store import store as store_module
from pipelines.engine.store.store import Store
from tests.faults.faulty import Faulty
from tests.faults.joining import EXPECTED, together

ADDRESS = "faulty://bucket/rayfield"
WORDS = b"words enough to be cut in two"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose waiting costs nothing."""
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    Faulty.clear()
    monkeypatch.setattr(filesystem, "sleep", lambda seconds: None)
    monkeypatch.setenv("RAYFIELD_STORE", ADDRESS)
    filesystem.creates_once.cache_clear()
    anew()
    store = Store(ADDRESS)
    assert filesystem.creates_once(ADDRESS)
    return store


def anew() -> None:
    """Forgets what a process remembers, as the next one does."""
    store_module._heard.clear()
    files._verified.clear()
    for copy in (files.scratch_root() / "objects").glob("*"):
        copy.unlink()


# One call, one fault


@pytest.mark.parametrize("fault", ["error", "late", "partial"])
def test_a_write_that_fails_once_is_made_again(bucket, fault):
    Faulty.script += [fault]
    bucket.write("plans/a.json", WORDS)

    assert bucket.read("plans/a.json") == WORDS


@pytest.mark.parametrize("fault", ["error", "late"])
def test_a_create_whose_answer_was_lost_knows_its_own_success(bucket, fault):
    Faulty.script += [fault]

    assert bucket.create("keys/a.json", WORDS)
    assert not bucket.create("keys/a.json", WORDS), "whose answer came knows that it was another's"


def test_a_create_whose_answer_was_lost_does_not_take_anothers_for_its_own(bucket):
    bucket.write("keys/a.json", b"another's")
    Faulty.script += ["error"]

    assert not bucket.create("keys/a.json", WORDS)


def test_a_read_that_was_cut_or_changed_on_the_way_is_read_again(bucket):
    file = keep("words.txt", WORDS)
    for fault in ("error", "late", "cut", "flipped"):
        Faulty.script += [fault]
        assert file.read() == WORDS
    assert bucket.names("damaged") == []


def test_an_upload_that_broke_off_is_no_object(bucket):
    Faulty.script += ["", "partial"]

    assert keep("words.txt", WORDS).read() == WORDS


def test_a_manifest_that_was_cut_on_the_way_is_read_again(bucket):
    bucket.commit("k", {"result": 1})
    for fault in ("error", "late", "cut"):
        Faulty.script += [fault]
        assert bucket.manifest("k") == {"result": 1}


@pytest.mark.parametrize("fault", ["error", "late", "partial"])
def test_a_commit_holds_whatever_became_of_its_first_try(bucket, fault):
    Faulty.script += [fault]

    assert bucket.commit("k", {"result": 1})
    assert bucket.manifest("k") == {"result": 1}


@pytest.mark.parametrize("fault", ["error", "late", "partial"])
def test_a_lease_is_had_by_one_whatever_becomes_of_the_first_try(bucket, fault):
    Faulty.script += ["", fault]
    lease = bucket.lease("k")

    assert lease is not None
    assert bucket.lease("k") is None
    lease.release()
    assert bucket.lease("k") is not None


def test_a_server_that_stays_away_is_given_up_in_one_line(bucket):
    with Faulty.weather(0, 1.0), pytest.raises(filesystem.Unreachable, match="faulty://bucket must answer, but after"):
        while True:
            bucket.write("plans/a.json", WORDS)


def test_a_server_that_never_answered_is_given_up_soon(bucket, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(filesystem, "sleep", waits.append)
    monkeypatch.setattr(filesystem, "_answered", set())
    for known, low, high in ((False, 2, 15), (True, 60, 130)):
        waits.clear()
        if known:
            bucket.read("nothing")
        with Faulty.weather(0, 1.0), pytest.raises(filesystem.Unreachable):
            Faulty.script += ["error"] * 100
            bucket.read("nothing")
        Faulty.script.clear()
        assert low < sum(waits) < high


# Many calls, faults by chance


@pytest.mark.parametrize("seed", range(25))
def test_no_read_is_ever_wrong(bucket, seed):
    """What is read is right, or an error: under a rate of faults at which a third of the calls fail."""
    said: dict[str, bytes] = {}
    with Faulty.weather(seed, 0.35):
        for n in range(40):
            data = f"{n % 15} {'words ' * (n % 15)}".encode()
            try:
                said[data.decode()] = keep(f"{n}.txt", data).read()
            except RayfieldError:
                anew()
    assert {"flipped", "cut", "partial"} & set(Faulty.happened)
    assert all(text.encode() == data for text, data in said.items())


@pytest.mark.parametrize("seed", range(25))
def test_one_of_many_has_a_lease_at_a_time(bucket, seed):
    """Listings lag, answers are lost: two owners never hold one right, and it is never lost for good."""
    held, had = [], 0
    with Faulty.weather(seed, 0.2):
        for _ in range(30):
            try:
                lease = bucket.lease("k")
            except RayfieldError:
                continue
            if lease is not None:
                held.append(lease)
                had += 1
            assert len(held) <= 1
            if held and Faulty.random.random() < 0.5:
                held.pop().release()
    assert had > 3


# Whole runs


def nodes() -> list[dict[str, Any]]:
    from dataclasses import asdict

    return json.loads(json.dumps([asdict(node) for node in draw(together, {}, {}).nodes.values()]))


def run(store: Store, name: str) -> Outcome:
    return Runner(store, name, nodes(), Here)()


def result(store: Store) -> bytes:
    manifest = store.manifest(nodes()[-1]["key"])
    assert manifest is not None
    return decode(manifest["result"]).read()


@pytest.mark.parametrize("seed", range(20))
def test_a_run_under_faults_ends_right_or_says_so_and_the_next_ends_right(bucket, seed):
    """Whatever a run says is done is what it should be; what it could not do, a quiet run does."""
    with Faulty.weather(seed, 0.15):
        for attempt in range(3):
            anew()
            try:
                outcome = run(bucket, f"{attempt}")
            except RayfieldError:
                continue
            if outcome.ok and result(bucket) == EXPECTED:
                break
            assert not outcome.ok, "a run that says it is done has made what it should"
    anew()
    assert run(bucket, "quiet").ok
    assert result(bucket) == EXPECTED
    assert Faulty.happened


def objects(store: Store) -> list[str]:
    return [entry.name for entry in filesystem.walk(f"{store.address}/objects")]


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_whatever_object_is_damaged_is_said_set_aside_and_made_anew(bucket, damage):
    assert run(bucket, "first").ok
    for name in objects(bucket):
        address, digest = f"{ADDRESS}/objects/{name}", name.rpartition("/")[2]
        whole = filesystem.read(address)
        filesystem.write(address, b"damaged") if damage == "changed" else filesystem.delete(address)
        anew()
        with pytest.raises(Damaged, match=f"{digest}.*Run the pipeline again to make it anew"):
            File("it", digest, 1).read()
        assert bucket.read(f"damaged/{digest}") == (b"damaged" if damage == "changed" else b"")

        anew()
        assert run(bucket, f"after {digest}").ok
        assert filesystem.read(address) == whole
        assert result(bucket) == EXPECTED


def test_a_step_that_meets_a_damaged_input_has_it_made_anew_in_the_same_run(bucket):
    first = nodes()
    assert Runner(bucket, "inputs", first[:-1], Here)().ok
    file = decode(bucket.manifest(first[2]["key"])["result"])
    filesystem.write(f"{ADDRESS}/{files.where(file.digest)}", b"damaged")
    anew()

    assert run(bucket, "meets it").ok
    assert result(bucket) == EXPECTED
    assert bucket.read(f"damaged/{file.digest}") == b"damaged"
    lines = [line for line in ledger_lines(bucket, "meets it") if line["status"] != "running"]
    assert [line["status"] for line in lines if line["key"] == first[2]["key"]] == ["cached", "done"]
    assert [line["status"] for line in lines if line["key"] == first[-1]["key"]] == ["retry", "done"]
    assert f"{file.digest} ({file.name}) was damaged in {ADDRESS}" in lines[len(first) - 1]["error"]


def test_a_whole_disk_is_no_less_careful(own_store: Path, monkeypatch):
    """The same on a local store, where a manifest is forgotten as soon as an object of it is gone."""
    store = Store(str(own_store))
    assert run(store, "first").ok
    for name in objects(store):
        (own_store / "objects" / name).write_bytes(b"damaged")
        anew()
        with pytest.raises(Damaged):
            File("it", name.rpartition("/")[2], 1).read()
        assert run(store, f"after {name[:2]}").ok
        anew()
        assert result(store) == EXPECTED


def test_encoding_is_what_the_store_forgets_by(bucket):
    """A manifest names its objects as `encode` writes them: a change of one must be a change of the other."""
    file = keep("a.txt", b"words")

    assert list(store_module.named_objects({"result": [encode(file)]})) == [file]

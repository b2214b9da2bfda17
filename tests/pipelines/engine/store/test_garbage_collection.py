"""
gc: whatever a kept run or a running one needs stays, and the rest goes, in every order of events.
"""

import json
import math
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from components.errors import UsageError
from components.runtime import filesystem
from components.runtime.objects import digest_of, keep, where
from components.runtime.serialization import encode
from pipelines.cli.main import main
from pipelines.engine.monitoring.run_view import find
from pipelines.engine.scheduling import schedules
from pipelines.engine.scheduling.schedules import Schedule, Tick
from pipelines.engine.scheduling.triggers import Cron
from pipelines.engine.store import garbage_collection as gc_module
from pipelines.engine.store.garbage_collection import DAY, HISTORY, Busy, Keeping, Survey, collect, sweep
from pipelines.engine.store.orphans import mark
from pipelines.engine.store.store import COLLECTOR, Store


@pytest.fixture
def store(own_store: Path) -> Store:
    return Store(str(own_store))


def key(name: object) -> str:
    return digest_of(f"key {name}".encode())


def record(keys: list[str], *, pipeline: str = "toy", ended: float | None = 1.0, **more: Any) -> dict[str, Any]:
    nodes = [{"key": one, "title": one, "step": "toy"} for one in keys]
    common = {"pipeline": pipeline, "nodes": nodes, "started": time.time()}
    return {**common, **({"ended": ended} if ended else {}), **more}


def make(store: Store, run: str, *names: str, **more: Any) -> None:
    """A run that has ended, each of its keys with an object of its own."""
    store.begin(run, record([key(n) for n in names], **more))
    for name in names:
        store.commit(key(name), {"result": [encode(keep(f"{name}.txt", name.encode()))], "run": run})


def has(store: Store, name: str) -> bool:
    """Whether a key has its manifest and its object."""
    there = filesystem.look(f"{store.address}/{where(digest_of(name.encode()))}") is not None
    assert (store.manifest(key(name)) is not None) == there
    return there


def grow_old(store: Store, seconds: float) -> None:
    """Lets time pass for every file."""
    for entry in filesystem.walk(store.address):
        path = Path(store.address) / entry.name
        os.utime(path, (entry.when - seconds, entry.when - seconds))


def test_what_only_dropped_runs_reach_goes_and_what_kept_ones_share_stays(store):
    make(store, "1", "a", "b")
    make(store, "2", "b", "c")
    make(store, "3", "x", pipeline="another")

    found = collect(store, Keeping(last=1))

    assert [name for name in "abcx" if has(store, name)] == ["b", "c", "x"]
    assert store.names("runs") == ["2", "3"]
    assert found["objects"] == {"files": 1, "bytes": 1}
    assert found["keys"]["files"] == found["runs"]["files"] == 1


def test_all_runs_are_kept_unless_it_is_said_which_go(store):
    make(store, "1", "a")
    make(store, "2", "b")

    assert collect(store, Keeping()) == {}
    assert has(store, "a") and has(store, "b")


def test_runs_go_by_their_age(store):
    make(store, "1", "a", started=time.time() - 8 * DAY)
    make(store, "2", "b", started=time.time() - 6 * DAY)

    collect(store, Keeping(days=7))

    assert not has(store, "a") and has(store, "b")


def test_what_a_kept_step_said_in_the_run_that_made_it_stays_and_the_rest_of_that_run_goes(store):
    """Its logs and curves, and the figures that those name: a night that did nothing shows them as its own."""
    make(store, "1", "a", "b")
    figure = keep("figure.png", b"a figure")
    store.write(f"runs/1/events/{key('a')}/w-0.jsonl", json.dumps({"file": encode(figure)}).encode())
    for name in "ab":
        store.write(f"runs/1/logs/{key(name)}/step-0.txt", b"words")
    make(store, "2", "a")
    for _ in range(2):
        collect(store, Keeping(last=1))
        grow_old(store, 2 * DAY)

    assert store.names("runs/1") == ["events", "logs"]
    assert store.names("runs/1/logs") == [key("a")]
    assert figure.read() == b"a figure"
    with pytest.raises(UsageError, match="gc removed that of 1"):
        find(store, "1")


def test_a_dry_run_counts_the_same_and_removes_nothing(store):
    make(store, "1", "a")
    make(store, "2", "b")
    counted = collect(store, Keeping(last=1), dry_run=True)

    assert has(store, "a")
    assert counted == collect(store, Keeping(last=1))
    assert counted["objects"]["files"] == 1


def test_two_never_collect_at_once(store):
    lease = store.lease(COLLECTOR)
    with pytest.raises(Busy, match="One gc at a time"):
        collect(store, Keeping())
    lease.release()
    collect(store, Keeping())

    assert not store.held(COLLECTOR)


def test_a_running_pipeline_is_kept_whatever_is_asked(store):
    store.lease("run-1")
    make(store, "1", "a", ended=None)
    make(store, "2", "b")
    collect(store, Keeping(days=0))

    assert has(store, "a") and store.manifest(key("b")) is None
    assert filesystem.look(f"{store.address}/{where(digest_of(b'b'))}"), "the running one may be about to need it"


def test_what_a_running_step_wrote_is_spared_until_it_is_old(store):
    store.begin("1", record([key("a")], ended=None))
    young = keep("young.txt", b"young")
    collect(store, Keeping())
    assert young.read() == b"young"

    grow_old(store, 2 * DAY)
    collect(store, Keeping())
    assert filesystem.look(f"{store.address}/{where(young.digest)}") is None


def test_what_a_running_step_may_recall_is_kept(store):
    """A part that a dropped run's step remembered, and the step of a living run has just found."""
    make(store, "1", "a")
    part = {"part_of": key("a"), "result": encode(keep("p.txt", b"part"))}
    store.commit(key("p"), part)
    store.lease("run-2")
    make(store, "2", "b", ended=None)
    grow_old(store, 2 * DAY)
    collect(store, Keeping(last=1))
    assert store.manifest(key("p")) == part

    store.write("runs/2/run.json", json.dumps(record([key("b")])).encode())
    collect(store, Keeping(last=1))
    assert store.manifest(key("p")) is None


def test_a_runs_figures_stay_as_long_as_the_run(store):
    figure = keep("figure.png", b"picture")
    for run in ("1", "2"):
        make(store, run, run)
    store.write("runs/2/events/k/w-0.jsonl", json.dumps({"kind": "file", "file": encode(figure)}).encode())
    grow_old(store, 2 * DAY)
    collect(store, Keeping(last=1))
    assert figure.read() == b"picture"

    make(store, "3", "c")
    collect(store, Keeping(last=1))
    assert filesystem.look(f"{store.address}/{where(figure.digest)}") is None


def test_what_mlflow_has_not_taken_is_kept_for_a_month(store):
    make(store, "1", "a")
    mark(store, "1")
    make(store, "2", "b")
    collect(store, Keeping(last=1))
    assert has(store, "a")

    make(store, "1", "a", started=time.time() - 31 * DAY)
    collect(store, Keeping(last=1))
    assert not has(store, "a")


def test_scratch_goes_with_its_step_and_never_under_one_that_works(store):
    make(store, "1", "done", "held")
    store.begin("2", record([key("done"), key("held"), key("interrupted")]))
    lease = store.lease(key("held"))
    for name in ("done", "held", "interrupted", "dropped"):
        store.write(f"scratch/{key(name)}/state", b"state")
    collect(store, Keeping())

    assert store.names("scratch") == sorted([key("held"), key("interrupted")])
    lease.release()


def test_old_leases_plans_and_broken_writes_go(store):
    make(store, "1", "a")
    for _ in range(3):
        store.lease(key("a")).release()
    held = store.lease("schedules")
    store.write("plans/kept.json", json.dumps({"nodes": [key("a")]}).encode())
    store.write("plans/gone.json", json.dumps({"nodes": [key("z")]}).encode())
    (Path(store.address) / "objects" / ".part-1").write_bytes(b"half")
    (Path(store.address) / "unknown.json").write_bytes(b"{}")
    assert "leases" not in collect(store, Keeping())

    grow_old(store, 2 * DAY)
    collect(store, Keeping())
    assert store.names("plans") == ["kept.json"]
    assert store.names("leases") == [COLLECTOR, "schedules"]
    assert held is not None and store.lease("schedules") is None
    assert not list(Path(store.address).rglob(".part-*"))
    assert (Path(store.address) / "unknown.json").exists(), "what gc does not know it does not touch"


def test_a_schedules_old_history_goes_but_for_what_it_goes_on_from(store):
    """The last time, what has not ended and what a digest names: without them a tick would run twice."""
    nightly = Schedule("nightly", "toy", (), Cron("0 3 * * *", "UTC"), "/", 0, 0)
    schedules.add(store, nightly)
    for day, status in ((1, "done"), (2, "failed"), (3, "running"), (4, "done")):
        name = f"2026010{day}T030000Z"
        schedules.claim(store, Tick("nightly", name, float(day), status, 0.0))
    schedules.claim(store, Tick("nightly", "0123456789abcdef0123456789abcdef", 5.0, "done", 0.0))
    assert "schedules" not in collect(store, Keeping())

    grow_old(store, HISTORY)
    assert collect(store, Keeping())["schedules"]["files"] == 2
    assert schedules.tick_names(store, "nightly") == [
        "0123456789abcdef0123456789abcdef", "20260103T030000Z", "20260104T030000Z",
    ]  # fmt: skip
    assert schedules.find(store, "nightly") == nightly


def test_a_note_of_a_lost_object_stays_while_it_is_needed(store):
    make(store, "1", "a")
    store.write(f"damaged/{digest_of(b'a')}", b"")
    store.write(f"damaged/{digest_of(b'z')}", b"")
    filesystem.delete(f"{store.address}/{where(digest_of(b'a'))}")
    grow_old(store, 2 * DAY)
    collect(store, Keeping())
    assert store.names("damaged") == [digest_of(b"a")]

    keep("a.txt", b"a")
    collect(store, Keeping())
    assert store.names("damaged") == []


def test_what_is_needed_again_in_the_last_moment_stays(store):
    """Between the survey and the sweep a step keeps the same bytes again."""
    file = keep("a.txt", b"a")
    grow_old(store, 2 * DAY)
    waste = list(Survey(store, Keeping()).waste())
    assert [one.kind for one in waste] == ["objects"]
    keep("a.txt", b"a")

    assert sweep(store, waste) == []
    assert file.read() == b"a"


def test_a_gc_that_lost_its_lease_stops(store, monkeypatch):
    make(store, "1", "a")
    make(store, "2", "b")
    lease = store.lease(COLLECTOR)
    store.create(f"leases/{COLLECTOR}/1", b"{}")
    monkeypatch.setattr(gc_module, "RENEW", -1.0)

    with pytest.raises(Busy, match="its lease went to another"):
        sweep(store, list(Survey(store, Keeping(last=1)).waste()), lease)
    assert has(store, "a")


def test_a_bucket_is_collected_as_a_disk_is(monkeypatch):
    store = Store("memory://collected")
    monkeypatch.setenv("RAYFIELD_STORE", store.address)
    make(store, "1", "a", "b")
    make(store, "2", "b", "c")
    collect(store, Keeping(last=1))

    assert [name for name in "abc" if has(store, name)] == ["b", "c"]
    assert store.names("runs") == ["2"]


def test_the_command_says_what_went_in_words_and_in_json(store):
    make(store, "1", "a")
    make(store, "2", "b")
    said = CliRunner().invoke(main, ["gc", "--keep", "1", "--dry-run", "--store", store.address])
    assert said.exit_code == 0 and "files would be removed" in said.stdout and has(store, "a")

    told = json.loads(CliRunner().invoke(main, ["gc", "--keep", "1", "--json", "--store", store.address]).stdout)
    assert told["total"]["files"] == 3 and told["objects"] == {"files": 1, "bytes": 1}
    assert not has(store, "a")


def test_one_option_says_which_runs_are_kept(store):
    said = CliRunner().invoke(main, ["gc", "--keep", "1", "--older-than", "7", "--store", store.address])

    assert said.exit_code == 2 and "Pass one" in said.stderr


class Interleaved(RuleBasedStateMachine):
    """
    Pipelines that run, end and die while gc surveys and sweeps; a model says what each still needs.

    Few keys and few contents, so that runs share both. A living run has what its steps kept and have not committed
    yet, and what they recalled of parts: all of it must be there whenever it is looked for.
    """

    contents = st.integers(0, 2)
    which = st.integers(0, 1)
    """one of the living runs"""
    hours = st.sampled_from([0, 0, 3, 20, 30])
    """that pass before"""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(os.environ["RAYFIELD_STORE"]).with_name(f"machine-{time.monotonic_ns()}")
        self.store = Store(str(self.folder))
        os.environ["RAYFIELD_STORE"] = self.store.address
        self.count = 0
        self.alive: dict[str, set[int]] = {}
        self.leases: dict[str, Any] = {}
        self.all: dict[str, set[int]] = {}
        self.flight: dict[str, dict[int, float]] = defaultdict(dict)
        """run -> content -> hours since it was kept; minus infinity for what was recalled"""
        self.found: dict[int, set[int]] = {}
        """committed key -> its contents"""
        self.plan: list[Any] | None = None

    def living(self, which: int) -> str:
        return sorted(self.alive)[which % len(self.alive)]

    # What pipelines do

    # a run that begins waits for a gc: Store.begin
    @precondition(lambda self: self.plan is None and len(self.alive) < 2)
    @rule(keys=st.sets(contents, min_size=1, max_size=2))
    def begin(self, keys: set[int]) -> None:
        self.count += 1
        run = f"{self.count:04d}"
        self.leases[run] = self.store.lease(f"run-{run}")
        self.store.begin(run, record([key(k) for k in keys], ended=None))
        self.alive[run] = self.all[run] = keys
        self.found = {k: made for k, made in self.found.items() if self.store.manifest(key(k)) is not None}

    @precondition(lambda self: self.alive)
    @rule(which=which, content=contents, hours=hours)
    def keep_something(self, which: int, content: int, hours: float) -> None:
        self.pass_time(hours)
        keep(f"{content}.txt", b"content %d" % content)
        self.flight[self.living(which)][content] = 0.0

    @precondition(lambda self: self.alive)
    @rule(which=which, content=contents)
    def remember_a_part(self, which: int, content: int) -> None:
        parent = key(min(self.alive[self.living(which)]))
        made = [encode(keep("x", b"content %d" % content))]
        self.store.commit(key("part"), {"part_of": parent, "result": made})

    @precondition(lambda self: self.alive)
    @rule(which=which)
    def recall_a_part(self, which: int) -> None:
        if found := self.store.load(f"keys/{key('part')}.json"):
            contents = [c for c in range(3) for file in found["result"] if file["digest"] == digest(c)]
            assert all(self.is_there(c) for c in contents)
            # what it names may be old, and is in no manifest of this run's yet
            self.flight[self.living(which)].update(dict.fromkeys(contents, -math.inf))

    @precondition(lambda self: self.alive)
    @rule(which=which)
    def commit(self, which: int) -> None:
        run = self.living(which)
        open_ = [k for k in self.alive[run] if k not in self.found]
        if open_ and self.flight[run]:
            self.store.commit(key(open_[0]), {"result": [encode(file_of(c)) for c in self.flight[run]]})
            self.found[open_[0]] = set(self.flight.pop(run))

    @precondition(lambda self: self.alive)
    @rule(which=which, how=st.sampled_from(["ends", "dies"]))
    def stop(self, which: int, how: str) -> None:
        run = self.living(which)
        keys = self.alive.pop(run)
        ended = None if how == "dies" else 1.0
        self.store.write(f"runs/{run}/run.json", json.dumps(record([key(k) for k in keys], ended=ended)).encode())
        self.leases.pop(run).release()  # as good as dead: the lease of a process that is gone is free
        self.flight.pop(run, None)

    def pass_time(self, hours: float) -> None:
        if not hours:
            return
        grow_old(self.store, hours * 3600)
        for run, kept in self.flight.items():
            older = {c: age + hours for c, age in kept.items()}
            # from `keep` to the manifest a step takes less than GRACE - FRESH
            self.flight[run] = {c: age for c, age in older.items() if age <= 22}

    # What gc does

    @precondition(lambda self: self.plan is None)
    @rule(last=st.sampled_from([None, 1, 2]), hours=hours)
    def survey(self, last: int | None, hours: float) -> None:
        self.pass_time(hours)
        self.kept = set(sorted(self.all)[-last:] if last else self.all) | set(self.alive)
        self.plan = list(Survey(self.store, Keeping(last=last)).waste())

    @precondition(lambda self: self.plan is not None)
    @rule()
    def sweep(self) -> None:
        sweep(self.store, self.plan or [])
        self.plan = None
        self.all = {run: keys for run, keys in self.all.items() if run in self.kept}
        reached = set().union(*self.all.values()) if self.all else set()
        self.found = {k: contents for k, contents in self.found.items() if k in reached}

    @precondition(lambda self: self.plan is None and not self.alive)
    @rule(last=st.sampled_from([1, 2]))
    def collect_in_peace(self, last: int) -> None:
        """All that is not reached goes, to the last object."""
        self.survey(last, 30)
        self.sweep()
        reached = set().union(*self.all.values()) if self.all else set()
        on_disk = {entry.name.rpartition("/")[2] for entry in filesystem.walk(f"{self.store.address}/keys")}
        manifests = {name: self.store.load(f"keys/{name}") for name in on_disk}
        assert all(
            name.removesuffix(".json") in {key(k) for k in reached}
            or manifest.get("part_of") in {key(k) for k in reached}
            for name, manifest in manifests.items()
        )
        needed = {file["digest"] for manifest in manifests.values() for file in manifest["result"]}
        assert {entry.name.rpartition("/")[2] for entry in filesystem.walk(f"{self.store.address}/objects")} == needed

    # What must hold at any moment

    @invariant()
    def nothing_that_is_needed_is_gone(self) -> None:
        kept = {k for run, keys in self.all.items() if self.plan is None or run in self.kept for k in keys}
        for k, contents in self.found.items():
            if k in kept:
                assert self.store.manifest(key(k)) is not None
                assert all(self.is_there(c) for c in contents)
        for contents in self.flight.values():
            assert all(self.is_there(c) for c in contents)

    def is_there(self, content: int) -> bool:
        return filesystem.look(f"{self.store.address}/{where(digest(content))}") is not None


def digest(content: int) -> str:
    return digest_of(b"content %d" % content)


def file_of(content: int) -> Any:
    from components.runtime.objects import File

    return File("x", digest(content), len(b"content %d" % content))


def test_nothing_reachable_goes_in_any_order_of_events(own_store, monkeypatch):
    monkeypatch.setenv("RAYFIELD_STORE", str(own_store))  # the machine moves it; this puts it back
    monkeypatch.setattr(filesystem.os, "fsync", lambda _: None)
    run_state_machine_as_test(Interleaved, settings=settings(max_examples=150, stateful_step_count=30, deadline=None))

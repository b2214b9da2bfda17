"""
Garbage-collect objects that no retained run references.

A kept run names its keys; a manifest under such a key names its objects, and so do the run's events. All of it is found
by its digests, wherever they stand in those files: what looks like a reference is one. A manifest names the run that
made it as well: what a kept step said there, its logs, curves and figures, stays with it. Nothing else is needed.

A pipeline may run meanwhile. The collector takes its lease before it looks for runs, and a run writes its record before
it looks for a collector (`Store.begin`): so every living run is seen, and its keys are kept, and whatever any step has
remembered of its parts. An object that no manifest names yet is spared while it is young, and `keep` makes an old one
young again; the last look at its age is taken when it is out of reach on a disk, or a moment before its removal in a
bucket.
"""

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from components.errors import RayfieldError
from components.runtime import filesystem
from components.runtime.filesystem import Entry
from pipelines.engine.cluster.submissions import Submission
from pipelines.engine.scheduling import schedules
from pipelines.engine.scheduling.triggers import time_of
from pipelines.engine.store.store import COLLECTOR, Lease, Store

T = TypeVar("T")

DAY = 86400.0
GRACE = DAY
"""seconds for which what nothing names yet is spared: longer than any step takes from `keep` to its manifest"""
UNSENT = 30 * DAY
"""seconds for which a run that MLflow has not taken whole is kept"""
HISTORY = 400 * DAY
"""seconds for which a schedule remembers a tick: a year, and a month to look back at it"""
RENEW = 15.0
THREADS = 16  # a bucket answers each in milliseconds, and many at once
DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
FOLDERS = ("runs", "keys", "objects", "scratch", "plans", "code", "leases", "damaged", "probe", "schedules")
"""what is looked through, in the order of removal: a manifest goes before its objects"""


class Busy(RayfieldError):
    """Another gc is at work."""


@dataclass(frozen=True)
class Waste:
    """A file that can go."""

    name: str
    size: int
    when: float
    """how old it was when it was found: one that has been written since is not removed"""

    @property
    def kind(self) -> str:
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Keeping:
    """Which runs are kept, beside those under way: all of them by default."""

    last: int | None = None
    """of each pipeline"""
    days: float | None = None

    def runs(self, records: Mapping[str, Mapping[str, Any]], unsent: set[str], now: float) -> set[str]:
        """The names of the kept among them; `unsent` are those that MLflow has not taken whole."""
        by_pipeline: dict[str, list[str]] = defaultdict(list)
        for name in sorted(records, reverse=True):
            by_pipeline[records[name]["pipeline"]].append(name)
        newest = {name for names in by_pipeline.values() for name in names[: self.last]}
        return {name for name, record in records.items() if self._keeps(name in newest, name in unsent, record, now)}

    def _keeps(self, newest: bool, unsent: bool, record: Mapping[str, Any], now: float) -> bool:
        age = now - record["started"]
        return (newest and (self.days is None or age < self.days * DAY)) or (unsent and age < UNSENT)


@dataclass
class Survey:
    """The store at one moment, and what of it can go."""

    store: Store
    keeping: Keeping
    now: float = field(default_factory=time.time)
    files: dict[str, list[Entry]] = field(init=False)
    alive: bool = field(init=False)
    """whether a run is under way"""
    kept_runs: set[str] = field(init=False)
    kept_keys: set[str] = field(init=False)
    makers: dict[str, str] = field(init=False)
    """a kept key -> the run that made it"""
    named: set[str] = field(init=False)
    """every digest that stands in what is kept"""
    dropped: set[str] = field(init=False)
    """every digest that stands in a manifest that goes"""
    _held: dict[str, bool] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._look_at_runs()
        # objects before manifests: one that is committed between the two is seen to be named
        self.files = {folder: list(files_of(self.store, folder)) for folder in FOLDERS}
        self._look_at_keys()

    def _look_at_runs(self) -> None:
        unsent = set(self.store.names("open"))
        records = dict(self.store.runs())
        going = {name for name, record in records.items() if self._goes_on(name, record)}
        self.alive = bool(going)
        self.kept_runs = going | self.keeping.runs(records, unsent, self.now)

    def _goes_on(self, run: str, record: Mapping[str, Any]) -> bool:
        """True if a driver has a run, or a cluster is to begin it."""
        if record.get("ended") is not None:
            return False
        return self.store.held(f"run-{run}") or Submission.of(self.store, run) is not None

    def _look_at_keys(self) -> None:
        of_runs = [f"runs/{e.name}" for e in self.files["runs"] if _first(e) in self.kept_runs]
        self.named = _digests(self._texts(of_runs))
        keys = [entry.name.removesuffix(".json") for entry in self.files["keys"] if _is_whole(entry)]
        manifests = dict(zip(keys, self._texts([f"keys/{key}.json" for key in keys]), strict=True))
        self.kept_keys = {key for key, said in manifests.items() if key in self.named or self._is_needed_part(said)}
        self.named |= _digests(manifests[key] for key in self.kept_keys)
        self.makers = {key: _field(manifests[key], "run") for key in self.kept_keys}
        self.named |= _digests(self._texts([f"runs/{e.name}" for e in self.files["runs"] if self._is_of_kept_step(e)]))
        self.dropped = _digests(said for key, said in manifests.items() if key not in self.kept_keys) - self.named

    def _is_needed_part(self, manifest: bytes) -> bool:
        """True for parts of a kept step, and for any part while runs are under way: they may recall it."""
        parent = _field(manifest, "part_of")
        return bool(parent) and (self.alive or parent in self.named)

    def _texts(self, names: list[str]) -> list[bytes]:
        return many(lambda name: self.store.read(name) or b"", names)

    def waste(self) -> Iterator[Waste]:
        """Files that can go, in the order in which they must."""
        for folder in FOLDERS:
            goes: Callable[[Entry], bool] = getattr(self, f"_{folder}")
            for entry in self.files[folder]:
                if self._is_old(entry) if not _is_whole(entry) else goes(entry):
                    yield Waste(f"{folder}/{entry.name}", entry.size, entry.when)

    def _is_old(self, entry: Entry) -> bool:
        return self.now - entry.when > GRACE

    def _runs(self, entry: Entry) -> bool:
        """Of a run that is not kept; one without a record may be just beginning."""
        run = _first(entry)
        goes = run not in self.kept_runs and not self._is_of_kept_step(entry)
        return goes and (run in self._recorded or self._is_old(entry))

    def _is_of_kept_step(self, entry: Entry) -> bool:
        """True for a kept step's words in the run that made it: runs/<run>/<kind>/<key>/<file>."""
        run, _, key, *file = [*entry.name.split("/"), "", "", ""]
        return bool(file[0]) and self.makers.get(key) == run

    @cached_property
    def _recorded(self) -> set[str]:
        return {_first(entry) for entry in self.files["runs"] if entry.name == f"{_first(entry)}/run.json"}

    def _keys(self, entry: Entry) -> bool:
        return entry.name.removesuffix(".json") not in self.kept_keys

    def _objects(self, entry: Entry) -> bool:
        digest = entry.name.rpartition("/")[2]
        known = digest in self.dropped and not self.alive  # nobody is there who could be about to need it
        return digest not in self.named and (known or self._is_old(entry))

    def _scratch(self, entry: Entry) -> bool:
        """Of a finished step, or of one that no kept run has; never of one under way."""
        key = _first(entry)
        return (key in self.kept_keys or key not in self.named) and not self._is_held(key)

    def _plans(self, entry: Entry) -> bool:
        return self._is_old(entry) and not _digests(self._texts([f"plans/{entry.name}"])) & self.kept_keys

    def _code(self, entry: Entry) -> bool:
        """The listing of a module's definitions: `explain` reads it by the digests that stand in manifests."""
        return self._is_old(entry) and entry.name.removesuffix(".json") not in self.named

    def _leases(self, entry: Entry) -> bool:
        """Old ones; the newest of a name stays while it is held."""
        name, epoch = _first(entry), int(entry.name.rpartition("/")[2])
        return self._is_old(entry) and (epoch < self._last_epochs[name] or not self._is_held(name))

    @cached_property
    def _last_epochs(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for entry in self.files["leases"]:
            if _is_whole(entry):
                found[_first(entry)] = max(found.get(_first(entry), 0), int(entry.name.rpartition("/")[2]))
        return found

    def _is_held(self, name: str) -> bool:
        if name not in self._held:
            self._held[name] = self.store.held(name)
        return self._held[name]

    def _damaged(self, entry: Entry) -> bool:
        """A note of a lost object is needed while a manifest names it and nothing has made it anew."""
        return self._is_old(entry) and (entry.name not in self.named or entry.name in self._there)

    @cached_property
    def _there(self) -> set[str]:
        return {entry.name.rpartition("/")[2] for entry in self.files["objects"]}

    def _probe(self, entry: Entry) -> bool:
        return self._is_old(entry)

    def _schedules(self, entry: Entry) -> bool:
        """A time long past, but the last one, from which a schedule goes on; what a digest names is never forgotten."""
        schedule, _, tick = entry.name.partition("/ticks/")
        if time_of(tick.removesuffix(".json")) is None or tick == self._last_ticks[schedule]:
            return False
        return self.now - entry.when > HISTORY and not self._is_open(*entry.name.split("/ticks/"))

    def _is_open(self, schedule: str, tick: str) -> bool:
        held = schedules.tick(self.store, schedule, tick.removesuffix(".json"))
        return held is not None and held.open

    @cached_property
    def _last_ticks(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for entry in self.files["schedules"]:
            schedule, _, tick = entry.name.partition("/ticks/")
            if _is_whole(entry) and time_of(tick.removesuffix(".json")) is not None:
                found[schedule] = max(found.get(schedule, ""), tick)
        return found


def files_of(store: Store, folder: str) -> Iterator[Entry]:
    """The files of a folder; some servers list one that is empty as a file without a name."""
    return (entry for entry in filesystem.walk(f"{store.address}/{folder}") if entry.name)


def collect(store: Store, keeping: Keeping, *, dry_run: bool = False) -> dict[str, dict[str, int]]:
    """Removes what can go, or only counts it. Returns folder -> files and bytes."""
    if dry_run:
        return counted(Survey(store, keeping).waste())
    lease = store.lease(COLLECTOR)
    if lease is None:
        raise Busy(f"One gc at a time may work on {store.address}, and another does. Wait until it has ended.")
    try:
        waste = list(Survey(store, keeping).waste())
        return counted(sweep(store, waste, lease))
    finally:
        lease.release()


def sweep(store: Store, waste: Iterable[Waste], lease: Lease | None = None) -> list[Waste]:
    """Removes what is as old as it was found, folder by folder. Returns what was removed."""
    gone: list[Waste] = []
    by_kind: dict[str, list[Waste]] = defaultdict(list)
    for one in waste:
        by_kind[one.kind].append(one)
    renewed = time.monotonic()
    for some in by_kind.values():
        for start in range(0, len(some), 500):
            if lease is not None and time.monotonic() - renewed > RENEW:
                _stay(lease)
                renewed = time.monotonic()
            batch = some[start : start + 500]
            removed = many(lambda one: filesystem.delete_old(f"{store.address}/{one.name}", one.when), batch)
            gone += [one for one, was in zip(batch, removed, strict=True) if was]
    for folder in by_kind:
        filesystem.prune(f"{store.address}/{folder}")
    return gone


def _stay(lease: Lease) -> None:
    """Renews the lease, unless it ran out and somebody else has it: runs have begun since that were not seen."""
    if not lease.lasts():
        raise Busy("This gc slept so long that its lease went to another. What it removed was rightly removed.")
    lease.renew()


def counted(waste: Iterable[Waste]) -> dict[str, dict[str, int]]:
    """Files and bytes by folder."""
    found: dict[str, dict[str, int]] = {}
    for one in waste:
        sums = found.setdefault(one.kind, {"files": 0, "bytes": 0})
        sums["files"] += 1
        sums["bytes"] += one.size
    return found


def many(function: Callable[[Any], T], items: list[Any]) -> list[T]:
    """The function of each, several at a time."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, items))


def _digests(texts: Iterable[bytes]) -> set[str]:
    """Every digest that stands in some texts."""
    return {found.decode() for text in texts for found in DIGEST.findall(text)}


def _first(entry: Entry) -> str:
    return entry.name.partition("/")[0]


def _is_whole(entry: Entry) -> bool:
    """True if a file is more than a write under way, or one that a crash broke off."""
    return not entry.name.rpartition("/")[2].startswith(".part-")


def _field(manifest: bytes, name: str) -> str:
    try:
        return str(json.loads(manifest).get(name, ""))
    except ValueError:
        return ""

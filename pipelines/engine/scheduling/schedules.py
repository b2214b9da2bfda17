"""
Schedules and their ticks, as the store holds them.

    schedules/<name>.json                 what was asked for
    schedules/<name>/ticks/<tick>.json    one tick: whoever creates the file has claimed it; then its history
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from components.errors import UsageError, nearest
from components.runtime.objects import digest_of
from pipelines.engine.scheduling.triggers import KINDS, Cron, Trigger, between, stamp, time_of
from pipelines.engine.store.store import Store, owner

Overlap = Literal["skip", "queue", "cancel"]
CatchUp = Literal["none", "last", "all"]
OPEN = ("queued", "running")
"""what a tick is until it has ended"""
AGAIN = "-backfill"


@dataclass(frozen=True)
class Schedule:
    """A schedule, as its file holds it."""

    name: str
    pipeline: str
    """a name of `rayfield pipelines`, or the whole path of a file"""
    words: tuple[str, ...]
    """the rest of the command line; {date} and {tick} in it stand for the tick's own"""
    trigger: Trigger
    folder: str
    """where it was typed: paths in the words begin there"""
    created: int
    since: int
    """when it was made or last resumed: nothing before is its business"""
    overlap: Overlap = "skip"
    catch_up: CatchUp = "last"
    grace: int = 60
    """how many seconds late a tick may begin and still not be a missed one"""
    address: str = ""
    """the cluster that it is submitted to; here, if empty"""
    on_failure: str = ""
    on_success: str = ""
    paused: bool = False

    def command(self, tick: "Tick") -> list[str]:
        """The words that come after `rayfield`."""
        zone = ZoneInfo(self.trigger.zone) if isinstance(self.trigger, Cron) else UTC
        stands = {"{date}": f"{datetime.fromtimestamp(tick.due, zone):%Y-%m-%d}", "{tick}": tick.base}
        words = [filled(word, stands) for word in self.words]
        if not self.address:
            return ["run", self.pipeline, *words]
        return ["submit", self.pipeline, *words, "--address", self.address]


@dataclass(frozen=True)
class Tick:
    """One time that a schedule should run, and what became of it."""

    schedule: str
    name: str
    due: float
    status: str
    """queued, running; done, failed, refused, interrupted, cancelled, skipped, missed"""
    claimed: float
    by: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    late: bool = False
    """whether it is made up for, or filled in: no other skips or cancels it"""
    attempts: int = 0
    started: float | None = None
    ended: float | None = None
    code: int | None = None
    why: str = ""
    told: str = ""
    """what went wrong with telling people, if something did"""
    count: int = 1
    """of missed ones in a row: how many, the first of them at `first`"""
    first: float | None = None

    @property
    def open(self) -> bool:
        return self.status in OPEN

    @property
    def base(self) -> str:
        """The time or the digest that it is named by."""
        return self.name.partition("-")[0]


def filled(word: str, stands: Mapping[str, str]) -> str:
    """A word with what stands in it for a tick's own."""
    for name, value in stands.items():
        word = word.replace(name, value)
    return word


# The book: what the store holds


def names(store: Store) -> list[str]:
    return [name.removesuffix(".json") for name in store.names("schedules") if name.endswith(".json")]


def find(store: Store, name: str) -> Schedule:
    """A schedule by its name."""
    held = store.load(_place(name))
    if held is None:
        raise UsageError(f"No schedule {name!r}.{nearest(name, names(store))} `rayfield schedule list` lists all.")
    trigger = dict(held["trigger"])
    if trigger["kind"] == "change":
        trigger["sources"] = tuple((source, settings) for source, settings in trigger["sources"])
    return Schedule(**{**held, "words": tuple(held["words"]), "trigger": KINDS[trigger["kind"]](**trigger)})


def add(store: Store, schedule: Schedule) -> None:
    """Keeps a new schedule."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]{0,39}(-[a-z0-9_]+)*", schedule.name) or len(schedule.name) > 60:
        raise UsageError(
            f"A schedule's name is small letters, digits, '-' and '_', but got {schedule.name!r}. For example nightly."
        )
    if not store.create(_place(schedule.name), _bytes(schedule)):
        raise UsageError(
            f"There is a schedule {schedule.name!r} already. `rayfield schedule remove {schedule.name}` takes it away."
        )


def change(store: Store, schedule: Schedule, **fields: Any) -> Schedule:
    """Another value of some fields."""
    new = replace(schedule, **fields)
    store.write(_place(schedule.name), _bytes(new))
    return new


def remove(store: Store, schedule: Schedule) -> None:
    """Forgets a schedule and its ticks; what it ran stays."""
    store.delete(_place(schedule.name))
    for tick in tick_names(store, schedule.name):
        store.delete(_place(schedule.name, tick))


def tick_names(store: Store, schedule: str) -> list[str]:
    """The ticks of a schedule, those of a time in its order."""
    return [n.removesuffix(".json") for n in store.names(f"schedules/{schedule}/ticks") if n.endswith(".json")]


def tick(store: Store, schedule: str, name: str) -> Tick | None:
    held = store.load(_place(schedule, name))
    return Tick(**held) if held else None


def history(store: Store, schedule: str) -> list[Tick]:
    """Every tick, in the order in which they were claimed."""
    found = [tick(store, schedule, name) for name in tick_names(store, schedule)]
    return sorted((t for t in found if t), key=lambda t: (t.claimed, t.due, t.name))


def claim(store: Store, new: Tick) -> bool:
    """Makes a tick one's own. False if it is somebody's already."""
    return store.create(_place(new.schedule, new.name), _bytes(new))


def write(store: Store, new: Tick) -> Tick:
    store.write(_place(new.schedule, new.name), _bytes(new))
    return new


def _place(schedule: str, tick: str = "") -> str:
    return f"schedules/{schedule}/ticks/{tick}.json" if tick else f"schedules/{schedule}.json"


def _bytes(value: Schedule | Tick) -> bytes:
    return json.dumps(asdict(value), indent=1).encode()


# What is due


@dataclass(frozen=True)
class Due:
    """Ticks that are due, by a look at the clock."""

    now: tuple[float, ...]
    """on time"""
    made_up: tuple[float, ...]
    """late, and run nevertheless"""
    missed: tuple[float, ...]
    """late, and not run"""


def due(schedule: Schedule, claimed: list[str], moment: float) -> Due:
    """
    The ticks since the last one that was claimed, by what the schedule does with late ones.

    A clock that has jumped back does not matter: ticks that were claimed in what is the future again are left out of
    the search for the last one, and claiming them a second time fails.
    """
    times = [t for t in map(time_of, claimed) if t is not None and t <= moment]
    since = max([schedule.since, *times])
    found = list(between(schedule.trigger, since, moment))
    late = tuple(t for t in found if t < moment - schedule.grace)
    fresh = tuple(found[len(late) :])
    if schedule.catch_up == "all":
        return Due(fresh, late, ())
    if schedule.catch_up == "last" and late and not fresh:
        return Due((), late[-1:], late[:-1])
    return Due(fresh, (), late)


def following(schedule: Schedule, moment: float, count: int = 1) -> list[float]:
    """The next ticks."""
    times = schedule.trigger.after(max(moment, schedule.since))
    return [found for found, _ in zip(times, range(count), strict=False)]


# New ticks


def asked_for(schedule: Schedule, taken: list[str], now: float) -> Tick:
    """A tick that somebody asks for now."""
    names = (f"{stamp(now)}-now{number or ''}" for number in range(1000))
    name = next(name for name in names if name not in taken)
    return replace(new_tick(schedule, now, now, "queued"), name=name, run=run_name(schedule.name, name, now))


def filled_in(store: Store, schedule: Schedule, moment: float, now: float) -> Tick | None:
    """The tick of a past time that never ran, to be filled in; None if it did."""
    new = new_tick(schedule, moment, now, "queued", late=True)
    held = tick(store, schedule.name, new.name)
    if held is None:
        return new
    again = new.name + AGAIN
    if held.status not in ("missed", "skipped", "cancelled") or tick(store, schedule.name, again):
        return None
    return replace(new, name=again, run=run_name(schedule.name, again, now))


def new_tick(schedule: Schedule, moment: float, now: float, status: str, *, late: bool = False, why: str = "") -> Tick:
    name = stamp(moment)
    run = "" if status == "missed" else run_name(schedule.name, name, now)
    return Tick(schedule.name, name, moment, status, now, owner(), run, late, why=why)


def run_name(schedule: str, tick: str, now: float) -> str:
    """Begins with the time, as every run's name does, so that the newest are first; ends with what it is a run of."""
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%d-%H%M%S}-{schedule}-{digest_of(f'{schedule}/{tick}'.encode())[:6]}"

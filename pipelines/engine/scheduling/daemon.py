"""
The scheduler: looks at the clock and at the store, claims what is due, and sees it to its end.

Nothing is remembered here that the store does not have: a tick is claimed by creating its file, and carried out by
whoever holds its lease. So any number of schedulers may look after one store, each tick runs once, and what a dead
scheduler began is taken over: a run of it that goes on is waited for, one that has ended is written down, one that was
killed is continued under its own name.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.engine.scheduling import notifications, schedules
from pipelines.engine.scheduling.processes import Child, orphan, recorded, run
from pipelines.engine.scheduling.schedules import Schedule, Tick
from pipelines.engine.scheduling.triggers import Change
from pipelines.engine.store.store import Lease, Store, owner

IDLE = 10.0
"""the longest pause: how late a new schedule is noticed"""
BUSY = 1.0
RENEW = 15.0
ATTEMPTS = 3
"""how often a run that is killed is begun"""
INTERRUPTED = 5
STATUS = {0: "done", 3: "refused", INTERRUPTED: "interrupted"}
PATIENCE = 60.0
"""how long the runs have to write down where they are when the scheduler ends"""


Start = Callable[[Schedule, Tick, Store], Child]
Tell = Callable[[str, dict[str, object]], str]


@dataclass
class Work:
    """A tick that this scheduler carries out."""

    schedule: Schedule
    tick: Tick
    lease: Lease
    child: Child | None = None
    telling: Future[str] | None = None
    asked: str = ""
    """why it was asked to end: cancelled, or stopped with the scheduler"""


class Scheduler:
    """One of any number that look after a store."""

    def __init__(
        self,
        store: Store,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        start: Start | None = None,
        tell: Tell = notifications.tell,
        say: Callable[[str], None] = lambda line: print(f"  {line}", file=sys.stderr, flush=True),
    ) -> None:
        self.store, self.now, self.sleep, self.say = store, now, sleep, say
        self.start, self.tell = start or run, tell
        self.held: dict[tuple[str, str], Work] = {}
        self.over: set[tuple[str, str]] = set()
        self.looked: dict[str, float] = {}
        self.renewed = now()
        self.troubles: dict[str, str] = {}
        self.pool = ThreadPoolExecutor(4, "hooks")
        self.stopping = False

    # The loop

    def forever(self) -> None:
        """Goes on until `stopping` is set; then interrupts what runs, so that the next scheduler continues it."""
        while not self.stopping:
            self.round()
            self._rest(BUSY if self.held else min(IDLE, max(0.2, self._next() - self.now())))
        self.stop()

    def once(self) -> None:
        """Carries out what is due now and what waits, and ends."""
        self.round()
        while self.held and not self.stopping:
            self.sleep(BUSY)
            self.round(claims=False)
        self.stop()

    def until(self, ticks: Iterable[Tick]) -> None:
        """Carries out these ticks, alone or beside other schedulers."""
        left = list(ticks)
        while (left := [t for t in left if self._is_open(t)]) and not self.stopping:
            self.round(claims=False, only={tick.schedule for tick in left})
            self.sleep(BUSY)
        self.stop()

    def round(self, claims: bool = True, only: set[str] | None = None) -> None:
        """One look at everything. What goes wrong with one schedule keeps no other from running."""
        with self._guard("the store"):
            self._renew()
        for work in list(self.held.values()):
            with self._guard(work.schedule.name):
                self._follow(work)
        known: list[str] = []
        with self._guard("the schedules"):
            known = schedules.names(self.store)
        for name in known:
            if only is None or name in only:
                with self._guard(name):
                    self._look(name, claims, only)

    def stop(self) -> None:
        """Interrupts what runs, waits for it, and lets it go."""
        for work in self.held.values():
            self._end(work, "stopped")
        until = time.monotonic() + PATIENCE
        while self.held and time.monotonic() < until:
            for work in list(self.held.values()):
                with self._guard(work.schedule.name):
                    self._follow(work)
            if self.held:
                self.sleep(0.2)
        self.pool.shutdown()

    def _rest(self, seconds: float) -> None:
        """Sleeps in short pieces, so that SIGTERM is answered at once."""
        while seconds > 0 and not self.stopping:
            self.sleep(min(seconds, 0.5))
            seconds -= 0.5

    def _next(self) -> float:
        """When something is due; a clock and a store in trouble are looked at again after a pause."""
        found = [self.now() + IDLE]
        with self._guard("the schedules"):
            for name in schedules.names(self.store):
                found += schedules.following(schedules.find(self.store, name), self.now())
        return min(found)

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """A trouble is said once, and looked at again in the next round."""
        try:
            yield
            self.troubles.pop(what, None)
        except Exception as error:  # whatever a store, a source or a broken file raises: the others go on
            text = " ".join(str(error).split()) or type(error).__name__
            if self.troubles.get(what) != text:
                self.say(f"{what}: {text}")
            self.troubles[what] = text

    # What is due

    def _look(self, name: str, claims: bool, only: set[str] | None) -> None:
        schedule = schedules.find(self.store, name)
        if schedule.paused and only is None:
            return
        if claims:
            self._claim(schedule)
        for tick in self._outdated(schedule):
            work = self.held.get((name, tick.name)) or self._take(schedule, tick, cancelled=True)
            if work is not None:
                self._end(work, "cancelled")
        waiting = self._open(schedule)
        over, left = [t for t in waiting if t.code is not None], [t for t in waiting if t.code is None]
        for tick in over + left[:1]:
            if (name, tick.name) not in self.held:
                self._take(schedule, tick)

    def _outdated(self, schedule: Schedule) -> list[Tick]:
        """Runs superseded by the newest on-time tick; ticks that are made up for run to their end."""
        if schedule.overlap != "cancel":
            return []
        return [tick for tick in self._open(schedule) if not tick.late and tick.code is None][:-1]

    def _claim(self, schedule: Schedule) -> None:
        claimed, now = schedules.tick_names(self.store, schedule.name), self.now()
        if isinstance(schedule.trigger, Change):
            return self._claim_change(schedule, schedule.trigger, claimed)
        due = schedules.due(schedule, claimed, now)
        if due.missed:
            new = schedules.new_tick(schedule, due.missed[-1], now, "missed", why="no scheduler was there")
            if schedules.claim(self.store, replace(new, first=due.missed[0], count=len(due.missed))):
                self.say(f"{schedule.name}: {len(due.missed)} missed until {new.name}")
        for moment in due.made_up:
            schedules.claim(self.store, schedules.new_tick(schedule, moment, now, "queued", late=True))
        for moment in due.now:
            self.claim(schedule, schedules.new_tick(schedule, moment, now, "queued"))

    def claim(self, schedule: Schedule, new: Tick) -> bool:
        """Claims a tick, as far as the one before lets it run."""
        before = [tick for tick in self._open(schedule) if tick.code is None]
        if schedule.overlap == "skip" and before:
            new = replace(new, status="skipped", why=f"{before[0].name} was not over")
        claimed = schedules.claim(self.store, new)
        if claimed and new.status == "skipped":
            self.say(f"{schedule.name}: {new.name} skipped, {new.why}")
        return claimed

    def _claim_change(self, schedule: Schedule, trigger: Change, claimed: list[str]) -> None:
        """A change that comes while a run goes on is not skipped but seen later: there is no next tick to mend it."""
        if abs(self.now() - self.looked.get(schedule.name, 0)) < trigger.seconds:
            return
        if schedule.overlap == "skip" and self._open(schedule):
            return
        self.looked[schedule.name] = self.now()
        with contextlib.chdir(schedule.folder):
            digest = trigger.digest()
        if digest != trigger.first and digest not in claimed:
            new = schedules.new_tick(schedule, self.now(), self.now(), "queued")
            self.claim(schedule, replace(new, name=digest, run=schedules.run_name(schedule.name, digest, self.now())))

    def _open(self, schedule: Schedule) -> list[Tick]:
        """Ticks that are claimed and have not ended, in the order in which they run."""
        found = []
        for name in schedules.tick_names(self.store, schedule.name):
            if (schedule.name, name) in self.over:
                continue
            tick = schedules.tick(self.store, schedule.name, name)
            if tick and tick.open:
                found.append(tick)
            elif tick:
                self.over.add((schedule.name, name))
        return sorted(found, key=lambda t: (t.claimed, t.due, t.name))

    def _is_open(self, tick: Tick) -> bool:
        held = schedules.tick(self.store, tick.schedule, tick.name)
        return held is not None and held.open

    # Carrying out

    def _take(self, schedule: Schedule, tick: Tick, cancelled: bool = False) -> Work | None:
        """Gets the lease of a tick, and goes on with it from where it is. None while another scheduler has it."""
        lease = self.store.lease(f"tick-{schedule.name}-{tick.name}")
        if lease is None:
            return None
        held = schedules.tick(self.store, schedule.name, tick.name)
        if held is None or not held.open:  # it ended between the look and the lease
            lease.release()
            return None
        work = self.held[schedule.name, tick.name] = Work(schedule, held, lease)
        try:
            self._go_on(work, cancelled)
        except BaseException:  # a store that did not answer, say: nobody is to wait for what was not begun
            self.held.pop((schedule.name, tick.name), None)
            lease.release()
            raise
        return work

    def _go_on(self, work: Work, cancelled: bool) -> None:
        tick = work.tick
        if tick.code is not None:
            self._settle(work)
        elif tick.status == "running" and (other := orphan(tick.run, self.store)):
            work.child = other
        elif tick.status == "running" and (code := recorded(tick.run, self.store)) not in (None, INTERRUPTED):
            self._ended(work, int(code or 0))
        elif cancelled:
            work.asked = "cancelled"
            self._ended(work, INTERRUPTED)
        else:
            self._begin(work)

    def _begin(self, work: Work) -> None:
        tick = replace(
            work.tick, status="running", started=self.now(), by=owner(), attempts=work.tick.attempts + 1, why=""
        )
        work.tick = schedules.write(self.store, tick)
        self.say(f"{tick.schedule}: {tick.name} begins as run {tick.run}")
        try:
            work.child = self.start(work.schedule, tick, self.store)
        except OSError as error:
            work.tick = replace(tick, why=f"it could not be started: {error}")
            self._ended(work, 1)

    def _end(self, work: Work, why: str) -> None:
        if not work.asked and work.tick.code is None:
            work.asked = why
            if work.child is not None:
                work.child.terminate()

    def _follow(self, work: Work) -> None:
        if work.telling is not None:
            if work.telling.done():
                self._finish(work, work.telling.result())
        elif work.child is not None and (code := work.child.poll()) is not None:
            self._ended(work, code)

    def _ended(self, work: Work, code: int) -> None:
        """A run is over: it waits for the next scheduler, for another attempt, or it is written down."""
        tick, killed = work.tick, code < 0
        if work.asked == "stopped" and (killed or code == INTERRUPTED):
            return self._let_go(work, replace(tick, status="queued", attempts=tick.attempts - 1))
        if killed and not work.asked and tick.attempts < ATTEMPTS:
            return self._let_go(work, replace(tick, status="queued", why="it was killed"))
        over = replace(tick, code=128 - code if killed else code, ended=self.now())
        work.tick = schedules.write(self.store, over)  # still open: whoever takes over from here only tells
        self._settle(work)

    def _settle(self, work: Work) -> None:
        """Tells people; in a thread, since an address may take its time."""
        code, schedule = work.tick.code or 0, work.schedule
        hook = schedule.on_failure if code else schedule.on_success
        if not hook or work.asked == "cancelled":
            return self._finish(work, "")
        work.telling = self.pool.submit(self.tell, hook, _facts(work, self._status(work)))

    def _status(self, work: Work) -> str:
        return "cancelled" if work.asked == "cancelled" else STATUS.get(work.tick.code or 0, "failed")

    def _finish(self, work: Work, told: str) -> None:
        tick = replace(work.tick, status=self._status(work), told=told)
        self.say(f"{tick.schedule}: {tick.name} {tick.status}, exit code {tick.code}{'; ' + told if told else ''}")
        self.over.add((tick.schedule, tick.name))
        self._let_go(work, tick)

    def _let_go(self, work: Work, tick: Tick) -> None:
        schedules.write(self.store, tick)
        work.lease.release()
        del self.held[tick.schedule, tick.name]

    def _renew(self) -> None:
        """Keeps the leases; a tick that another scheduler took over, as after a long sleep of this machine, is its."""
        if abs(self.now() - self.renewed) < RENEW:
            return
        self.renewed = self.now()
        for key, work in list(self.held.items()):
            if work.lease.lasts():
                work.lease.renew()
            else:
                self.say(f"{work.tick.schedule}: another scheduler has taken {work.tick.name} over")
                if work.child is not None:
                    work.child.terminate()
                del self.held[key]


def _facts(work: Work, status: str) -> dict[str, object]:
    tick = work.tick
    seconds = round((tick.ended or 0) - (tick.started or tick.claimed), 1)
    return {
        "text": f"{tick.schedule}: {Path(work.schedule.pipeline).stem} {status} after {seconds:g} s (run {tick.run})",
        "schedule": tick.schedule,
        "pipeline": work.schedule.pipeline,
        "tick": tick.name,
        "run": tick.run,
        "status": status,
        "code": tick.code,
        "started": tick.started,
        "ended": tick.ended,
    }

"""
The scheduler under a clock that the tests turn: each tick once, whoever looks, whatever dies, however the clock jumps.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from components.errors import DataError
from components.source import Source
from pipelines.cli.main import main
from pipelines.engine.scheduling import daemon as module
from pipelines.engine.scheduling import notifications, schedules
from pipelines.engine.scheduling.daemon import Scheduler
from pipelines.engine.scheduling.processes import orphan
from pipelines.engine.scheduling.schedules import Schedule, Tick
from pipelines.engine.scheduling.triggers import Change, Every, cron
from pipelines.engine.store.store import Lease, Store, owner

ROOT = Path(__file__).resolve().parents[4]


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


START = at("2026-11-20T00:00")


class Run:
    """A run that ends when the world's clock says so, or when it is asked to."""

    def __init__(self, world: "World", tick: Tick, seconds: float, code: int) -> None:
        self.world, self.tick, self.code = world, tick, code
        self.begins, self.ends = world.time, world.time + seconds

    def poll(self) -> int | None:
        return self.code if self.world.time >= self.ends else None

    def terminate(self) -> None:
        self.ends, self.code = self.world.time, 5


class World:
    """A store, a clock, and schedulers that start nothing real."""

    def __init__(self, store: Store) -> None:
        self.store, self.time = store, START
        self.seconds, self.codes = 1.0, [0]
        self.begun: list[Run] = []
        self.told: list[tuple[str, dict[str, object]]] = []
        self.said: list[str] = []

    def scheduler(self) -> Scheduler:
        return Scheduler(
            self.store, now=lambda: self.time, sleep=self.sleep, start=self.start, tell=self.tell, say=self.said.append
        )

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def start(self, schedule: Schedule, tick: Tick, store: Store) -> Run:
        code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        self.begun.append(Run(self, tick, self.seconds, code))
        return self.begun[-1]

    def tell(self, hook: str, facts: dict[str, object]) -> str:
        self.told.append((hook, facts))
        return ""

    def add(self, **fields: object) -> Schedule:
        given = {"pipeline": "toy", "words": (), "folder": "/", "created": int(START), "since": int(START), **fields}
        made = Schedule(**{"name": "toy", "trigger": cron("0 * * * *", "UTC"), **given})
        schedules.add(self.store, made)
        return made

    def until(self, text: str, *loops: Scheduler, step: float = 60) -> None:
        """Lets the schedulers look every `step` seconds."""
        while self.time < at(text):
            self.time = min(self.time + step, at(text))
            for loop in loops:
                loop.round()

    def ticks(self) -> dict[str, str]:
        return {tick.name: tick.status for tick in schedules.history(self.store, "toy")}

    def ran(self) -> list[str]:
        return [run.tick.name[6:13] for run in self.begun]


@pytest.fixture
def world(own_store: Path) -> World:
    return World(Store(str(own_store)))


# A tick


def test_a_tick_runs_at_its_time_and_is_written_down(world):
    world.add()
    loop = world.scheduler()
    world.until("2026-11-20T00:59", loop)
    assert world.begun == []

    world.until("2026-11-20T02:02", loop)
    assert world.ran() == ["20T0100", "20T0200"]
    tick = schedules.tick(world.store, "toy", "20261120T010000Z")
    assert (tick.status, tick.code, tick.attempts, tick.by["pid"]) == ("done", 0, 1, os.getpid())
    assert tick.started == at("2026-11-20T01:00") and tick.ended == at("2026-11-20T01:01")


@pytest.mark.parametrize(
    "code, status", [(0, "done"), (1, "failed"), (2, "failed"), (3, "refused"), (4, "failed"), (5, "interrupted")]
)
def test_the_exit_code_says_how_a_tick_ended(world, code, status):
    world.add()
    world.codes = [code]
    world.until("2026-11-20T01:02", world.scheduler())

    assert world.ticks() == {"20261120T010000Z": status}


def test_a_run_that_is_killed_is_continued_three_times_in_all(world):
    world.add()
    world.codes = [-9]
    world.until("2026-11-20T01:10", world.scheduler())
    tick = schedules.tick(world.store, "toy", "20261120T010000Z")

    assert len(world.begun) == 3
    assert len({run.tick.run for run in world.begun}) == 1
    assert (tick.status, tick.code) == ("failed", 137)


def test_a_command_that_cannot_be_started_is_a_failed_tick(world):
    world.add()
    loop = world.scheduler()

    def broken(*_: object) -> Run:
        raise FileNotFoundError("no python")

    loop.start = broken
    world.until("2026-11-20T01:02", loop)

    assert world.ticks() == {"20261120T010000Z": "failed"}
    assert "no python" in schedules.tick(world.store, "toy", "20261120T010000Z").why


def test_a_paused_schedule_claims_nothing_and_goes_on_from_when_it_is_resumed(world):
    held = schedules.change(world.store, world.add(catch_up="all"), paused=True)
    loop = world.scheduler()
    world.until("2026-11-20T03:30", loop)
    assert world.ticks() == {}

    schedules.change(world.store, held, paused=False, since=int(world.time))
    world.until("2026-11-20T04:01", loop)
    assert world.ran() == ["20T0400"]


def test_a_schedule_in_trouble_keeps_no_other_from_running_and_is_said_once(world):
    world.add()
    world.store.write("schedules/broken.json", b"{")
    world.until("2026-11-20T01:02", world.scheduler())

    assert world.ticks() == {"20261120T010000Z": "done"}
    assert len([line for line in world.said if line.startswith("broken")]) == 1


# Overlap: every hour, and each takes ninety minutes


def test_skip_leaves_out_what_comes_while_a_run_goes_on(world):
    world.add(overlap="skip")
    world.seconds = 5400
    world.until("2026-11-20T04:10", world.scheduler())

    assert world.ran() == ["20T0100", "20T0300"]
    assert list(world.ticks().values()) == ["done", "skipped", "running", "skipped"]
    assert schedules.tick(world.store, "toy", "20261120T020000Z").why == "20261120T010000Z was not over"


def test_queue_runs_each_after_the_one_before(world):
    world.add(overlap="queue")
    world.seconds = 5400
    world.until("2026-11-20T04:10", world.scheduler())

    assert world.ran() == ["20T0100", "20T0200", "20T0300"]
    assert [run.begins - START for run in world.begun] == [3600, 9000, 14400]
    assert list(world.ticks().values()) == ["done", "done", "running", "queued"]


def test_cancel_interrupts_the_run_before_and_then_begins(world):
    world.add(overlap="cancel", on_failure="tell")
    world.seconds = 5400
    world.until("2026-11-20T03:10", world.scheduler())

    assert world.ran() == ["20T0100", "20T0200", "20T0300"]
    assert list(world.ticks().values()) == ["cancelled", "cancelled", "running"]
    assert [run.begins - START for run in world.begun] == [3600, 7260, 10860]  # a look after each was interrupted
    assert world.begun[0].ends == START + 7200
    assert world.told == []


def test_cancel_reaches_a_run_of_another_scheduler(world):
    world.add(overlap="cancel")
    world.seconds = 5400
    first, second = world.scheduler(), world.scheduler()
    world.until("2026-11-20T01:30", first)
    world.until("2026-11-20T02:00", second)
    assert list(world.ticks().values()) == ["running", "queued"]

    world.until("2026-11-20T02:10", first, second)
    assert list(world.ticks().values()) == ["cancelled", "running"]


# Asleep


def asleep(world: World, **fields: object) -> Scheduler:
    """Hourly; the scheduler sleeps from half past one on the 20th until ten past two on the 23rd."""
    world.add(**fields)
    world.until("2026-11-20T01:30", world.scheduler())
    world.time = at("2026-11-23T02:10")
    return world.scheduler()


def test_three_days_asleep_with_none_are_written_down_and_not_run(world):
    world.until("2026-11-23T03:02", asleep(world, catch_up="none"))
    missed = schedules.tick(world.store, "toy", "20261123T020000Z")

    assert world.ran() == ["20T0100", "23T0300"]
    assert (missed.status, missed.count, missed.first) == ("missed", 73, at("2026-11-20T02:00"))


def test_three_days_asleep_with_last_run_once(world):
    world.until("2026-11-23T03:02", asleep(world, catch_up="last"))

    assert world.ran() == ["20T0100", "23T0200", "23T0300"]
    assert schedules.tick(world.store, "toy", "20261123T010000Z").count == 72


@pytest.mark.parametrize("overlap", ["skip", "queue", "cancel"])
def test_three_days_asleep_with_all_run_each_in_order_whatever_the_overlap(world, overlap):
    world.seconds = 20
    world.until("2026-11-23T02:59", asleep(world, catch_up="all", overlap=overlap), step=30)

    assert world.ran() == sorted(world.ran())
    assert Counter(world.ticks().values()) == {"done": 74}
    assert len(world.begun) == 74


# A clock that jumps


def test_a_clock_that_jumps_forward_is_a_sleep(world):
    world.add(catch_up="last")
    loop = world.scheduler()
    world.until("2026-11-20T01:30", loop)
    world.time += 3 * 86400
    world.until("2026-11-23T02:02", loop)

    assert world.ran() == ["20T0100", "23T0100", "23T0200"]


def test_a_clock_that_jumps_back_runs_nothing_twice_and_goes_on(world):
    world.add()
    loop = world.scheduler()
    world.until("2026-11-20T03:30", loop)
    world.time = at("2026-11-20T01:30")
    world.until("2026-11-20T05:02", loop, world.scheduler())

    assert world.ran() == ["20T0100", "20T0200", "20T0300", "20T0400", "20T0500"]


def test_nor_does_a_scheduler_that_was_not_there_before_the_clock_jumped_back(world):
    world.add()
    world.until("2026-11-20T03:30", world.scheduler())
    world.time = at("2026-11-20T01:59")
    world.scheduler().round()
    world.time = at("2026-11-20T02:00")
    for _ in range(3):
        world.scheduler().round()

    assert world.ran() == ["20T0100", "20T0200", "20T0300"]


def test_a_clock_that_jumps_forward_and_back_runs_what_lies_between_in_its_time(world):
    world.add(catch_up="last")
    loop = world.scheduler()
    world.until("2026-11-20T01:30", loop)
    world.time = at("2026-11-23T02:10")
    world.until("2026-11-23T02:12", loop)
    world.time = at("2026-11-20T01:31")
    world.until("2026-11-20T03:02", loop)

    assert world.ran() == ["20T0100", "23T0200", "20T0200", "20T0300"]


@pytest.mark.parametrize("day, hours", [("2026-03-29", 23), ("2026-10-25", 25)])
def test_a_day_of_a_clock_change_has_as_many_hours_as_it_has(world, day, hours):
    world.time = at(f"{day}T00:00") - (3600 if day == "2026-03-29" else 7200) - 1  # just before Berlin's midnight
    world.add(trigger=cron("0 * * * *", "Europe/Berlin"), since=int(world.time), grace=300)
    world.add(name="daily", trigger=cron("30 2 * * *", "Europe/Berlin"), since=int(world.time), grace=300)
    loop, end = world.scheduler(), world.time + hours * 3600
    while world.time < end:
        world.time += 300
        loop.round()

    assert len(world.ticks()) == hours
    assert len(schedules.history(world.store, "daily")) == 1


# Several schedulers


def test_two_schedulers_at_once_run_each_tick_once(world):
    world.add(trigger=Every(60, int(START)), overlap="queue")
    world.seconds = 0
    barrier = threading.Barrier(2)

    def look(loop: Scheduler) -> None:
        for _ in range(30):
            barrier.wait()
            loop.round()

    def turn() -> None:
        world.time += 60

    barrier = threading.Barrier(2, action=turn)
    threads = [threading.Thread(target=look, args=(world.scheduler(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(world.begun) >= 25
    assert set(Counter(run.tick.name for run in world.begun).values()) == {1}
    assert len(schedules.tick_names(world.store, "toy")) == 30
    assert world.said and not [line for line in world.said if "begins" not in line and "exit code 0" not in line]


def test_a_tick_that_another_finished_between_look_and_claim_is_not_run_again(world, monkeypatch):
    world.add()
    first, second = world.scheduler(), world.scheduler()
    world.time, look = START + 3600, schedules.due

    def slowly(*about: object) -> schedules.Due:
        found = look(*about)
        monkeypatch.setattr(schedules, "due", look)
        world.until("2026-11-20T01:02", first)
        return found

    monkeypatch.setattr(schedules, "due", slowly)
    second.round()
    second.round()

    assert world.ran() == ["20T0100"]
    assert list(world.ticks().values()) == ["done"]


def test_a_tick_that_another_finished_between_look_and_lease_is_not_told_again(world):
    world.add(on_success="tell")
    first, second = world.scheduler(), world.scheduler()

    class Slow(Store):
        def lease(self, name: str, seconds: float = 60) -> Lease | None:
            world.until("2026-11-20T01:02", first)
            while first.held:  # until people are told
                first.round()
            return super().lease(name, seconds)

    second.store = Slow(world.store.address)
    world.time = START + 3600
    second.round()
    second.stop()

    assert world.ran() == ["20T0100"] and len(world.told) == 1
    assert second.held == {} and list(world.ticks().values()) == ["done"]


def test_what_a_dead_scheduler_claimed_is_begun_by_another(world):
    """It died between claiming and beginning; the run has the name that the claim gave it."""
    held = world.add()
    schedules.claim(world.store, schedules.new_tick(held, at("2026-11-20T01:00"), world.time, "queued"))
    world.time = at("2026-11-20T01:01")
    world.scheduler().round()

    assert world.ran() == ["20T0100"]
    assert world.begun[0].tick.run == schedules.tick(world.store, "toy", "20261120T010000Z").run


def dead(world: World, **fields: object) -> Tick:
    """A tick whose scheduler was killed while it ran."""
    held = world.add(on_failure="tell failure", on_success="tell success")
    tick = replace(schedules.new_tick(held, START + 3600, START + 3600, "running"), attempts=1, started=START, **fields)
    schedules.claim(world.store, tick)
    lease = {**owner(), "start": "1", "until": time.time() + 3600}
    world.store.write(f"leases/tick-toy-{tick.name}.0", json.dumps(lease).encode())
    world.time = START + 3660
    return tick


def settled(world: World, loop: Scheduler) -> None:
    for _ in range(3):
        loop.round()
        loop.pool.submit(int).result()
        world.time += 1
    loop.stop()
    loop.round(claims=False)


def test_a_run_that_died_with_its_scheduler_is_continued_under_its_own_name(world):
    tick = dead(world)
    settled(world, world.scheduler())

    assert [run.tick.run for run in world.begun] == [tick.run]
    assert world.begun[0].tick.attempts == 2


@pytest.mark.parametrize("code, status", [(0, "done"), (1, "failed"), (3, "refused")])
def test_a_run_that_ended_after_its_scheduler_is_written_down_and_not_run_again(world, code, status):
    tick = dead(world)
    world.store.write(f"runs/{tick.run}/run.json", json.dumps({"ended": 5.0, "code": code}).encode())
    settled(world, world.scheduler())

    assert world.begun == []
    assert world.ticks() == {tick.name: status}
    assert [hook for hook, _ in world.told] == [f"tell {'failure' if code else 'success'}"]


def test_an_interrupted_run_of_a_dead_scheduler_is_continued(world):
    tick = dead(world)
    world.store.write(f"runs/{tick.run}/run.json", json.dumps({"ended": 5.0, "code": 5}).encode())
    settled(world, world.scheduler())

    assert [run.tick.run for run in world.begun] == [tick.run]


def test_a_scheduler_that_died_before_it_told_people_leaves_that_to_the_next(world):
    dead(world, code=1, ended=START + 3650)
    settled(world, world.scheduler())

    assert world.begun == []
    assert [facts["code"] for _, facts in world.told] == [1]
    assert list(world.ticks().values()) == ["failed"]


def test_a_run_that_goes_on_after_its_scheduler_is_waited_for(world):
    tick = dead(world)
    words = [sys.executable, "-c", "import time; time.sleep(60)", "-m", "pipelines", "run"]
    process = subprocess.Popen(words, env={**os.environ, "RAYFIELD_RUN": tick.run})
    loop = world.scheduler()
    try:
        while orphan(tick.run, world.store) is None:  # until it has become another program
            time.sleep(0.01)
        loop.round()
        assert world.begun == [] and len(loop.held) == 1
        world.store.write(f"runs/{tick.run}/run.json", json.dumps({"ended": 5.0, "code": 1}).encode())
    finally:
        process.kill()
        process.wait()
    settled(world, loop)

    assert world.begun == []
    assert world.ticks() == {tick.name: "failed"}


def test_a_tick_of_a_living_scheduler_is_left_alone(world):
    world.add()
    world.seconds = 7200
    first, second = world.scheduler(), world.scheduler()
    world.until("2026-11-20T01:30", first)
    second.round()

    assert second.held == {} and len(world.begun) == 1


def test_what_was_taken_over_during_a_long_sleep_is_let_go(world):
    world.add()
    world.seconds = 7200
    loop = world.scheduler()
    world.until("2026-11-20T01:30", loop)
    world.store.write("leases/tick-toy-20261120T010000Z/1", json.dumps({**owner(), "until": 0}).encode())
    world.time += 60
    loop._renew()

    assert loop.held == {}
    assert world.begun[0].poll() == 5
    assert world.ticks() == {"20261120T010000Z": "running"}


def test_a_store_that_does_not_answer_for_a_while_costs_no_tick(world, monkeypatch):
    world.add()
    loop = world.scheduler()
    write = schedules.write
    failing = [True]

    def refuse(store: Store, tick: Tick) -> Tick:
        if failing[0]:
            raise OSError("the network is gone")
        return write(store, tick)

    monkeypatch.setattr(schedules, "write", refuse)
    world.until("2026-11-20T01:10", loop)
    assert world.begun == [] and loop.held == {}

    failing[0] = False
    world.until("2026-11-20T01:12", loop)
    assert world.ran() == ["20T0100"]
    assert len([line for line in world.said if "network is gone" in line]) == 1


# Its end


def test_what_runs_when_the_scheduler_ends_is_continued_by_the_next(world):
    world.add()
    world.seconds = 7200
    loop = world.scheduler()
    world.until("2026-11-20T01:30", loop)
    loop.stop()
    tick = schedules.tick(world.store, "toy", "20261120T010000Z")
    assert (tick.status, tick.code, tick.attempts) == ("queued", None, 0)

    world.scheduler().round()
    assert [run.tick.run for run in world.begun] == [tick.run] * 2


def test_once_carries_out_what_is_due_and_ends(world):
    world.add(catch_up="all")
    world.time = at("2026-11-20T03:30")
    world.scheduler().once()

    assert list(world.ticks().values()) == ["done", "done", "done"]


def test_forever_ends_when_it_is_asked_to_and_sleeps_until_what_is_due(world):
    world.add()
    loop = world.scheduler()

    def sleep(seconds: float) -> None:
        world.time += seconds
        loop.stopping = world.time > at("2026-11-20T02:00:30")

    loop.sleep = sleep
    loop.forever()

    assert world.ran() == ["20T0100", "20T0200"]
    assert [run.begins - START for run in world.begun] == [3600, 7200]


# Hooks


@pytest.mark.parametrize("code, hook", [(0, "tell success"), (1, "tell failure"), (3, "tell failure")])
def test_people_are_told_how_a_run_ended(world, code, hook):
    world.add(on_failure="tell failure", on_success="tell success")
    world.codes = [code]
    loop = world.scheduler()
    world.until("2026-11-20T01:00", loop)
    settled(world, loop)

    assert [name for name, _ in world.told] == [hook]
    facts = world.told[0][1]
    assert facts["code"] == code and facts["pipeline"] == "toy" and facts["tick"] == "20261120T010000Z"
    assert facts["run"] == world.begun[0].tick.run
    assert str(facts["run"]) in str(facts["text"])


def test_a_hook_that_fails_is_written_down_and_fails_nothing(world):
    world.add(on_success="tell")
    loop = world.scheduler()
    loop.tell = lambda *_: "nobody answered"
    world.until("2026-11-20T01:00", loop)
    settled(world, loop)
    tick = schedules.tick(world.store, "toy", "20261120T010000Z")

    assert (tick.status, tick.code, tick.told) == ("done", 0, "nobody answered")


def test_a_hook_that_takes_its_time_makes_no_tick_skip(world):
    world.add(trigger=Every(60, int(START)), overlap="skip", on_success="tell")
    gate = threading.Event()
    loop = world.scheduler()
    loop.tell = lambda *_: "" if gate.wait() else ""
    try:
        world.until("2026-11-20T00:03", loop, step=30)
    finally:
        gate.set()
    settled(world, loop)

    assert set(world.ticks().values()) == {"done"}


# A source that changes


class Scans(Source):
    """A source that the test changes."""

    now = "a"

    def digest(self) -> str:
        if Scans.now == "gone":
            raise DataError("scans are not there")
        return Scans.now * 32


@pytest.fixture
def scans(monkeypatch, world) -> World:
    import components.source

    monkeypatch.setattr(components.source, "find", lambda name, settings: Scans())
    monkeypatch.setattr(Scans, "now", "a")
    world.add(trigger=Change((("scans", {}),), 60, "a" * 32))
    return world


def show(world: World, loop: Scheduler, what: str, minutes: int = 3) -> None:
    Scans.now = what
    for _ in range(minutes):
        world.time += 60
        loop.round()


def test_a_change_runs_once_and_what_was_there_at_first_does_not(scans):
    loop = scans.scheduler()
    for what in ("a", "b", "b", "c", "b", "a"):
        show(scans, loop, what)

    assert [run.tick.name[0] for run in scans.begun] == ["b", "c"]


def test_two_schedulers_see_a_change_once(scans):
    first, second = scans.scheduler(), scans.scheduler()
    for _ in range(3):
        show(scans, first, "b", 1)
        show(scans, second, "b", 1)

    assert len(scans.begun) == 1


def test_a_change_during_a_run_is_seen_afterwards(scans):
    loop = scans.scheduler()
    scans.seconds = 600
    show(scans, loop, "b")
    show(scans, loop, "c")
    assert len(scans.begun) == 1

    show(scans, loop, "c", 12)
    assert [run.tick.name[0] for run in scans.begun] == ["b", "c"]
    assert "skipped" not in scans.ticks().values()


def test_a_source_that_is_gone_for_a_while_ends_nothing(scans):
    loop = scans.scheduler()
    show(scans, loop, "gone")
    show(scans, loop, "b")

    assert [run.tick.name[0] for run in scans.begun] == ["b"]
    assert len([line for line in scans.said if "not there" in line]) == 1


# The command line, with real processes

TOY = '''
from pipelines.engine.pipeline import pipeline
from tests.pipelines.engine.toys import number


@pipeline
def toy(value: int = 1):
    """A toy."""
    number(value)
'''


def rayfield(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "toy.py"
    path.write_text(TOY)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    yield str(path)
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])


def test_cron_needs_a_time_zone_and_one_trigger_is_enough(toy):
    for words in (["--cron", "0 2 * * *"], ["--timezone", "UTC"], [], ["--every", "1h", "--on-change"]):
        result = rayfield("schedule", "add", "nightly", toy, *words)

        assert result.exit_code == 2 and result.stderr.startswith("rayfield: ")


@pytest.mark.parametrize("words", [["--valeu", "3"], ["--value", "three"]])
def test_a_parameter_that_would_not_do_is_told_when_it_is_added(toy, words):
    assert rayfield("schedule", "add", "nightly", toy, "--every", "1h", *words).exit_code == 2
    assert rayfield("schedule", "list", "--json").stdout == "[]\n"


@pytest.mark.parametrize(
    "words",
    [
        ["--on-failure", "https://hooks.example/services/planted-1"],
        ["--on-success", "https://hooks.example/?hook=planted-1"],
        ["--on-failure", "curl -H 'Authorization: Bearer planted-1' https://hooks.example"],
        ["--address", "http://me:planted-1@head:8265"],
        ["--set", "pointnet.lr=planted-by-name"],
        ["--store", "memory://me:planted-1@bucket/rayfield"],
    ],
    ids=["a path", "a query", "a command", "a cluster", "a field", "a store"],
)
def test_a_secret_is_refused_before_a_schedule_is_kept(toy, own_store, monkeypatch, words):
    monkeypatch.setenv("MY_TOKEN", "planted-by-name")
    result = rayfield("schedule", "add", "nightly", toy, "--every", "1h", *words)

    assert result.exit_code == 2
    assert result.stderr.startswith(f"rayfield: {words[0]} ") and len(result.stderr.splitlines()) == 1
    assert "planted" not in result.stderr
    assert not any("planted" in path.read_text() for path in own_store.rglob("*.json"))


@pytest.mark.parametrize(
    "hook", ["$SLACK_HOOK", "https://hooks.example", "https://hooks.example/$KEY", "mail -s bad me"]
)
def test_a_hook_without_a_secret_is_kept(toy, hook):
    assert rayfield("schedule", "add", "nightly", toy, "--every", "1h", "--on-failure", hook).exit_code == 0


def test_a_secret_that_is_kept_already_is_not_listed(world):
    world.add(words=("--root", "s3://me:planted-1@b"), address="http://me:planted-1@h", on_failure="Bearer planted-1")

    assert "planted" not in rayfield("schedule", "list", "--json").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "pointnet.nope=3"], "no field 'nope'"),
        (["--set", "pointnet.lr=garbage"], "must be a number, but got 'garbage'"),
        (["--set", "pointnett.lr=1"], "Did you mean 'pointnet'?"),
        (["--set", "pointnet.lr=1"], "met no pointnet"),
    ],
)
def test_a_field_that_would_not_do_is_told_when_it_is_added(toy, words, message):
    result = rayfield("schedule", "add", "nightly", toy, "--every", "1h", *words)

    assert result.exit_code == 2 and message in result.stderr
    assert rayfield("schedule", "list", "--json").stdout == "[]\n"


def test_data_that_are_not_there_yet_keep_no_schedule_from_being_added(tmp_path):
    words = ["--every", "1h", "--source", "folder", "--root", f"{tmp_path}/{{date}}", "--set", "pointnet.lr=1e-3"]

    assert rayfield("schedule", "add", "nightly", "classify", *words).exit_code == 0


def test_an_interval_beyond_the_calendar_is_refused_before_it_is_kept(toy):
    result = rayfield("schedule", "add", "rare", toy, "--every", "99999999w")

    assert result.exit_code == 2 and "A duration is at most 3650d" in result.stderr
    assert rayfield("schedule", "list", "--json").stdout == "[]\n"


def test_a_schedule_that_cannot_be_read_hides_no_other(world, own_store):
    world.add()
    world.add(name="rare", trigger=Every(99999999 * 604800, 0))
    (own_store / "schedules" / "torn.json").write_text("{}")
    (own_store / "schedules" / "empty.json").write_text("")
    rows = {row["name"]: row["when"] for row in json.loads(rayfield("schedule", "list", "--json").stdout)}

    assert set(rows) == {"toy", "rare", "torn", "empty"}
    assert [name for name, when in rows.items() if "cannot be read" in when] == ["empty", "rare", "torn"]
    assert rayfield("schedule", "list").exit_code == 0


def test_a_day_that_is_filled_in_to_is_filled_in_whole(toy):
    rayfield("schedule", "add", "nightly", toy, "--cron", "0 2 * * *", "--timezone", "Europe/Berlin")
    period = ["--from", "2026-03-28", "--to", "2026-03-30"]
    dry = rayfield("schedule", "backfill", "nightly", *period, "--dry-run", "--json")

    assert json.loads(dry.stdout) == ["20260328T010000Z", "20260329T010000Z", "20260330T000000Z"]


def test_a_period_that_ends_before_it_begins_is_refused(toy):
    rayfield("schedule", "add", "nightly", toy, "--every", "1h")
    result = rayfield("schedule", "backfill", "nightly", "--from", "2026-03-30", "--to", "2026-03-28")

    assert result.exit_code == 2 and "--from comes before --to" in result.stderr


def test_on_change_needs_a_source(toy):
    result = rayfield("schedule", "add", "fresh", toy, "--on-change")

    assert result.exit_code == 2 and "'toy' has none" in result.stderr


def test_on_change_looks_at_the_sources_of_the_pipeline(tmp_path, own_store):
    (tmp_path / "scans").mkdir()
    words = ["--on-change", "--source", "folder", "--root", str(tmp_path / "scans")]
    assert rayfield("schedule", "add", "fresh", "classify", *words).exit_code == 0
    trigger = schedules.find(Store(str(own_store)), "fresh").trigger

    assert trigger.sources == (("folder", {"root": str(tmp_path / "scans")}),)


def test_the_life_of_a_schedule(toy, monkeypatch):
    """Added, listed, paused, resumed, run, filled in, looked at, removed; the hook's secret is nowhere shown."""
    monkeypatch.setenv("MY_HOOK", "http://127.0.0.1:9/secret")
    monkeypatch.setattr(notifications, "TRIES", 1)
    words = ["--cron", "0 2 * * *", "--timezone", "Europe/Berlin", "--value", "3", "--on-failure", "$MY_HOOK"]
    assert rayfield("schedule", "add", "nightly", toy, *words).exit_code == 0
    (row,) = json.loads(rayfield("schedule", "list", "--json").stdout)
    assert (row["words"], row["when"], row["paused"]) == (["--value", "3"], "0 2 * * * Europe/Berlin", False)
    assert row["next"].endswith(("02:00 CET", "02:00 CEST")) and "secret" not in json.dumps(row)

    assert rayfield("schedule", "pause", "nightly").exit_code == 0
    assert json.loads(rayfield("schedule", "list", "--json").stdout)[0]["paused"]
    assert rayfield("schedule", "resume", "nightly").exit_code == 0
    assert rayfield("schedule", "resume", "nightly").exit_code == 2

    started: list[Tick] = []

    class Ended:
        def poll(self) -> int:
            return 3

        def terminate(self) -> None: ...

    monkeypatch.setattr(module, "run", lambda schedule, tick, store: started.append(tick) or Ended())
    monkeypatch.setattr(module, "BUSY", 0.01)
    assert rayfield("schedule", "run-now", "nightly").exit_code == 3
    period = ["--from", "2026-03-28", "--to", "2026-03-30"]
    dry = rayfield("schedule", "backfill", "nightly", *period, "--dry-run", "--json")
    assert json.loads(dry.stdout) == ["20260328T010000Z", "20260329T010000Z", "20260330T000000Z"]
    assert len(started) == 1
    assert rayfield("schedule", "backfill", "nightly", *period).exit_code == 3
    assert "0 of 3" in rayfield("schedule", "backfill", "nightly", *period).stdout
    assert [tick.due for tick in started[1:]] == sorted(tick.due for tick in started[1:])

    rows = json.loads(rayfield("schedule", "history", "nightly", "--json").stdout)
    assert [row["status"] for row in rows] == ["refused"] * 4
    assert "refused" in rayfield("schedule", "history", "nightly").stdout
    assert rayfield("schedule", "remove", "nightly").exit_code == 0
    assert rayfield("schedule", "history", "nightly").exit_code == 2


def test_a_paused_schedule_runs_when_somebody_asks(world, toy, monkeypatch):
    world.add(paused=True)
    monkeypatch.setattr(module, "run", lambda schedule, tick, store: subprocess.Popen(["/bin/true"]))
    monkeypatch.setattr(module, "BUSY", 0.01)

    assert rayfield("schedule", "run-now", "toy").exit_code == 0
    assert list(world.ticks().values()) == ["done"]


def test_what_is_not_over_is_removed_by_force_alone(toy):
    rayfield("schedule", "add", "nightly", toy, "--every", "1h")
    assert rayfield("schedule", "run-now", "nightly", "--no-wait").exit_code == 0

    assert rayfield("schedule", "run-now", "nightly", "--no-wait").exit_code == 2  # skip: the first waits
    assert rayfield("schedule", "remove", "nightly").exit_code == 2
    assert rayfield("schedule", "remove", "nightly", "--force").exit_code == 0


LOOP = """
import subprocess, sys, time
from pipelines.engine.scheduling.daemon import Scheduler
from pipelines.engine.store.store import Store

def start(schedule, tick, store):
    with open(sys.argv[2], "a") as stream:
        stream.write(tick.name + "\\n")
    return subprocess.Popen([sys.executable, "-c", ""])

loop = Scheduler(Store(sys.argv[1]), start=start)
print("ready", flush=True)
sys.stdin.readline()
loop.once()
"""


def test_two_schedulers_of_two_processes_run_each_tick_once(world, tmp_path):
    world.add(
        trigger=Every(600, int(time.time()) - 6000), since=int(time.time()) - 6000, catch_up="all", overlap="queue"
    )
    words = [sys.executable, "-c", LOOP, world.store.address, str(tmp_path / "ran")]
    loops = [subprocess.Popen(words, cwd=ROOT, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    for loop in loops:
        assert loop.stdout.readline() == "ready\n"
    for loop in loops:
        loop.stdin.write("go\n")
        loop.stdin.flush()
    for loop in loops:
        loop.communicate()

    ran = (tmp_path / "ran").read_text().split()
    assert len(ran) == 10 and sorted(set(ran)) == sorted(ran)
    assert set(world.ticks().values()) == {"done"}


def test_the_daemon_runs_what_is_due_and_ends_with_sigterm(world, tmp_path):
    """A real `rayfield scheduler` and a real `rayfield run`; the pipeline is one that ends with a usage error."""
    (tmp_path / "toy.py").write_text(TOY)
    now = int(time.time())
    world.add(
        pipeline=str(tmp_path / "toy.py"),
        words=("--valeu", "3"),
        folder=str(tmp_path),
        trigger=Every(5, now - 3),
        since=now,
        overlap="queue",
        on_failure=f"echo $RAYFIELD_CODE $RAYFIELD_RUN > {tmp_path}/told",
    )
    words = [sys.executable, "-m", "pipelines", "scheduler"]
    environment = {**os.environ, "RAYFIELD_STORE": world.store.address}
    daemon = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    for line in daemon.stderr:
        if "exit code 2" in line:
            break
    daemon.send_signal(signal.SIGTERM)
    _, left = daemon.communicate()
    ended = [tick for tick in schedules.history(world.store, "toy") if tick.code is not None]

    assert daemon.returncode == 0 and "Traceback" not in left
    assert ended[0].status == "failed" and ended[0].told == ""
    assert (tmp_path / "told").read_text().split()[0] == "2"
    assert schedules.tick(world.store, "toy", ended[0].name).run == ended[0].run

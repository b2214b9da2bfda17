"""
When things are due: time zones through both clock changes, late ticks by each policy, names, and the book.
"""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from components.errors import UsageError
from pipelines.engine.scheduling import schedules
from pipelines.engine.scheduling.schedules import Schedule, due
from pipelines.engine.scheduling.triggers import (
    Change,
    Cron,
    Every,
    between,
    cron,
    end_of,
    moment_of,
    seconds_of,
    spelled,
    stamp,
    time_of,
)
from pipelines.engine.store.store import Store

BERLIN = "Europe/Berlin"


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def utc(trigger: Cron | Every, start: str, end: str) -> list[str]:
    return [f"{datetime.fromtimestamp(m, UTC):%d %H:%M}" for m in between(trigger, at(start), at(end))]


def hourly(**fields: object) -> Schedule:
    start = int(at("2026-11-20T00:00"))
    given = {"pipeline": "toy", "words": (), "folder": "/", "created": start, "since": start, **fields}
    return Schedule(**{"name": "toy", "trigger": cron("0 * * * *", "UTC"), **given})


@pytest.fixture
def store(own_store) -> Store:
    return Store(str(own_store))


# Clock changes: Berlin leaves out 02:00-03:00 on 29 March 2026, and has it twice on 25 October 2026


def test_a_local_time_that_spring_leaves_out_runs_once_at_the_next_moment():
    found = utc(cron("30 2 * * *", BERLIN), "2026-03-28T00:00", "2026-03-30T12:00")

    assert found == ["28 01:30", "29 01:00", "30 00:30"]


def test_a_local_time_that_autumn_repeats_runs_once():
    found = utc(cron("30 2 * * *", BERLIN), "2026-10-24T00:00", "2026-10-26T12:00")

    assert found == ["24 00:30", "25 00:30", "26 01:30"]


@pytest.mark.parametrize("start", ["2026-10-25T00:31", "2026-10-25T01:00", "2026-10-25T01:29", "2026-10-25T01:31"])
def test_it_runs_once_even_if_the_search_begins_in_the_repeated_hour(start):
    """01:10 UTC is 02:10 for the second time: half past two has been."""
    assert utc(cron("30 2 * * *", BERLIN), start, "2026-10-26T12:00") == ["26 01:30"]


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_what_runs_every_hour_follows_the_real_time_through_both_changes(day):
    found = utc(cron("30 * * * *", BERLIN), f"{day}T00:00", f"{day}T06:00")

    assert found == [f"{day[-2:]} {hour:02d}:30" for hour in range(6)]


@pytest.mark.parametrize("line", ["15 */2 * * *", "15 0-23/2 * * *", "15 0,2,4 * * *"])
def test_what_runs_every_two_hours_runs_once_in_the_hour_that_autumn_repeats(line):
    found = utc(cron(line, BERLIN), "2026-10-24T21:30", "2026-10-25T04:00")

    assert found == ["24 22:15", "25 00:15", "25 03:15"]


def test_and_at_the_next_moment_where_spring_leaves_its_hour_out():
    assert utc(cron("15 */2 * * *", BERLIN), "2026-03-28T22:30", "2026-03-29T03:00") == [
        "28 23:15",
        "29 01:00",
        "29 02:15",
    ]


def test_every_minute_of_one_hour_runs_once():
    found = utc(cron("*/20 2 * * *", BERLIN), "2026-10-25T00:00", "2026-10-25T06:00")

    assert found == ["25 00:20", "25 00:40"]


@pytest.mark.parametrize("line", ["*/20 * * * *", "0,20,40 0-23 * * *", "*/20 */1 * * *"])
@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_what_runs_oftener_than_every_hour_follows_the_real_time(line, day):
    assert len(utc(cron(line, BERLIN), f"{day}T00:01", f"{day}T06:01")) == 18


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_no_tick_comes_twice_however_the_search_is_cut(day):
    """A scheduler begins a search at every moment: together they find what one search does."""
    trigger = cron("0,30 1-3 * * *", BERLIN)
    whole = list(between(trigger, at(f"{day}T00:00") - 7200, at(f"{day}T06:00")))
    pieces = [
        found
        for minute in range(-120, 360)
        for found in between(trigger, at(f"{day}T00:00") + 60 * minute, at(f"{day}T00:00") + 60 * (minute + 1))
    ]

    assert pieces == whole == sorted(set(whole))


# Intervals


def test_an_interval_is_counted_from_when_the_schedule_was_made():
    trigger = Every(3600, int(at("2026-11-20T00:10")))

    assert utc(trigger, "2026-11-20T00:10", "2026-11-20T02:30") == ["20 01:10", "20 02:10"]
    assert utc(trigger, "2026-11-20T01:10", "2026-11-20T02:10") == ["20 02:10"]


def test_an_interval_has_no_tick_before_the_schedule_was_made():
    assert utc(Every(3600, int(at("2026-11-20T00:00"))), "2026-11-19T00:00", "2026-11-20T01:00") == ["20 01:00"]


# What is due, three days late


def asleep(policy: str) -> schedules.Due:
    """Hourly, claimed until 09:00 on the 20th, looked at again at 08:30 three days later: 71 ticks."""
    claimed = [stamp(at(f"2026-11-20T{hour:02d}:00")) for hour in range(1, 10)]
    return due(hourly(catch_up=policy), claimed, at("2026-11-23T08:30"))


def test_three_days_asleep_with_none_runs_nothing():
    found = asleep("none")

    assert (found.now, found.made_up, len(found.missed)) == ((), (), 71)
    assert found.missed[0] == at("2026-11-20T10:00")


def test_three_days_asleep_with_last_runs_the_latest():
    found = asleep("last")

    assert (found.now, found.made_up) == ((), (at("2026-11-23T08:00"),))
    assert (len(found.missed), found.missed[-1]) == (70, at("2026-11-23T07:00"))


def test_three_days_asleep_with_all_runs_each_in_order():
    found = asleep("all")

    assert (found.now, len(found.made_up), found.missed) == ((), 71, ())
    assert list(found.made_up) == sorted(found.made_up)


@pytest.mark.parametrize("policy", ["none", "last"])
def test_a_tick_that_is_on_time_stands_for_the_late_ones(policy):
    found = due(hourly(catch_up=policy), [stamp(at("2026-11-20T01:00"))], at("2026-11-20T04:00") + 5)

    assert (found.now, found.made_up) == ((at("2026-11-20T04:00"),), ())
    assert found.missed == (at("2026-11-20T02:00"), at("2026-11-20T03:00"))


def test_grace_says_what_is_late():
    moment = at("2026-11-20T01:00") + 300

    assert due(hourly(catch_up="none"), [], moment).now == ()
    assert due(hourly(catch_up="none", grace=600), [], moment).now == (at("2026-11-20T01:00"),)


def test_nothing_before_a_schedule_was_resumed_is_due():
    schedule = hourly(catch_up="all", since=int(at("2026-11-20T05:30")))

    assert due(schedule, [], at("2026-11-20T06:00")) == schedules.Due((at("2026-11-20T06:00"),), (), ())


def test_a_tick_claimed_in_what_is_the_future_again_hides_none_before_it():
    claimed = [stamp(at("2026-11-20T01:00")), stamp(at("2026-11-29T01:00"))]

    assert due(hourly(), claimed, at("2026-11-20T02:00")).now == (at("2026-11-20T02:00"),)


# Words


def test_durations_are_read_and_written():
    assert [seconds_of(t) for t in ("90s", "15m", "6h", "1d", "2w")] == [90, 900, 21600, 86400, 1209600]
    assert [spelled(seconds_of(t)) for t in ("90s", "60m", "36h", "7d")] == ["90s", "1h", "36h", "1w"]


@pytest.mark.parametrize("text", ["", "5", "0s", "-1h", "1.5h", "1 fortnight"])
def test_a_duration_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="For example 15m or 6h"):
        seconds_of(text)


@pytest.mark.parametrize("text", ["3651d", "99999999w", "9" * 5000 + "s"], ids=["days", "weeks", "digits"])
def test_a_duration_beyond_the_calendar_is_refused(text):
    with pytest.raises(UsageError, match="at most 3650d"):
        seconds_of(text)


def test_a_day_ends_with_its_last_second_and_a_time_with_itself():
    assert end_of("2026-10-25", BERLIN) == at("2026-10-25T22:59:59")
    assert end_of("2026-10-25T02:00", "UTC") == at("2026-10-25T02:00")
    assert end_of("9999-12-31", "UTC") == at("9999-12-31T23:59:59")


def test_a_time_zone_that_is_none_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'Europe/Berlin'"):
        cron("0 2 * * *", "Europe/Berlln")


@pytest.mark.parametrize("line", ["", "0 2 * *", "61 2 * * *", "0 2 31 2 *", "0 0 2 * * *", "@daily"])
def test_a_cron_line_that_never_comes_is_refused(line):
    with pytest.raises(UsageError, match=r"For example '0 2 \* \* \*'"):
        cron(line, "UTC")


def test_a_time_without_an_offset_is_of_the_schedules_zone():
    assert moment_of("2026-11-23T02:00", BERLIN) == at("2026-11-23T01:00")
    assert moment_of("2026-11-23T02:00+00:00", BERLIN) == at("2026-11-23T02:00")


def test_a_tick_is_named_by_its_time_and_only_such_names_are_times():
    moment = at("2026-11-23T02:00")

    assert stamp(moment) == "20261123T020000Z"
    assert time_of("20261123T020000Z") == moment
    assert [time_of(n) for n in ("20261123T020000Z-now", "20261123T020000Z-backfill", "ab" * 16)] == [None] * 3


# The book


@pytest.mark.parametrize(
    "trigger",
    [Cron("0 2 * * *", BERLIN), Every(60, 5), Change((("folder", {"root": "x"}),), 60, "ab")],
)
def test_a_schedule_is_read_as_it_was_written(store, trigger):
    kept = hourly(trigger=trigger, words=("--root", "x"), on_failure="true")
    schedules.add(store, kept)

    assert schedules.find(store, "toy") == kept
    assert schedules.names(store) == ["toy"]


def test_a_name_is_taken_once(store):
    schedules.add(store, hourly())

    with pytest.raises(UsageError, match="rayfield schedule remove toy"):
        schedules.add(store, hourly())


@pytest.mark.parametrize("name", ["", "Nightly", "a/b", "../x", "a b", "-a", "x" * 61])
def test_a_name_that_is_no_file_name_is_refused(store, name):
    with pytest.raises(UsageError, match="For example nightly"):
        schedules.add(store, hourly(name=name))


def test_a_schedule_that_is_not_there_is_answered_with_the_nearest(store):
    schedules.add(store, hourly(name="nightly"))

    with pytest.raises(UsageError, match="Did you mean 'nightly'"):
        schedules.find(store, "nigthly")


def test_removing_a_schedule_removes_its_ticks(store):
    schedules.add(store, hourly())
    schedules.claim(store, schedules.new_tick(hourly(), at("2026-11-20T01:00"), 0, "done"))
    schedules.remove(store, hourly())

    assert schedules.names(store) == []
    assert schedules.tick_names(store, "toy") == []


def test_words_may_hold_the_ticks_own_day_and_time():
    schedule = hourly(trigger=cron("0 0 * * *", BERLIN), words=("--day", "{date}", "--at={tick}"))
    tick = schedules.new_tick(schedule, at("2026-11-22T23:00"), at("2026-11-25T00:00"), "queued")

    assert schedule.command(tick) == ["run", "toy", "--day", "2026-11-23", "--at=20261122T230000Z"]


def test_with_an_address_it_is_submitted():
    schedule = hourly(address="http://ray:8265")
    tick = schedules.new_tick(schedule, 0, 0, "queued")

    assert schedule.command(tick) == ["submit", "toy", "--address", "http://ray:8265"]


def test_a_run_is_named_by_its_schedule_and_tick():
    first, second = (schedules.new_tick(hourly(), moment, at("2026-11-23T02:00"), "queued") for moment in (0, 3600))

    assert first.run.startswith("20261123-020000-toy-")
    assert first.run != second.run


def test_only_ticks_that_never_ran_are_filled_in(store):
    schedule = hourly()
    moments = [at(f"2026-11-20T0{hour}:00") for hour in range(5)]
    for moment, status in zip(moments, ("done", "failed", "missed", "skipped"), strict=False):
        schedules.claim(store, schedules.new_tick(schedule, moment, moment, status))
    found = [schedules.filled_in(store, schedule, moment, moments[-1]) for moment in moments]

    assert [t and t.name for t in found] == [
        None,
        None,
        "20261120T020000Z-backfill",
        "20261120T030000Z-backfill",
        "20261120T040000Z",
    ]
    for tick in filter(None, found):
        assert tick.late and schedules.claim(store, replace(tick, status="done"))
    assert [schedules.filled_in(store, schedule, moment, moments[-1]) for moment in moments] == [None] * 5


def test_two_ticks_asked_for_in_one_second_have_two_names():
    names: list[str] = []
    for _ in range(3):
        names.append(schedules.asked_for(hourly(), names, at("2026-11-20T00:00")).name)

    assert names == ["20261120T000000Z-now", "20261120T000000Z-now1", "20261120T000000Z-now2"]

"""
`rayfield schedule`: what runs by itself, and when.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from components.errors import UsageError
from pipelines.cli.hints import with_store
from pipelines.cli.main import JSON, OPEN, SETS, STORE, request_of, store_at

SECTION = "Schedule"
WAIT = click.option("--no-wait", is_flag=True, help="Leave it to `rayfield scheduler`")
NAME = click.argument("name")


@click.group()
def schedule() -> None:
    """Run pipelines by themselves: by cron, at intervals, or when a source changes. `rayfield scheduler` runs them."""


@schedule.command(context_settings=OPEN)
@NAME
@click.argument("pipeline")
@click.option("--cron", metavar="LINE", help="Minute, hour, day, month, weekday; with --timezone")
@click.option("--timezone", metavar="ZONE", help="An IANA name, such as Europe/Berlin or UTC")
@click.option("--every", metavar="TIME", help="An interval from now on: 90s, 15m, 6h, 1d")
@click.option("--on-change", is_flag=True, help="When the contents of the pipeline's sources change")
@click.option("--look", metavar="TIME", default="60s", help="With --on-change: how often to look [60s]")
@click.option(
    "--overlap",
    type=click.Choice(["skip", "queue", "cancel"]),
    default="skip",
    help="When the run before is not over: skip this one, let it wait, or interrupt the one before [skip]",
)
@click.option(
    "--catch-up",
    type=click.Choice(["none", "last", "all"]),
    default="last",
    help="What to run of the times at which no scheduler was there [last]",
)
@click.option("--grace", metavar="TIME", default="60s", help="How late is still on time [60s]")
@click.option(
    "--on-failure", metavar="COMMAND|URL", default="", help="Told when a run fails; $NAME stays out of the store"
)
@click.option("--on-success", metavar="COMMAND|URL", default="", help="Told when a run is done")
@click.option("--address", metavar="URL", default="", help="Submit to this Ray cluster instead of running here")
@SETS
@STORE
@click.pass_context
def add(ctx: click.Context, name: str, pipeline: str, sets: tuple[str, ...], store: str, **given: Any) -> None:
    """
    Let PIPELINE run by itself, with the parameters that follow.

    In a parameter {date} stands for the tick's day, and {tick} for its UTC time.

    \b
      rayfield schedule add nightly classify --cron "0 2 * * *" --timezone Europe/Berlin
      rayfield schedule add fresh classify --on-change --source folder --root scans
    """
    place, now = store_at(store), int(time.time())
    from pipelines.engine.scheduling import schedules
    from pipelines.engine.scheduling.triggers import seconds_of

    _no_secrets(given)
    _check(_at_a_tick(pipeline, ctx.args, sets))
    request = request_of(pipeline, ctx.args, sets)
    made = schedules.Schedule(
        name,
        str(request.pipeline) if pipeline.endswith(".py") else pipeline,
        (*ctx.args, *(word for text in sets for word in ("--set", text))),
        _trigger(request, given, now),
        os.getcwd(),
        created=now,
        since=now,
        grace=seconds_of(given["grace"]),
        **{n: given[n] for n in ("overlap", "catch_up", "on_failure", "on_success", "address")},
    )
    coming = schedules.following(made, now, 3)
    schedules.add(place, made)
    click.echo(f"  {name}: {request.name} {made.trigger.words()}")
    for moment in coming:
        click.echo(f"    {_local(made, moment)}   {datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC")
    click.echo(with_store("  It runs while a `rayfield scheduler` does."), err=True)


def _no_secrets(given: dict[str, Any]) -> None:
    """A schedule is kept in the store as it was typed, and listed to whoever reads that."""
    from components.runtime.redaction import refuse
    from pipelines.engine.scheduling import notifications

    for name in ("on_failure", "on_success"):
        notifications.check(given[name], name)
    refuse("--address", given["address"], "Set RAY_AUTH_TOKEN where the scheduler runs, or name the user in ~/.netrc.")


def _at_a_tick(pipeline: str, words: list[str], sets: tuple[str, ...]) -> Any:
    """The request of a run at this moment."""
    from pipelines.engine.scheduling.schedules import filled
    from pipelines.engine.scheduling.triggers import stamp

    now = datetime.now(UTC)
    stands = {"{date}": f"{now:%Y-%m-%d}", "{tick}": stamp(now.timestamp())}
    return request_of(pipeline, [filled(w, stands) for w in words], [filled(w, stands) for w in sets])


def _check(request: Any) -> None:
    """Draws the pipeline as a run would: a wrong name is told now, and not at two in the morning."""
    from components.errors import DataError
    from components.family import called, read_field
    from components.runtime.user_code import importing
    from pipelines.engine import pipeline
    from pipelines.engine.graph.tracing import draw

    with importing(*request.own):
        function = pipeline.load(request.pipeline)
        values = pipeline.values(function, request.texts, request.source)
        for family, fields in request.settings.items():
            for name, text in fields.items():
                read_field(called(family), name, text)
        with suppress(DataError, OSError):  # data may come by the time of the first tick; a wrong name may not
            draw(function, values, request.settings)


def _trigger(request: Any, given: dict[str, Any], now: int) -> Any:
    from pipelines.engine.scheduling.triggers import Every, cron, seconds_of

    if sum(bool(given[n]) for n in ("cron", "every", "on_change")) != 1:
        raise UsageError("A schedule has one of --cron, --every and --on-change. For example --every 6h.")
    if bool(given["cron"]) != bool(given["timezone"]):
        raise UsageError(
            "--cron and --timezone go together: two in the morning is another moment in every zone. "
            "For example --timezone Europe/Berlin, or UTC."
        )
    if given["cron"]:
        return cron(given["cron"], given["timezone"])
    if given["every"]:
        return Every(seconds_of(given["every"]), now)
    return _change(request, seconds_of(given["look"]))


def _change(request: Any, seconds: int) -> Any:
    """Looks at the sources that the pipeline would read; what they hold now is not a change."""
    from components.errors import DataError
    from pipelines.engine.scheduling.triggers import Change

    change = Change(tuple(_sources(request)), seconds, "")
    if not change.sources:
        raise UsageError(f"--on-change looks at a pipeline's sources, but {request.name!r} has none. Use --every.")
    try:
        return Change(change.sources, seconds, change.digest())
    except (DataError, OSError):  # not there yet: its first contents are a change
        return change


def _sources(request: Any) -> Iterator[tuple[str, dict[str, str]]]:
    from components.source import worded
    from pipelines.engine.pipeline import options, sketch

    for parameter in sketch(request.pipeline).parameters:
        if parameter.annotation.rpartition(".")[2] == "Source":
            word, more = worded(request.texts.get(parameter.name, parameter.default))
            yield word, {**options(more), **request.source}


@schedule.command("list")
@STORE
@JSON
def list_(store: str, as_json: bool) -> None:
    """List the schedules: when each runs next, and how it ended last."""
    place = store_at(store)
    from pipelines.engine.scheduling import schedules

    rows = [_row_of(place, name) for name in schedules.names(place)]
    if as_json:
        return click.echo(json.dumps(rows, indent=1))
    for row in rows:
        coming = "paused" if row["paused"] else row["next"] or ""
        click.echo(
            f"  {row['name']:<16} {row['pipeline']:<14} {row['when']:<32} next {coming:<24} last {row['last'] or '-'}"
        )
    if not rows:
        click.echo(with_store("  No schedule yet: `rayfield schedule add --help`."), err=True)


def _row_of(place: Any, name: str) -> dict[str, Any]:
    """A schedule as it is listed; one that cannot be read hides no other."""
    from pipelines.engine.scheduling import schedules

    try:
        return _row(place, schedules.find(place, name))
    except (UsageError, ValueError, TypeError, LookupError, OverflowError) as error:
        why = f"cannot be read: {' '.join(str(error).split())}"
        return {"name": name, "pipeline": "", "when": why, "next": None, "last": None, "paused": False}


def _row(place: Any, one: Any) -> dict[str, Any]:
    from components.runtime.redaction import redacted
    from pipelines.engine.scheduling import schedules
    from pipelines.engine.scheduling.notifications import shown

    ticks = [tick for tick in schedules.history(place, one.name) if tick.run]
    coming = schedules.following(one, time.time())
    return {
        "name": one.name,
        "pipeline": Path(one.pipeline).stem,
        "words": redacted(one.words),
        "when": one.trigger.words(),
        "next": _local(one, coming[0]) if coming else None,
        "last": ticks[-1].status if ticks else None,
        "run": ticks[-1].run if ticks else None,
        **{n: redacted(getattr(one, n)) for n in ("overlap", "catch_up", "grace", "address", "paused")},
        **{n: shown(getattr(one, n)) for n in ("on_failure", "on_success")},
    }


def _local(one: Any, moment: float) -> str:
    zone = ZoneInfo(getattr(one.trigger, "zone", "UTC"))
    return f"{datetime.fromtimestamp(moment, zone):%Y-%m-%d %H:%M %Z}"


@schedule.command()
@NAME
@STORE
def pause(name: str, store: str) -> None:
    """Let NAME run no more, until it is resumed; what runs goes on."""
    place = store_at(store)
    from pipelines.engine.scheduling import schedules

    schedules.change(place, schedules.find(place, name), paused=True)
    click.echo(with_store(f"  {name} is paused. `rayfield schedule resume {name}` goes on."))


@schedule.command()
@NAME
@STORE
def resume(name: str, store: str) -> None:
    """Let NAME run again; what it would have run meanwhile is for `backfill`."""
    place = store_at(store)
    from pipelines.engine.scheduling import schedules

    held = schedules.find(place, name)
    if not held.paused:
        raise UsageError(f"Schedule {name!r} is not paused.")
    schedules.change(place, held, paused=False, since=int(time.time()))
    click.echo(f"  {name} goes on.")


@schedule.command("run-now")
@NAME
@WAIT
@STORE
@click.pass_context
def run_now(ctx: click.Context, name: str, no_wait: bool, store: str) -> None:
    """Run NAME once, now, and end as its run does."""
    place = store_at(store)
    from pipelines.engine.scheduling import schedules
    from pipelines.engine.scheduling.daemon import Scheduler

    held = schedules.find(place, name)
    tick = schedules.asked_for(held, schedules.tick_names(place, name), int(time.time()))
    Scheduler(place).claim(held, tick)
    found = schedules.tick(place, name, tick.name)
    if found is None or not found.open:
        raise UsageError(f"Schedule {name!r} is at work: {found.why if found else 'it is gone'}. Wait for its end.")
    ctx.exit(_wait(place, [tick], no_wait))


@schedule.command()
@NAME
@click.option("--from", "start", required=True, metavar="TIME", help="The first day or time, in the schedule's zone")
@click.option("--to", "end", required=True, metavar="TIME", help="The last; a day is part of it")
@click.option("--dry-run", is_flag=True, help="Show which ticks and stop")
@WAIT
@STORE
@JSON
@click.pass_context
def backfill(
    ctx: click.Context, name: str, start: str, end: str, dry_run: bool, no_wait: bool, store: str, as_json: bool
) -> None:
    """Run the past ticks of NAME that never ran, one after the other."""
    place, now = store_at(store), int(time.time())
    from pipelines.engine.scheduling import schedules
    from pipelines.engine.scheduling.triggers import Change, between, end_of, moment_of

    held = schedules.find(place, name)
    if isinstance(held.trigger, Change):
        raise UsageError(f"Schedule {name!r} runs when a source changes: it has no past ticks. Use run-now.")
    zone = getattr(held.trigger, "zone", "UTC")
    first, last = moment_of(start, zone), end_of(end, zone)
    if last < first:
        raise UsageError(f"--from comes before --to, but got {start} and {end}. For example --from {end} --to {start}.")
    times = list(between(held.trigger, first - 1, min(now, last)))
    ticks = [t for moment in times if (t := schedules.filled_in(place, held, moment, now))]
    if as_json:
        click.echo(json.dumps([tick.name for tick in ticks], indent=1))
    click.echo(f"  {len(ticks)} of {len(times)} ticks never ran.", err=as_json)
    if dry_run:
        for tick in ticks:
            click.echo(f"  {_local(held, tick.due)}   {tick.name}", err=as_json)
        return
    ctx.exit(_wait(place, [tick for tick in ticks if schedules.claim(place, tick)], no_wait))


def _wait(place: Any, ticks: list[Any], no_wait: bool) -> int:
    """The worst exit code of these ticks, once they are over."""
    from pipelines.cli.commands.scheduler import ended_by_signals
    from pipelines.engine.scheduling import schedules
    from pipelines.engine.scheduling.daemon import Scheduler

    if no_wait:
        click.echo(with_store(f"  {len(ticks)} wait for a `rayfield scheduler`."), err=True)
        return 0
    ended_by_signals(Scheduler(place)).until(ticks)
    found = [schedules.tick(place, tick.schedule, tick.name) for tick in ticks]
    left = sum(tick is not None and tick.open for tick in found)
    if left:
        click.echo(with_store(f"  Interrupted: {left} wait for a `rayfield scheduler`."), err=True)
        return 5
    return max((tick.code or 0 for tick in found if tick), default=0)


@schedule.command()
@NAME
@click.option("-n", "count", default=20, help="How many [20]")
@STORE
@JSON
def history(name: str, count: int, store: str, as_json: bool) -> None:
    """List what became of the ticks of NAME, the last at the end."""
    place = store_at(store)
    from pipelines.engine.scheduling import schedules

    held = schedules.find(place, name)
    ticks = schedules.history(place, name)[-count:]
    if as_json:
        return click.echo(json.dumps([asdict(tick) for tick in ticks], indent=1))
    for tick in ticks:
        words = f"{tick.count} ticks since {_local(held, tick.first)}" if tick.count > 1 and tick.first else ""
        more = "; ".join(filter(None, [words, tick.why, tick.told]))
        code = "" if tick.code is None else f"exit {tick.code}"
        click.echo(f"  {_local(held, tick.due)}  {tick.status:<12} {code:<8} {tick.run}  {more}")
    if not ticks:
        click.echo(f"  {name} has not run yet.", err=True)


@schedule.command()
@NAME
@click.option("--force", is_flag=True, help="Though it has ticks that are not over")
@STORE
def remove(name: str, force: bool, store: str) -> None:
    """Forget NAME and its history; its runs stay."""
    place = store_at(store)
    from pipelines.engine.scheduling import schedules

    held = schedules.find(place, name)
    left = [tick.name for tick in schedules.history(place, name) if tick.open]
    if left and not force:
        raise UsageError(f"Schedule {name!r} has {left[0]} not over. Wait for it, or pass --force.")
    schedules.remove(place, held)
    click.echo(f"  {name} is gone.")

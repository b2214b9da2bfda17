"""
`rayfield plan`: what a run would do.
"""

import json
from typing import Any

import click

from components.errors import Infeasible
from pipelines.cli.main import JSON, OPEN, SETS, STORE, request_of, store_at

SECTION = "Run"


@click.command(context_settings=OPEN)
@click.argument("pipeline")
@SETS
@STORE
@JSON
@click.pass_context
def plan(ctx: click.Context, pipeline: str, sets: tuple[str, ...], store: str, as_json: bool) -> None:
    """Show what a run of PIPELINE would do and why, what it takes, and whether it could be scheduled."""
    show_plan(request_of(pipeline, ctx.args, sets), store_at(store), as_json)


def show_plan(request: Any, store: Any, as_json: bool) -> None:
    from pipelines.engine.graph.dry_run import forecast
    from pipelines.engine.graph.plan_cache import nodes
    from pipelines.engine.monitoring.registrations import kept

    found = nodes(request, store)
    seen = forecast(found, kept(found, store), store)
    if as_json:
        click.echo(json.dumps(seen.said(), indent=1))
    else:
        _say(seen)
    for refused in seen.refused:
        raise Infeasible(refused)


def _say(seen: Any) -> None:
    width = max((len(row["step"]) for row in seen.steps), default=0)
    for row in seen.steps:
        takes = ", ".join(f"{n:g} {name}" for name, n in row["resources"].items() if n and name != "own")
        cost = f"{_time(row['seconds']):>8} {_size(row['bytes']):>8}"
        line = f"  {row['action']:<5} {row['step']:<{width}}  {row['key'][:10]} {cost}  {takes:<14}  {row['why']}"
        click.echo(line.rstrip())
    click.echo(f"\n  {len(seen.waiting)} of {len(seen.steps)} steps would run.")
    if seen.waiting:
        _say_totals(seen)


def _say_totals(seen: Any) -> None:
    (seconds, unknown), (size, _) = seen.total("seconds"), seen.total("bytes")
    if unknown == len(seen.waiting):
        said = "unknown, for none of them has run here before"
    else:
        rest = f", and {unknown} of them not known yet" if unknown else ""
        said = f"{_time(seconds)} of work and {_size(size)} by what they took before{rest}"
    click.echo(f"  cost     {said}")
    click.echo(f"  cluster  {seen.where.describe()}")
    if seen.free is not None:
        short = "; this may not fit: make room or pass --store" if size > seen.free else ""
        click.echo(f"  disk     {_size(seen.free)} free at the store{short}")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(size: float | None) -> str:
    if size is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"

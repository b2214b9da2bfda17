"""
`rayfield status`: what runs now.
"""

import json
from typing import Any

import click

from pipelines.cli.commands.runs import print_row, row_of
from pipelines.cli.hints import with_store
from pipelines.cli.main import JSON, STORE, store_at

SECTION = "See"


@click.command()
@click.argument("run", required=False)
@STORE
@JSON
def status(run: str | None, store: str, as_json: bool) -> None:
    """Show how far RUN is, or every run that goes on, and how the last one ended."""
    place = store_at(store)
    from pipelines.engine.monitoring.run_view import find, open_run, state_of

    if run:
        names = [find(place, run)]
    else:
        names = [name for name, record in place.runs() if state_of(place, name, record) == "running"]
    going = [state(place, open_run(place, name)) for name in names]
    if as_json:
        return click.echo(json.dumps(going, indent=1))
    for row in going:
        _print(row)
    if not going:
        _print_last(place)
    return None


def state(store: Any, run: Any) -> dict[str, Any]:
    """A run with how far each of its running steps is."""
    from pipelines.engine.monitoring.run_view import said

    steps = []
    for step in run.steps:
        row = {"step": step.title, "key": step.key, "status": step.status, "began": step.began, "what": step.what}
        if step.status == "running":
            told = said(store, run.name, step.key)
            row |= {"progress": {n: told.progress.get(n) for n in ("done", "total", "unit")}, "latest": told.latest}
        steps.append(row)
    head = {"run": run.name, "pipeline": run.record["pipeline"], "status": run.state}
    return {**head, "started": run.record["started"], "steps": steps}


def _print(row: dict[str, Any]) -> None:
    import time

    from pipelines.engine.monitoring.run_view import duration

    ended = sum(step["status"] in ("done", "cached") for step in row["steps"])
    click.echo(f"  {row['run']}  {row['pipeline']}  {row['status']}  {ended} of {len(row['steps'])} steps")
    for step in row["steps"]:
        if step["status"] in ("running", "retry", "failed", "interrupted"):
            since = f"since {duration(time.time() - step['began'])}" if step["status"] == "running" else ""
            click.echo(f"    {step['status']:<11} {step['step']:<24} {far(step)}  {since}  {step['what']}")
    waiting = [step["step"] for step in row["steps"] if step["status"] == "waiting"]
    if waiting and row["status"] == "running":
        click.echo(f"    waiting     {', '.join(waiting)}")


def far(step: dict[str, Any]) -> str:
    """120/400 steps  loss 0.31."""
    progress, latest = step.get("progress") or {}, step.get("latest") or {}
    done = f"{progress['done']:g}/{progress['total']:g} {progress['unit']}" if progress.get("total") else ""
    return "  ".join(filter(None, [done, *(f"{name} {value:.3g}" for name, value in list(latest.items())[:3])]))


def _print_last(store: Any) -> None:
    name, record = next(store.runs(), ("", {}))
    if not name:
        return click.echo(with_store("  No run yet: `rayfield run quickstart`."), err=True)
    click.echo("  Nothing runs. The last run:")
    print_row(row_of(store, name, record))
    click.echo(with_store(f"  `rayfield show {name}` has its steps; `rayfield runs` lists the others."), err=True)

"""
`rayfield runs`: the list of runs.
"""

import json
from datetime import datetime
from itertools import islice
from typing import Any

import click

from pipelines.cli.hints import with_store
from pipelines.cli.main import JSON, STORE, store_at

SECTION = "See"
COLORS = {
    "submitted": "cyan",
    "running": "cyan",
    "done": "green",
    "failed": "red",
    "refused": "yellow",
    "interrupted": "yellow",
}


@click.command()
@click.option("--pipeline", metavar="NAME", help="Only those of one pipeline")
@click.option("--failed", is_flag=True, help="Only those that did not end well")
@click.option("-n", "count", default=20, show_default=True, help="How many")
@STORE
@JSON
def runs(pipeline: str, failed: bool, count: int, store: str, as_json: bool) -> None:
    """List the runs, the newest first; `status` has what runs now."""
    place = store_at(store)
    rows = list(islice(_rows(place, pipeline, failed), count))
    for said in place.damaged_records().values():
        click.echo(f"  {said}", err=True)
    if as_json:
        return click.echo(json.dumps(rows, indent=1))
    for row in rows:
        print_row(row)
    if not rows:
        click.echo(
            with_store("  No such run." if pipeline or failed else "  No run yet: `rayfield run quickstart`."), err=True
        )


def _rows(store: Any, pipeline: str, failed: bool) -> Any:
    for name, record in store.runs():
        row = row_of(store, name, record)
        wanted = not failed or row["status"] not in ("done", "running")
        if wanted and pipeline in (None, row["pipeline"]):
            yield row


def row_of(store: Any, name: str, record: dict[str, Any]) -> dict[str, Any]:
    from pipelines.engine.monitoring.run_view import state_of

    seconds = round(record["ended"] - record["started"], 1) if record.get("ended") else None
    return {
        "run": name,
        "pipeline": record["pipeline"],
        "status": state_of(store, name, record),
        "started": record["started"],
        "seconds": seconds,
        "steps": record.get("counts", {}),
        "parameters": record["parameters"],
    }


def print_row(row: dict[str, Any]) -> None:
    from pipelines.engine.monitoring.run_view import duration

    when = datetime.fromtimestamp(row["started"]).strftime("%b %d %H:%M")
    state = click.style(f"{row['status']:<11}", fg=COLORS[row["status"]])
    steps = ", ".join(f"{count} {word}" for word, count in row["steps"].items())
    took = duration(row["seconds"])
    click.echo(f"  {row['run']}  {row['pipeline']:<12} {state} {when}  {took:>12}  {steps}")

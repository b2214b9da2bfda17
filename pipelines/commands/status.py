"""
`rayfield status`: the last runs.
"""

import json
import time

import click

from pipelines.cli import JSON, STORE, store_at

SECTION = "See"


@click.command()
@STORE
@JSON
@click.option("-n", "count", default=10, help="How many [10]")
def status(store: str, as_json: bool, count: int) -> None:
    """List the last runs."""
    rows = []
    place = store_at(store)
    for name, record in list(place.runs())[:count]:
        if record.get("ended") is None:
            from pipelines.engine.submissions import settle

            record = settle(place, name, record)
        ended = record.get("ended")
        word = {None: "running", 0: "done", 5: "interrupted"}.get(record.get("code") if ended else None, "failed")
        seconds = (ended or time.time()) - record["started"]
        rows.append({"run": name, "pipeline": record["pipeline"], "status": word, "seconds": round(seconds, 1)})
    if as_json:
        return click.echo(json.dumps(rows, indent=1))
    for row in rows:
        click.echo(f"  {row['run']}  {row['pipeline']:<14} {row['status']:<12} {row['seconds']:>8.1f} s", err=True)
    if not rows:
        click.echo("  No run yet: `rayfield run quickstart`.", err=True)

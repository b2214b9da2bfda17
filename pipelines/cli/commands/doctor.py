"""
`rayfield doctor`: what this machine has and lacks.
"""

import json
import sys

import click

from pipelines.cli.main import JSON, STORE, store_at

SECTION = "Look after"


@click.command()
@STORE
@JSON
def doctor(store: str, as_json: bool) -> None:
    """Check this machine: packages, store, MLflow, Ray, space."""
    place = store_at(store)
    from pipelines.doctor import examine

    rows = examine(place)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        for row in rows:
            click.echo(f"  {'ok  ' if row['ok'] else 'BAD '} {row['what']:<10} {row['found']}")
    sys.exit(0 if all(row["ok"] for row in rows) else 1)

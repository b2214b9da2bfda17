"""
`rayfield pipelines`: what ships.
"""

import json

import click

from pipelines.cli.main import JSON
from pipelines.engine import pipeline

SECTION = "Run"


@click.command()
@JSON
def pipelines(as_json: bool) -> None:
    """List the pipelines that ship."""
    rows = [pipeline.sketch(pipeline.find(name)) for name in pipeline.names()]
    if as_json:
        return click.echo(json.dumps([{"name": r.name, "doc": r.doc.splitlines()[0]} for r in rows], indent=1))
    for row in rows:
        click.echo(f"  {row.name:<12} {row.doc.splitlines()[0]}")

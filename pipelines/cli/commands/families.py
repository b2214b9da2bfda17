"""
`rayfield families`: the zoo.
"""

import json

import click

from pipelines.cli.main import JSON

SECTION = "Run"


@click.command()
@click.option("--markdown", is_flag=True, help="The README's table")
@JSON
def families(as_json: bool, markdown: bool) -> None:
    """List the model families, with what was measured of each."""
    from pipelines.zoo.catalog import families as known
    from pipelines.zoo.catalog import table

    if markdown:
        return click.echo(table())
    rows = known()
    if as_json:
        return click.echo(json.dumps(rows, indent=1))
    for row in rows:
        click.echo(f"  {row['name']:<12} {row['what']}\n               {row['size']}\n               {row['measured']}")

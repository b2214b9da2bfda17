"""
`rayfield new`: files of one's own.
"""

import click

SECTION = "Develop"


@click.group()
def new() -> None:
    """Write a working file of your own."""


@new.command("family")
@click.argument("name")
def new_family(name: str) -> None:
    """Write components/families/NAME.py and its test."""
    from pipelines.engine.scaffold import family

    for path in family(name):
        click.echo(f"  {path}")
    click.echo(f"  Try it: pytest tests/components/families/test_{name}.py", err=True)

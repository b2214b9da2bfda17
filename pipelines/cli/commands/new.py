"""
`rayfield new`: files of one's own.
"""

import click

SECTION = "Develop"


@click.command()
@click.argument("noun", type=click.Choice(["pipeline", "step", "family", "source", "representation"]))
@click.argument("name")
def new(noun: str, name: str) -> None:
    """
    Write a working NOUN called NAME, to be changed: NAME.py in this folder; in a clone its place, and its test.

    \b
      rayfield new pipeline shapes        a table, a search, a training, a registered model
      rayfield new step count             a function whose result is kept under a key
      rayfield new family mynet           what learns, with its hyperparameters
      rayfield new source scans           a listing of your things, and how one is decoded
      rayfield new representation heights what a family reads of one
    """
    from pipelines.zoo.scaffold import write

    written = write(noun, name)
    for path in written.paths:
        click.echo(f"  {path}")
    click.echo(f"  Try it: {written.command}", err=True)

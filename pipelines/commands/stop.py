"""
`rayfield stop`: the end of a run that may be continued.
"""

import click

from pipelines.cli import STORE, store_at

SECTION = "Run"


@click.command()
@click.argument("run")
@STORE
def stop(run: str, store: str) -> None:
    """Stop RUN, wherever it runs: what is done is kept, and the same command continues it."""
    from pipelines.engine import submissions

    click.echo(f"  {run} {submissions.stop(store_at(store), run)}")

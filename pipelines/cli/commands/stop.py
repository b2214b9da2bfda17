"""
`rayfield stop`: the end of a run that may be continued.
"""

import click

from pipelines.cli.main import STORE, store_at

SECTION = "Run"


@click.command()
@click.argument("run")
@STORE
def stop(run: str, store: str) -> None:
    """
    Stop RUN, wherever it runs: what is done is kept, and the same command continues it.

    RUN is `last` or the beginning of a run's name.
    """
    place = store_at(store)
    from pipelines.engine.cluster import submissions
    from pipelines.engine.monitoring.run_view import find

    name = find(place, run)
    click.echo(f"  {name} {submissions.stop(place, name)}")

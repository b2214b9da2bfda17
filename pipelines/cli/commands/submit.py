"""
`rayfield submit`: a run on a cluster that goes on without this terminal.
"""

import json
from typing import Any

import click

from components.errors import UsageError
from pipelines.cli.hints import with_store
from pipelines.cli.main import JSON, OPEN, SETS, STORE, request_of, store_at

SECTION = "Cluster"
INTERRUPTED = 5


@click.command(context_settings=OPEN)
@click.argument("pipeline")
@SETS
@click.option(
    "--address", envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"], help="The cluster's dashboard, http://head:8265"
)
@click.option("--env", "names", multiple=True, metavar="NAME", help="Pass this variable on: Ray shows it to its users")
@click.option("--no-wait", is_flag=True, help="Print the run's name, and leave it to the cluster")
@STORE
@JSON
@click.pass_context
def submit(
    ctx: click.Context,
    pipeline: str,
    sets: tuple[str, ...],
    address: str | None,
    names: tuple[str, ...],
    no_wait: bool,
    store: str,
    as_json: bool,
) -> None:
    """
    Run PIPELINE on a cluster, as `rayfield run` would, and follow it.

    The same command again attaches to the run that is at work. A cluster's nodes have the keys of the store in their
    own environment; what --env passes on is shown by `ray job list` to whoever has the cluster's token.
    """
    if not address:
        raise UsageError("--address is a cluster's dashboard, but none is given. For example http://head:8265.")
    request, place = request_of(pipeline, ctx.args, sets), store_at(store)
    from pipelines.engine.cluster import submissions
    from pipelines.engine.cluster.jobs import Jobs
    from pipelines.engine.graph.plan_cache import nodes

    jobs = Jobs.at(address)
    if mismatch := jobs.mismatch():
        click.echo(f"  ! {mismatch}", err=True)
    found, attached = submissions.submit(request, nodes(request, place), place, jobs, names)
    click.echo(f"  {'attached to' if attached else 'submitted'} {found.run} at {found.address}", err=as_json)
    code = None if no_wait else _follow(place, found, jobs)
    if as_json:
        click.echo(json.dumps({"run": found.run, "id": found.id, "address": found.address, "code": code}, indent=1))
    ctx.exit(code or 0)


def _follow(place: Any, found: Any, jobs: Any) -> int:
    from pipelines.engine.cluster import submissions

    try:
        return submissions.follow(place, found, jobs)
    except KeyboardInterrupt:
        click.echo(
            with_store(f"\n  The run goes on: `rayfield logs {found.run} -f`, `rayfield stop {found.run}`."), err=True
        )
        return INTERRUPTED

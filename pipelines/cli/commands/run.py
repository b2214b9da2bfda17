"""
`rayfield run`: a pipeline from where it is to its end.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import click

from pipelines.cli.commands.plan import show_plan
from pipelines.cli.main import JSON, OPEN, SETS, STORE, request_of, store_at

SECTION = "Run"


@click.command(context_settings=OPEN, add_help_option=False)
@click.argument("pipeline", required=False)
@SETS
@click.option("--dry-run", is_flag=True, help="Show the plan and stop")
@STORE
@JSON
@click.option("-h", "--help", "helping", is_flag=True, help="This, and the pipeline's own parameters")
@click.pass_context
def run(
    ctx: click.Context, pipeline: str, sets: tuple[str, ...], dry_run: bool, store: str, as_json: bool, helping: bool
) -> None:
    """Run PIPELINE, a name of `rayfield pipelines` or a PATH.py: what is done already is kept."""
    if helping or not pipeline:
        return _help(ctx, pipeline)
    request, place = request_of(pipeline, ctx.args, sets), store_at(store)
    if dry_run:
        return show_plan(request, place, as_json)
    ctx.exit(_run(request, place, as_json))


def _help(ctx: click.Context, name: str | None) -> None:
    from pipelines.engine.pipeline import find, sketch

    click.echo(ctx.get_help())
    if not name:
        return click.echo("\nPipelines: `rayfield pipelines`. Parameters: `rayfield run PIPELINE --help`.")
    drawn = sketch(find(name))
    click.echo(f"\nParameters of {drawn.name}:")
    for one in drawn.parameters:
        click.echo(f"  --{one.name:<12} {one.help or one.annotation} [{one.default}]")


def _run(request: Any, store: Any, as_json: bool) -> int:
    from pipelines.engine.graph.plan_cache import nodes, verdict
    from pipelines.engine.monitoring.registrations import forget_elsewhere, kept
    from pipelines.engine.monitoring.run_view import set_damaged_aside

    found = nodes(request, store)
    manifests = kept(found, store)
    if set_damaged_aside(store, manifests.values(), figures=False):
        manifests = kept(found, store)
    # a driver that was given its run's name is to end that run, whatever is left to do
    if not all(manifests.values()) or os.environ.get("RAYFIELD_RUN"):
        from pipelines.engine.execution.driver import execute
        from pipelines.engine.graph.dry_run import check

        check(found, manifests)
        for line in [*set_damaged_aside(store, manifests.values(), figures=True), *forget_elsewhere(found, store)]:
            click.echo(f"  {line}", err=True)
        return execute(request, found, store, as_json)
    from pipelines.engine.monitoring.console import results

    _finish_dead(store)
    status = {node["key"]: "cached" for node in found}
    _report(found, manifests, status, as_json)
    if not as_json:
        results(found, manifests, status, store)
    return verdict(manifests)


def _finish_dead(store: Any) -> None:
    """Ends the runs whose drivers died after their last step: nothing says that it runs for ever."""
    from pipelines.engine.store.orphans import left
    from pipelines.engine.store.store import StoreError

    with suppress(StoreError):  # of one who may only read
        if any(left(store, dead=True)):
            _finish_left(store)


def _finish_left(store: Any) -> None:
    from pipelines.engine.monitoring.mlflow_sync import finish_left

    try:
        finish_left(store, dead=True)
    except Exception as error:  # whatever MLflow raises, this run has its results
        click.echo(f"  MLflow was not told of a run that was killed: {' '.join(str(error).split())[:300]}", err=True)


def _report(
    found: list[dict[str, Any]], manifests: Mapping[str, Any], status: Mapping[str, str], as_json: bool
) -> None:
    if as_json:
        from pipelines.engine.monitoring.console import summary

        click.echo(json.dumps(summary(found, manifests, status), indent=1))

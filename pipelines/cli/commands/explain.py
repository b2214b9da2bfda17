"""
`rayfield explain`: why a step runs.
"""

import json
from itertools import takewhile
from typing import Any

import click

from pipelines.cli.main import JSON, OPEN, SETS, STORE, request_of, store_at

SECTION = "Run"


@click.command(context_settings=OPEN)
@click.argument("pipeline")
@SETS
@STORE
@JSON
@click.pass_context
def explain(ctx: click.Context, pipeline: str, sets: tuple[str, ...], store: str, as_json: bool) -> None:
    """
    Say why each step of PIPELINE would run, down to the function, or why it last ran.

    After the name stands the STEP that is meant, if only one is: `rayfield explain quickstart train pointnet`.
    """
    words = list(takewhile(lambda word: not word.startswith("--"), ctx.args))
    request, place = request_of(pipeline, ctx.args[len(words) :], sets), store_at(store)
    from pipelines.engine.caching.invalidation import Reasons, chosen, report
    from pipelines.engine.graph.plan_cache import nodes, statuses

    found = nodes(request, place)
    reasons = Reasons(place, found, statuses(found, place))
    rows = [report(reasons, node) for node in chosen(reasons, " ".join(words))]
    if as_json:
        return click.echo(json.dumps(rows, indent=1))
    for row in rows:
        _say(row)


def few(why: list[str]) -> str:
    """The first reason, and how many more there are."""
    first, rest = why[0] if why else "nothing changed", len(why) - 1
    return first + (f", and {rest} more" if rest > 0 else "")


def _say(row: dict[str, Any]) -> None:
    head = f"kept, made by {row['made_by']}: {few(row['why'])}" if row["action"] == "keep" else "would run"
    click.echo(f"  {row['step']}  {row['key'][:10]}  {head}")
    if row["action"] == "keep":
        return
    if row["compared_with"]:
        click.echo(f"    beside {row['compared_with']['key'][:10]} of {row['compared_with']['run']}:")
    for what in row["why"]:
        click.echo(f"      {what}")
    for title in row["needs"]:
        click.echo(f"      needs {title}, which would run")

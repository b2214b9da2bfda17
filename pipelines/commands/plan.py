"""
`rayfield plan`: what a run would do.
"""

import json
from typing import Any

import click

from pipelines.cli import JSON, OPEN, SETS, STORE, request_of, store_at

SECTION = "Run"


@click.command(context_settings=OPEN)
@click.argument("pipeline")
@SETS
@STORE
@JSON
@click.pass_context
def plan(ctx: click.Context, pipeline: str, sets: tuple[str, ...], store: str, as_json: bool) -> None:
    """Show what a run of PIPELINE would do, and why."""
    show_plan(request_of(pipeline, ctx.args, sets), store_at(store), as_json)


def show_plan(request: Any, store: Any, as_json: bool) -> None:
    from pipelines.engine.plans import nodes, statuses

    found = nodes(request, store)
    manifests = statuses(found, store)
    rows = [
        {
            "step": node["title"],
            "key": node["key"],
            "action": "keep" if manifests[node["key"]] else "run",
            "seconds": (manifests[node["key"]] or {}).get("cost", {}).get("seconds"),
            "resources": node["resources"],
        }
        for node in found
    ]
    if as_json:
        return click.echo(json.dumps(rows, indent=1))
    for row in rows:
        cpus = f"{row['resources'].get('CPU', 0):g} CPU" if row["resources"].get("CPU") else ""
        click.echo(f"  {row['action']:<5} {row['step']:<24} {row['key'][:10]}  {cpus}", err=True)
    todo = sum(row["action"] == "run" for row in rows)
    click.echo(f"\n  {todo} of {len(rows)} steps would run.", err=True)

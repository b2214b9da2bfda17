"""
`rayfield models`: what is registered, what is in use, and how to change that.
"""

import json
from collections.abc import Mapping
from typing import Any

import click

from pipelines.cli.hints import with_store
from pipelines.cli.main import JSON, STORE, store_at

SECTION = "Models"
REFUSED = 3
"""the exit code of a gate that said no"""


@click.group()
def models() -> None:
    """List, show, promote and roll back registered models."""


@models.command("list")
@STORE
@JSON
def list_models(store: str, as_json: bool) -> None:
    """List the registered models and their champions."""
    store_at(store)
    from components.steps.registry.versions import listing, reachable

    with reachable():
        rows = listing()
    if as_json:
        return click.echo(json.dumps(rows, indent=1))
    for row in rows:
        champion = f"champion {row['champion']}" if row["champion"] else "no champion"
        said = f"{champion:<13} of {row['versions']:<3} {row.get('family') or '':<12} {row.get('score', '')}"
        click.echo(f"  {row['name']:<24} {said}")
    if not rows:
        click.echo(with_store("  No model yet: `rayfield run quickstart` registers one."), err=True)


@models.command()
@click.argument("name")
@click.argument("version", required=False)
@STORE
@JSON
def show(name: str, version: str | None, store: str, as_json: bool) -> None:
    """Show the versions of NAME and every move of its champion, or one VERSION with its evidence and its card."""
    store_at(store)
    from components.steps.registry.versions import details, history, reachable

    with reachable():
        found = details(name, version) if version else history(name)
    if as_json:
        return click.echo(json.dumps(found, indent=1))
    if not version:
        return _history(found)
    _row(found)
    _verdict(found["evidence"] or {})
    _verdict(found["promotion"] or {})
    click.echo("\n" + (found["card"] or ""))


@models.command()
@click.argument("name")
@click.argument("version")
@click.option("--force", is_flag=True, help="Whatever the gate says; it is recorded")
@STORE
@JSON
@click.pass_context
def promote(ctx: click.Context, name: str, version: str, force: bool, store: str, as_json: bool) -> None:
    """Make VERSION of NAME the champion, if its gate and the champion of now let it."""
    place = store_at(store)
    from pipelines.engine.monitoring.registered_models import promote

    evidence = promote(place, name, version, force=force)
    if as_json:
        click.echo(json.dumps(evidence, indent=1))
    else:
        _verdict(evidence)
    ctx.exit(0 if evidence["verdict"] == "PROMOTE" else REFUSED)


@models.command()
@click.argument("name")
@STORE
@JSON
def rollback(name: str, store: str, as_json: bool) -> None:
    """Make the previous champion of NAME the champion again."""
    place = store_at(store)
    from pipelines.engine.monitoring.registered_models import rollback

    moved = rollback(place, name)
    if as_json:
        return click.echo(json.dumps(moved, indent=1))
    click.echo(f"  {name}: version {moved['to']} is champion again, {moved['from']} was")


def _history(found: Mapping[str, Any]) -> None:
    for row in found["versions"]:
        _row(row)
    for move in found["moves"]:
        forced = ", forced" if move.get("forced") else ""
        said = f"{move['what']:<9} {move['from'] or '-':>4} -> {move['to']:<4} by {move['who']}{forced}"
        click.echo(f"  {move['when'][:19]}  {said}")


def _row(row: Mapping[str, Any]) -> None:
    said = f"{row['verdict'] or '-':<8} {row['family'] or '':<12} {row['score']:<24} {', '.join(row['aliases'])}"
    click.echo(f"  version {row['version']:<4} {row['when'][:19]}  {said.rstrip()}")


def _verdict(evidence: Mapping[str, Any]) -> None:
    if not evidence:
        return
    forced = " (forced)" if evidence["forced"] else ""
    asked = evidence["asked"]["what"]
    click.echo(f"  {asked} version {evidence['version']}: {evidence['verdict']}{forced}")
    for reason in evidence["reasons"]:
        click.echo(f"    {reason}")
    if how := (evidence["champion"] or {}).get("how"):
        click.echo(f"    the champion's numbers: {how}")

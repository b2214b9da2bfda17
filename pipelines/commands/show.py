"""
`rayfield show`: one run.
"""

import json

import click

from components.errors import UsageError
from pipelines.cli import JSON, STORE, store_at

SECTION = "See"


@click.command()
@click.argument("name", required=False)
@STORE
@JSON
def show(name: str | None, store: str, as_json: bool) -> None:
    """Show one run, the last by default: its steps, what came of them, and what went wrong."""
    place = store_at(store)
    found = dict(place.runs())
    name = name or next(iter(found), None)
    if name is None or name not in found:
        raise UsageError(f"No run {name!r} in {place.address}. `rayfield status` lists them.")
    from pipelines.engine.running import ledger_lines

    lines = {line["key"]: line for line in ledger_lines(place, name)}
    record = found[name]
    rows = [{**node, **lines.get(node["key"], {"status": "running"})} for node in record["nodes"]]
    if as_json:
        return click.echo(json.dumps({**record, "steps": rows}, indent=1))
    click.echo(f"  {name}  {record['title']}  {record['commit'][:12]}", err=True)
    for row in rows:
        manifest = place.manifest(row["key"]) or {}
        what = row.get("error") or manifest.get("describe", "")
        cost = manifest.get("cost", {}).get("seconds")
        click.echo(f"  {row['status']:<8} {row['title']:<22} {f'{cost:.1f} s' if cost else '':>9}  {what}", err=True)
        if row.get("traceback"):
            click.echo("\n" + row["traceback"], err=True)
    return None

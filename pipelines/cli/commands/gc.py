"""
`rayfield gc`: makes room in the store.
"""

import json

import click

from components.errors import UsageError
from pipelines.cli.main import JSON, STORE, store_at

SECTION = "Look after"


@click.command()
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="The last N runs of each pipeline [all]")
@click.option("--older-than", "days", type=click.FloatRange(min=0), metavar="DAYS", help="Drop runs that began before")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing")
@STORE
@JSON
def gc(keep: int | None, days: float | None, dry_run: bool, store: str, as_json: bool) -> None:
    """Remove what no kept run reaches: results, half-done work, plans, leases, events, old ticks."""
    if keep is not None and days is not None:
        raise UsageError("One of --keep and --older-than says which runs are kept, but got both. Pass one.")
    from pipelines.engine.store.garbage_collection import Keeping, collect

    found = collect(store_at(store), Keeping(last=keep, days=days), dry_run=dry_run)
    total = {name: sum(sums[name] for sums in found.values()) for name in ("files", "bytes")}
    if as_json:
        return click.echo(json.dumps({"dry_run": dry_run, "total": total, **found}, indent=1))
    for folder, sums in found.items():
        click.echo(f"  {folder:<10} {sums['files']:>8,} files {readable(sums['bytes']):>12}")
    word = "would be removed" if dry_run else "removed"
    click.echo(f"  {readable(total['bytes'])} in {total['files']:,} files {word}")


def readable(size: float) -> str:
    """A number of bytes as people write it."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"

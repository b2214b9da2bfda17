"""
`rayfield verify`: looks at all that a store holds.
"""

import json
import sys
from dataclasses import asdict

import click

from components.errors import UsageError
from pipelines.cli.main import JSON, STORE, store_at

SECTION = "Look after"


@click.command()
@STORE
@JSON
def verify(store: str, as_json: bool) -> None:
    """
    Read all of the store, and say what is not as it was written.

    What a run can make anew is set aside, and made by the next run that needs it. The exit code is 1 if anything is
    damaged.
    """
    place = store_at(store)
    from pipelines.engine.store.verification import verify as looked_at

    found = looked_at(place)
    if not found.looked:
        raise UsageError(f"verify looks at a store, but nothing was ever written to {place.address}. Correct --store.")
    if as_json:
        said = {"store": place.address, "files": found.looked, "damaged": [asdict(one) for one in found.damaged]}
        click.echo(json.dumps(said, indent=1))
    else:
        for one in found.damaged:
            click.echo(f"  {one.name}: {one.what}; {one.remedy}")
        count = f"{len(found.damaged)} damaged" if found.damaged else "all as it was written"
        click.echo(f"  {found.looked:,} files of {place.address}: {count}")
    sys.exit(1 if found.damaged else 0)

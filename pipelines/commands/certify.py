"""
`rayfield certify`: the seven points of a family.
"""

import sys
from pathlib import Path

import click

from pipelines.cli import STORE, store_at

SECTION = "Develop"


@click.command()
@click.argument("family")
@STORE
@click.option("--out", type=click.Path(path_type=Path), help="Where results/FAMILY.json goes [results]")
def certify(family: str, store: str, out: Path | None) -> None:
    """Run the seven points of SYSTEMS.md on FAMILY, and write results/FAMILY.json."""
    place = store_at(store)
    from pipelines.engine.certificate import certify as run_all

    ok = run_all(family, place, out)
    sys.exit(0 if ok else 1)

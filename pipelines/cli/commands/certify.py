"""
`rayfield certify`: the seven points of a family.
"""

import sys
from pathlib import Path

import click

from pipelines.cli.main import STORE, store_at

SECTION = "Develop"


@click.command()
@click.argument("family")
@STORE
@click.option("--out", type=click.Path(path_type=Path), help="Where results/FAMILY.json goes [results]")
def certify(family: str, store: str, out: Path | None) -> None:
    """
    Measure FAMILY by the seven points of one that works, and write results/FAMILY.json.

    \b
      1  its own tests, and its part of the conformance suite
      2  its score on held-out data, beside the baselines
      3  one worker and several learn the same
      4  its checkpoint goes on as the training would have
      5  its search, and what that chose beside the preset
      6  the registered model answers by itself as the checkpoint does
      7  its figures

    The exit code is 1 if one does not hold. If the run that measures them fails or is interrupted, it is that run's
    code, and nothing is written.
    """
    place = store_at(store)
    from pipelines.zoo.certificate import certify as run_all

    sys.exit(run_all(family, place, out))

"""
`rayfield report`: a run as one page.
"""

import sys
import webbrowser
from pathlib import Path

import click

from pipelines.cli.main import STORE, store_at

SECTION = "See"


@click.command()
@click.argument("run", default="last")
@click.option("--out", type=click.Path(path_type=Path), help="Where to put it [beside the run's record in the store]")
@click.option("--open", "show", is_flag=True, help="Open it in a browser")
@STORE
def report(run: str, out: Path | None, show: bool, store: str) -> None:
    """Write RUN as one HTML page that needs nothing else: graph, timeline, scores, curves, figures, model."""
    place = store_at(store)
    from components.runtime.objects import scratch_root
    from pipelines.engine.monitoring.report import report as drawn
    from pipelines.engine.monitoring.report import write_report
    from pipelines.engine.monitoring.run_view import find

    name, damaged = find(place, run), list[str]()
    if out is None and not place.remote:
        path = Path(place.address) / write_report(place, name, damaged)
    else:
        path = out or scratch_root() / "reports" / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(drawn(place, name, damaged=damaged), encoding="utf-8")
    click.echo(str(path.resolve()))
    if show:
        webbrowser.open(path.resolve().as_uri())
    for words in damaged:
        click.echo(f"  {words}", err=True)
    sys.exit(1 if damaged else 0)

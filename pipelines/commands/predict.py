"""
`rayfield predict`: an answer of a registered model.
"""

import json
from pathlib import Path

import click

from pipelines.cli import JSON, STORE, store_at

SECTION = "Models"


@click.command()
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The picture [FILE.png]")
@click.option("--up", type=click.Choice(["x", "y", "z"]), default="y", help="The axis of the file that points up [y]")
@STORE
@JSON
def predict(model: str, file: Path, out: Path | None, up: str, store: str, as_json: bool) -> None:
    """Ask a registered MODEL (models:/NAME@champion) about one FILE: an answer and a picture."""
    store_at(store)
    from pipelines.engine.asking import ask

    answer = ask(model, file, out or file.with_suffix(".png"), up)
    if as_json:
        return click.echo(json.dumps(answer, indent=1))
    for label, share in answer["answers"][:5]:
        click.echo(f"  {share:6.1%}  {label}")
    click.echo(f"  picture: {answer['picture']}", err=True)

"""
`rayfield predict`: what a registered model answers, of one file or of a whole source.
"""

import json
from pathlib import Path
from typing import Any

import click

from components.errors import UsageError
from pipelines.cli.main import JSON, OPEN, STORE, located, store_at

SECTION = "Models"


@click.command(context_settings=OPEN)
@click.argument("model")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[FILE] [--FIELD VALUE]...")
@click.option("--source", metavar="NAME", help="A whole source instead of one file; --root and such are its fields")
@click.option(
    "--out",
    metavar="PATH",
    help="The picture [./FILE.answer.png], or a source's table, .parquet or .csv [answers.parquet]",
)
@click.option("--up", type=click.Choice(["x", "y", "z"]), default="y", help="The axis of the file that points up [y]")
@click.option("--on", type=click.Choice(["auto", "ray", "here"]), default="auto", help="Where a source is answered")
@STORE
@JSON
def predict(
    model: str, words: tuple[str, ...], source: str | None, out: str | None, up: str, on: str, store: str, as_json: bool
) -> None:
    """
    Ask a registered MODEL (models:/NAME@champion) about one FILE, or about every asset of a --source.

    \b
      rayfield predict models:/furniture@champion chair.obj
      rayfield predict models:/furniture@champion --source folder --root DIR --out answers.parquet
    """
    store_at(store)
    if source is not None:
        return _all(model, source, list(words), out, up, on, as_json)
    if len(words) != 1 or words[0].startswith("--"):
        raise UsageError(f"predict takes one FILE, or a --source, but got {' '.join(words) or 'neither'}.")
    _one(model, Path(words[0]), out, up, as_json)


def _one(model: str, file: Path, out: str | None, up: str, as_json: bool) -> None:
    from pipelines.inference.predict import ask

    # here, and with the whole name of the file: beside it chair.png may be its texture, and chair.ply another shape
    answer = ask(model, file, Path(out or f"{file.name}.answer.png"), up)
    if as_json:
        return click.echo(json.dumps(answer, indent=1))
    for label, share in answer["answers"][:5]:
        click.echo(f"  {share:6.1%}  {label}")
    click.echo(f"  picture: {answer['picture']}")


def _all(model: str, source: str, words: list[str], out: str | None, up: str, on: str, as_json: bool) -> None:
    from components.runtime.user_code import importing, written
    from components.source import find, kind_of, worded
    from pipelines.engine.pipeline import options
    from pipelines.inference.predict import ask_all

    name, more = worded(source)
    settings = located(options([*more, *words]))
    with importing(*written(name)):
        if up != "y" and hasattr(kind_of(name), "up"):
            settings["up"] = up
        summary = ask_all(model, find(name, settings), out or "answers.parquet", on=on)
    if as_json:
        return click.echo(json.dumps(summary, indent=1))
    _say(summary)


def _say(summary: dict[str, Any]) -> None:
    click.echo(f"  {summary['answered']} of {summary['assets']} answered")
    for label, count in list(summary["predicted"].items())[:20]:
        click.echo(f"  {count:>8}  {label}")
    if summary["accuracy"] is not None:
        right = f"{summary['accuracy']:.3f} ± {summary['error']:.3f}"
        click.echo(f"  accuracy {right} of {summary['labelled']} with a label that the model knows{_learned(summary)}")
    elif summary["learned"]:
        click.echo(f"  no accuracy: the model was trained or chosen on all {summary['learned']} whose label it knows")
    for reason, count in summary["quarantined"].items():
        click.echo(f"  {count:>8}  without an answer: {reason}")
    click.echo(f"  answers: {summary['out']}")


def _learned(summary: dict[str, Any]) -> str:
    """The assets that an accuracy leaves out, or may be flattered by, in words."""
    if summary["learned"] is None:
        return "; those that it was trained on may be among them, for it did not write down which"
    return f"; {summary['learned']} more were left out: it was trained or chosen on them" if summary["learned"] else ""

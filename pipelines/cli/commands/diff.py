"""
`rayfield diff`: two runs side by side.
"""

import json
from typing import Any

import click

from components.errors import UsageError
from pipelines.cli.main import JSON, STORE, store_at

SECTION = "See"


@click.command()
@click.argument("run")
@click.argument("other", required=False)
@STORE
@JSON
def diff(run: str, other: str | None, store: str, as_json: bool) -> None:
    """
    Compare RUN with OTHER, the last by default: parameters, code, packages, data, scores, times.

    `rayfield diff last` compares the last run with the one before it of the same pipeline.
    """
    place = store_at(store)
    from pipelines.engine.monitoring.diff import difference
    from pipelines.engine.monitoring.run_view import open_run

    found = difference(place, *(open_run(place, name) for name in _pair(place, run, other)))
    if as_json:
        return click.echo(json.dumps(found, indent=1))
    click.echo(f"  {found['runs'][0]}  ->  {found['runs'][1]}")
    for name, state in zip(found["runs"], found["states"], strict=True):
        if titles := found["unfinished"].get(name):
            click.echo(f"  {name} ({state}) has no result of {', '.join(titles)}: nothing of these is compared.")
    for kind in ("parameters", "code", "packages", "data", "environment"):
        _section(kind, found[kind])
    _steps(found["steps"], [name.rpartition("-")[2] for name in found["runs"]])
    return None


def _pair(store: Any, run: str, other: str | None) -> tuple[str, str]:
    """The names of two runs; where the last would be compared with itself, it is with the one before."""
    from pipelines.engine.monitoring.run_view import find

    one, second = find(store, run), find(store, other or "last")
    if one != second:
        return one, second
    if other:
        raise UsageError(f"diff compares two runs, but both are {one}. `rayfield runs` lists the others.")
    pipeline = store.record(one)["pipeline"]
    before = next((name for name, record in store.runs() if name < one and record["pipeline"] == pipeline), None)
    if before is None:
        raise UsageError(f"diff compares two runs, but {one} is the first of {pipeline}. Name another as OTHER.")
    return before, one


def _section(title: str, found: Any) -> None:
    lines = (
        found if isinstance(found, list) else [f"{name}: {_shown(a)} -> {_shown(b)}" for name, (a, b) in found.items()]
    )
    if lines:
        click.echo(f"\n  {title}")
    for line in lines:
        click.echo(f"    {line}")


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)[:60]


def _steps(steps: list[dict[str, Any]], names: list[str]) -> None:
    from pipelines.engine.monitoring.console import console, plain_table
    from pipelines.engine.monitoring.run_view import duration

    table = plain_table("step", "", *names, "change", right=(*names, "change"))
    for step in steps:
        word = "same result" if step["same"] else " -> ".join(dict.fromkeys(_shown(s) for s in step["status"]))
        table.add_row(step["step"], word, *(duration(seconds) for seconds in step["seconds"]), "")
        for score in [] if step["same"] else step["scores"]:
            table.add_row("", score["name"], *map(_number, score["values"], score["errors"]), _delta(score))
    screen = console()
    screen.print()
    screen.print(table)


def _number(value: float | None, error: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" + (f" ± {error:.2g}" if error is not None and error == error else "")


def _delta(score: dict[str, Any]) -> str:
    if score["delta"] is None:
        return ""
    return f"{score['delta']:+.3g}" + (f" ± {score['error']:.2g}" if score["error"] is not None else "")

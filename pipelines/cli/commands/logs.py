"""
`rayfield logs`: what a step printed.
"""

import json
import time
from typing import Any

import click

from pipelines.cli.main import STORE, store_at

SECTION = "See"
PAUSE = 1.0  # seconds between looks at a run that is followed


@click.command()
@click.argument("run", default="last")
@click.argument("step", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run, or the step, has ended")
@click.option("-n", "--tail", type=int, help="Only the last so many lines")
@STORE
@click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout: an object for each line printed")
def logs(run: str, step: str | None, follow: bool, tail: int | None, store: str, as_json: bool) -> None:
    """
    Print what the steps of RUN printed, or STEP alone: its own process, its workers, its trials.

    RUN is `last` or the beginning of a run's name; STEP a title such as "train pointnet", a key, or a beginning of it.
    """
    place = store_at(store)
    from pipelines.engine.monitoring.logs import rescue
    from pipelines.engine.monitoring.run_view import find, find_step, open_run

    rescue()
    name, seen, printed = find(place, run), dict[str, dict[str, int]](), False
    while True:
        found = open_run(place, name)
        chosen = [find_step(found, step)] if step else found.steps
        over = found.state != "running" or all(one.status in ("done", "cached", "failed", "skipped") for one in chosen)
        rows = _rows(place, found, chosen, seen)
        for row in rows[-tail:] if tail is not None and not printed else rows:
            click.echo(json.dumps(row) if as_json else _text(row, alone=bool(step)))
        printed = True
        if over or not follow:
            break
        time.sleep(PAUSE)
    if not seen_any(seen):
        click.echo("  Nothing was printed.", err=True)


def _rows(store: Any, run: Any, steps: list[Any], seen: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """The lines that are new, of all these steps, in the order of their times."""
    from pipelines.engine.monitoring.logs import as_dict, read

    rows = [
        {"step": step.title, **as_dict(line)}
        for step in steps
        for line in read(store, step.made_in(run.name), step.key, seen.setdefault(step.key, {}))
    ]
    return sorted(rows, key=lambda row: row["time"])


def _text(row: dict[str, Any], alone: bool) -> str:
    who = row["writer"] if alone else f"{row['step']}, {row['writer']}"
    return f"{row['time'][11:19]} {who:<{10 if alone else 28}} | {row['text']}"


def seen_any(seen: dict[str, dict[str, int]]) -> bool:
    return any(seen.values())

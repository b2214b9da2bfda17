"""
`rayfield show`: one run.
"""

import json
from typing import Any

import click

from pipelines.cli.hints import typed, with_store
from pipelines.cli.main import JSON, STORE, store_at

SECTION = "See"


@click.command()
@click.argument("run", default="last")
@STORE
@JSON
def show(run: str, store: str, as_json: bool) -> None:
    """Show RUN, the last by default: its steps, what came of them and what they took, and what went wrong."""
    place = store_at(store)
    from pipelines.engine.monitoring.run_view import find, open_run, whys

    found = open_run(place, find(place, run))
    if as_json:
        return click.echo(json.dumps(_as_dict(found, whys(found, place)), indent=1))
    _say(found, place)
    return None


def _say(run: Any, store: Any) -> None:
    from pipelines.engine.monitoring.console import also_read, console, noting_damage, run_tree, unread
    from pipelines.engine.monitoring.run_view import UNREAD, quarantined

    screen = console()
    run_tree(run, screen)
    for step in run.steps:
        with noting_damage(screen):
            unread(quarantined(store, step.manifest), step.title, UNREAD, screen)
        also_read(step, UNREAD, screen)
        if step.status == "failed":
            click.echo(f"\n  {step.title}\n{_wrong(step.failures[-1])}")
    _links(run, store)


def _wrong(failure: dict[str, Any]) -> str:
    """The error of a step: a mistake of people in its sentence, for where in the code it was met helps nobody."""
    trace = "" if failure.get("kind") in ("user", "data") else failure.get("traceback")
    return trace or f"  {failure['error']}"


def _as_dict(run: Any, whys: dict[str, str]) -> dict[str, Any]:
    steps = [
        {
            "title": step.title,
            "key": step.key,
            "step": step.step,
            "status": step.status,
            "why": whys[step.key],
            "began": step.began,
            "ended": step.ended,
            "attempts": step.attempts,
            "cost": step.cost,
            "describe": (step.manifest or {}).get("describe"),
            "also": step.also,
            "error": step.error,
            "traceback": step.failures[-1].get("traceback") if step.failures else None,
            "mlflow": run.ids.get(step.key),
        }
        for step in run.steps
    ]
    return {**run.record, "run": run.name, "state": run.state, "mlflow": run.ids.get(""), "steps": steps}


def _links(run: Any, store: Any) -> None:
    report = f"runs/{run.name}/report.html"
    rows = [("logs", typed(f"rayfield logs {run.name} STEP")), ("report", typed(f"rayfield report {run.name} --open"))]
    if not store.remote and store.read(report):
        rows[1] = ("report", f"{store.address}/{report}")
    if "" in run.ids:
        rows.append(("mlflow", with_store(run.page)))
    click.echo()
    for word, where in rows:
        click.echo(f"  {word:<8}{where}")

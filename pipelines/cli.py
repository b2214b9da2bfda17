"""
The command line: `rayfield --help` teaches it. Torch, Ray and MLflow are imported by the commands that need them.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from components.errors import RayfieldError, UsageError

STORE = click.option("--store", metavar="ADDRESS", envvar="RAYFIELD_STORE", help="Where everything is kept [.rayfield]")
JSON = click.option("--json", "as_json", is_flag=True, help="JSON on stdout")


class Main(click.Group):
    """Ends the mistakes of people in one line, and an unknown command with the nearest one."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RayfieldError as error:
            click.echo(f"rayfield: {error}", err=True)
            ctx.exit(error.code)
        except OSError as error:
            if error.errno not in (13, 28, 30):
                raise
            words = {13: "may not be opened", 28: "is full", 30: "is read-only"}[error.errno]
            place = error.filename or os.environ.get("RAYFIELD_STORE", ".rayfield")
            click.echo(
                f"rayfield: {place} {words}. Make room, or pass --store; a run continues where it was.", err=True
            )
            ctx.exit(1)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from components.errors import nearest

        if args and args[0] not in self.commands:
            raise UsageError(f"No command {args[0]!r}.{nearest(args[0], self.commands)} `rayfield --help` lists all.")
        return super().resolve_command(ctx, args)


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option("0.1.0", prog_name="rayfield")
def main() -> None:
    """
    Pipelines from raw 3D shapes to registered models.

    \b
      rayfield run quickstart                     the whole way, on this machine, in minutes
      rayfield run classify --source folder --root DIR      your own meshes: one folder a label
      rayfield predict models:/furniture@champion chair.obj
      rayfield ui                                 the runs and the models, in MLflow
    """


OPEN = {"ignore_unknown_options": True, "allow_extra_args": True}


@main.command(context_settings=OPEN, add_help_option=False)
@click.argument("pipeline", required=False)
@click.option("--set", "sets", multiple=True, metavar="FAMILY.FIELD=VALUE", help="A field of every such family")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop")
@STORE
@JSON
@click.option("-h", "--help", "helping", is_flag=True, help="This, and the pipeline's own parameters")
@click.pass_context
def run(
    ctx: click.Context, pipeline: str, sets: tuple[str, ...], dry_run: bool, store: str, as_json: bool, helping: bool
) -> None:
    """Run PIPELINE, a name of `rayfield pipelines` or a PATH.py: what is done already is kept."""
    if helping or not pipeline:
        return _help(ctx, pipeline)
    request, place = _request(pipeline, ctx.args, sets), _store(store)
    if dry_run:
        return _plan(request, place, as_json)
    ctx.exit(_run(request, place, as_json))


@main.command(context_settings=OPEN)
@click.argument("pipeline")
@click.option("--set", "sets", multiple=True, metavar="FAMILY.FIELD=VALUE", help="A field of every such family")
@STORE
@JSON
@click.pass_context
def plan(ctx: click.Context, pipeline: str, sets: tuple[str, ...], store: str, as_json: bool) -> None:
    """Show what a run of PIPELINE would do, and why."""
    _plan(_request(pipeline, ctx.args, sets), _store(store), as_json)


def _store(address: str | None) -> Any:
    from pipelines.engine.store import Store

    os.environ["RAYFIELD_STORE"] = address or ".rayfield"
    return Store.here()


def _request(name: str, extra: list[str], sets: tuple[str, ...]) -> Any:
    from pipelines.engine.pipeline import find, options, sketch
    from pipelines.engine.plans import Request

    path = find(name)
    known = {parameter.name for parameter in sketch(path).parameters}
    given = options(extra)
    texts = {n: v for n, v in given.items() if n in known}
    return Request(path, texts, _settings(sets), {n: v for n, v in given.items() if n not in known})


def _settings(sets: tuple[str, ...]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for text in sets:
        target, sign, value = text.partition("=")
        family, dot, field = target.partition(".")
        if not (sign and dot):
            raise UsageError(f"--set is family.field=value, but got {text!r}. For example --set pointnet.lr=3e-4.")
        found.setdefault(family, {})[field] = value
    return found


def _help(ctx: click.Context, name: str | None) -> None:
    from pipelines.engine.pipeline import find, sketch

    click.echo(ctx.get_help())
    if not name:
        return click.echo("\nPipelines: `rayfield pipelines`. Parameters: `rayfield run PIPELINE --help`.")
    drawn = sketch(find(name))
    click.echo(f"\nParameters of {drawn.name}:")
    for one in drawn.parameters:
        click.echo(f"  --{one.name:<12} {one.help or one.annotation} [{one.default}]")


def _run(request: Any, store: Any, as_json: bool) -> int:
    from pipelines.engine.plans import nodes, statuses, verdict

    found = nodes(request, store)
    manifests = statuses(found, store)
    if not all(manifests.values()):
        from pipelines.engine.running import execute

        return execute(request, found, store, as_json)
    from pipelines.engine.display import results

    status = {node["key"]: "cached" for node in found}
    _report(found, manifests, status, as_json)
    if not as_json:
        results(found, manifests, status)
    return verdict(manifests)


def _report(
    found: list[dict[str, Any]], manifests: Mapping[str, Any], status: Mapping[str, str], as_json: bool
) -> None:
    if as_json:
        from pipelines.engine.display import summary

        click.echo(json.dumps(summary(found, manifests, status), indent=1))


def _plan(request: Any, store: Any, as_json: bool) -> None:
    from pipelines.engine.plans import nodes, statuses

    found = nodes(request, store)
    manifests = statuses(found, store)
    rows = [
        {
            "step": node["title"],
            "key": node["key"],
            "action": "keep" if manifests[node["key"]] else "run",
            "seconds": (manifests[node["key"]] or {}).get("cost", {}).get("seconds"),
            "resources": node["resources"],
        }
        for node in found
    ]
    if as_json:
        return click.echo(json.dumps(rows, indent=1))
    for row in rows:
        cpus = f"{row['resources'].get('CPU', 0):g} CPU" if row["resources"].get("CPU") else ""
        click.echo(f"  {row['action']:<5} {row['step']:<24} {row['key'][:10]}  {cpus}", err=True)
    todo = sum(row["action"] == "run" for row in rows)
    click.echo(f"\n  {todo} of {len(rows)} steps would run.", err=True)


@main.command()
@STORE
@JSON
@click.option("-n", "count", default=10, help="How many [10]")
def status(store: str, as_json: bool, count: int) -> None:
    """List the last runs."""
    rows = []
    for name, record in list(_store(store).runs())[:count]:
        ended = record.get("ended")
        word = {None: "running", 0: "done", 5: "interrupted"}.get(record.get("code") if ended else None, "failed")
        seconds = (ended or time.time()) - record["started"]
        rows.append({"run": name, "pipeline": record["pipeline"], "status": word, "seconds": round(seconds, 1)})
    if as_json:
        return click.echo(json.dumps(rows, indent=1))
    for row in rows:
        click.echo(f"  {row['run']}  {row['pipeline']:<14} {row['status']:<12} {row['seconds']:>8.1f} s", err=True)
    if not rows:
        click.echo("  No run yet: `rayfield run quickstart`.", err=True)


@main.command()
@click.argument("name", required=False)
@STORE
@JSON
def show(name: str | None, store: str, as_json: bool) -> None:
    """Show one run, the last by default: its steps, what came of them, and what went wrong."""
    place = _store(store)
    found = dict(place.runs())
    name = name or next(iter(found), None)
    if name is None or name not in found:
        raise UsageError(f"No run {name!r} in {place.address}. `rayfield status` lists them.")
    from pipelines.engine.running import ledger_lines

    lines = {line["key"]: line for line in ledger_lines(place, name)}
    record = found[name]
    rows = [{**node, **lines.get(node["key"], {"status": "running"})} for node in record["nodes"]]
    if as_json:
        return click.echo(json.dumps({**record, "steps": rows}, indent=1))
    click.echo(f"  {name}  {record['title']}  {record['commit'][:12]}", err=True)
    for row in rows:
        manifest = place.manifest(row["key"]) or {}
        what = row.get("error") or manifest.get("describe", "")
        cost = manifest.get("cost", {}).get("seconds")
        click.echo(f"  {row['status']:<8} {row['title']:<22} {f'{cost:.1f} s' if cost else '':>9}  {what}", err=True)
        if row.get("traceback"):
            click.echo("\n" + row["traceback"], err=True)
    return None


@main.command()
@JSON
def pipelines(as_json: bool) -> None:
    """List the pipelines that ship."""
    from pipelines.engine import pipeline

    rows = [pipeline.sketch(pipeline.find(name)) for name in pipeline.names()]
    if as_json:
        return click.echo(json.dumps([{"name": r.name, "doc": r.doc.splitlines()[0]} for r in rows], indent=1))
    for row in rows:
        click.echo(f"  {row.name:<12} {row.doc.splitlines()[0]}")


@main.command()
@click.option("--markdown", is_flag=True, help="The README's table")
@JSON
def families(as_json: bool, markdown: bool) -> None:
    """List the model families, with what was measured of each."""
    from pipelines.engine.catalog import families as known
    from pipelines.engine.catalog import table

    if markdown:
        return click.echo(table())
    rows = known()
    if as_json:
        return click.echo(json.dumps(rows, indent=1))
    for row in rows:
        click.echo(f"  {row['name']:<12} {row['what']}\n               {row['size']}\n               {row['measured']}")


@main.command()
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The picture [FILE.png]")
@click.option("--up", type=click.Choice(["x", "y", "z"]), default="y", help="The axis of the file that points up [y]")
@STORE
@JSON
def predict(model: str, file: Path, out: Path | None, up: str, store: str, as_json: bool) -> None:
    """Ask a registered MODEL (models:/NAME@champion) about one FILE: an answer and a picture."""
    _store(store)
    from pipelines.engine.asking import ask

    answer = ask(model, file, out or file.with_suffix(".png"), up)
    if as_json:
        return click.echo(json.dumps(answer, indent=1))
    for label, share in answer["answers"][:5]:
        click.echo(f"  {share:6.1%}  {label}")
    click.echo(f"  picture: {answer['picture']}", err=True)


@main.command()
@click.argument("family")
@STORE
@click.option("--out", type=click.Path(path_type=Path), help="Where results/FAMILY.json goes [results]")
def certify(family: str, store: str, out: Path | None) -> None:
    """Run the seven points of SYSTEMS.md on FAMILY, and write results/FAMILY.json."""
    place = _store(store)
    from pipelines.engine.certificate import certify as run_all

    ok = run_all(family, place, out)
    sys.exit(0 if ok else 1)


@main.group()
def new() -> None:
    """Write a working file of your own."""


@new.command("family")
@click.argument("name")
def new_family(name: str) -> None:
    """Write components/families/NAME.py and its test."""
    from pipelines.engine.scaffold import family

    for path in family(name):
        click.echo(f"  {path}")
    click.echo(f"  Try it: pytest tests/components/families/test_{name}.py", err=True)


@main.command()
@click.option("--port", default=5000, help="[5000]")
@STORE
def ui(port: int, store: str) -> None:
    """Open MLflow's pages on this machine: runs, figures, registered models."""
    _store(store)
    from components.files import tracking_uri

    uri = tracking_uri()
    if not uri.startswith("sqlite"):
        click.echo(f"  MLflow is at {uri}", err=True)
        return
    click.echo(f"  http://127.0.0.1:{port}   Ctrl-C ends it", err=True)
    folder = uri.removeprefix("sqlite:///").removesuffix("mlflow.db")
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", uri]
    command += ["--default-artifact-root", f"{folder}mlartifacts", "--workers", "1"]
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.execvp(command[0], command)


@main.command()
@STORE
@JSON
def doctor(store: str, as_json: bool) -> None:
    """Check this machine: packages, store, MLflow, Ray, space."""
    place = _store(store)
    from pipelines.engine.doctor import examine

    rows = examine(place)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        for row in rows:
            click.echo(f"  {'ok  ' if row['ok'] else 'BAD '} {row['what']:<10} {row['found']}")
    sys.exit(0 if all(row["ok"] for row in rows) else 1)


if __name__ == "__main__":
    main()

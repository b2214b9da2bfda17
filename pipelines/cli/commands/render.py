"""
`rayfield render`: manifests for a cluster of one's own.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from components.errors import UsageError
from pipelines.cli.main import OPEN, SETS, request_of

SECTION = "Cluster"


@click.group()
def render() -> None:
    """Write the manifests of a pipeline for Kubernetes."""


@render.command(context_settings=OPEN)
@click.argument("pipeline")
@click.option("--image", required=True, help="The image of infra/Dockerfile, with its version")
@click.option("--store", required=True, metavar="ADDRESS", envvar="RAYFIELD_STORE", help="s3://bucket/rayfield")
@click.option("--mlflow", "tracking", metavar="URL", default="", help="The MLflow server, as the pods reach it")
@click.option("--schedule", metavar="LINE", default="", help="A cron line; with --timezone")
@click.option("--timezone", metavar="ZONE", default="", help="An IANA name, such as Europe/Berlin")
@click.option("--ray-cron-job", is_flag=True, help="KubeRay's RayCronJob too: its gate must be on")
@click.option("--name", default="", help="Of the cluster and the jobs [the pipeline's]")
@click.option("--namespace", default="default", help="[default]")
@click.option("--secret", default="rayfield", help="The Secret whose variables each pod gets [rayfield]")
@click.option("--nodes", "workers", type=click.IntRange(1), default=2, help="At most so many nodes [2]")
@click.option("--cpus", type=click.IntRange(1), default=4, help="Of a node [4]")
@click.option("--memory", default="16Gi", help="Of a node [16Gi]")
@click.option("--gpus", type=click.IntRange(0), default=0, help="Of a node [0]")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The folder; else all is printed")
@SETS
@click.pass_context
def k8s(
    ctx: click.Context, pipeline: str, sets: tuple[str, ...], out: Path | None, ray_cron_job: bool, **given: Any
) -> None:
    """Write KubeRay's RayCluster and RayJob for PIPELINE, and with --schedule a CronJob that submits."""
    from pipelines.engine import pipeline as reading
    from pipelines.engine.cluster.kubernetes import Deployment, manifests

    if pipeline.endswith(".py"):
        raise UsageError(f"A pipeline on a cluster is one of the image, but got {pipeline}. Put it into pipelines/.")
    request = request_of(pipeline, ctx.args, sets)
    reading.values(reading.load(request.pipeline), request.texts, request.source)  # a wrong name or a secret ends here
    given["name"] = given["name"] or pipeline.replace("_", "-")
    run = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{given['name']}"
    words = (*ctx.args, *(word for text in sets for word in ("--set", text)))
    of = Deployment(pipeline=request.name, words=words, run=run, **given).checked()
    found = manifests(of, ray_cron_job=ray_cron_job)
    if out is None:
        return click.echo("---\n".join(found.values()), nl=False)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in found.items():
        (out / name).write_text(text, encoding="utf-8")
        click.echo(f"  {out / name}")

"""
`rayfield ui`: MLflow's pages.
"""

import os
import sys
from pathlib import Path

import click

from components.runtime.redaction import redact
from pipelines.cli.main import STORE, store_at

SECTION = "See"
LOOPBACK = "127.0.0.1"


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, help="[5000]")
@click.option("--host", default=LOOPBACK, help="The address to listen on: this machine alone [127.0.0.1]")
@STORE
def ui(port: int, host: str, store: str) -> None:
    """Open MLflow's pages on this machine: runs, figures, registered models."""
    store_at(store)
    from components.runtime.objects import database, tracking_uri
    from components.steps.registry.versions import artifacts_beside, check_address

    uri = tracking_uri()
    path = database(uri)
    if path is None:
        check_address(uri)
        click.echo(f"  MLflow is at {redact(uri)}", err=True)
        return
    if host != LOOPBACK:
        click.echo(f"  {host} is open to others, and MLflow asks nobody who they are.", err=True)
    click.echo(f"  http://{host}:{port}   Ctrl-C ends it", err=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["mlflow", "server", "--host", host, "--port", str(port), "--backend-store-uri", uri]
    command += ["--default-artifact-root", artifacts_beside(path), "--workers", "1"]
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.execvp(command[0], command)

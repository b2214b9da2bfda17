"""
`rayfield ui`: MLflow's pages.
"""

import os
import sys
from pathlib import Path

import click

from pipelines.cli import STORE, store_at

SECTION = "See"


@click.command()
@click.option("--port", default=5000, help="[5000]")
@STORE
def ui(port: int, store: str) -> None:
    """Open MLflow's pages on this machine: runs, figures, registered models."""
    store_at(store)
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

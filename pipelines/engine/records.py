"""
What a run's record says beside its steps: how to make the run again, and where it was made.
"""

import os
import platform
import shlex
from collections import Counter
from collections.abc import Mapping
from importlib import metadata

from pipelines.engine.code import ROOT
from pipelines.engine.plans import Request

PACKAGES = ("rayfield", "ray", "torch", "mlflow", "numpy", "pyarrow")


def command(request: Request) -> str:
    """The command line that asks for the same."""
    inside = request.pipeline.parent == ROOT / "pipelines"
    words = ["rayfield", "run", request.name if inside else str(request.pipeline)]
    for name, value in {**request.texts, **request.source}.items():
        words += [f"--{name.replace('_', '-')}", value]
    for family, own in request.settings.items():
        words += [word for field, value in own.items() for word in ("--set", f"{family}.{field}={value}")]
    return shlex.join(words)


def environment() -> dict[str, str]:
    """The machine and the versions, read without importing what they are of."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "host": os.uname().nodename, "system": platform.platform(), "cpus": str(os.cpu_count())}


def counts(statuses: Mapping[str, str]) -> dict[str, int]:
    """How many steps ended how."""
    return dict(Counter(statuses.values()))

"""
The record of a run: its request, its steps, how to make it again, and where it is made.
"""

import os
import platform
import shlex
import subprocess
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from components.runtime.redaction import redacted
from pipelines.engine.caching.modules import ROOT
from pipelines.engine.graph.plan_cache import Request
from pipelines.engine.pipeline import sketch

PACKAGES = ("rayfield", "ray", "torch", "mlflow", "numpy", "pyarrow")


def new_name(request: Request) -> str:
    """A name for a run: the time, what was asked, and chance, for two may begin in one second."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{request.digest()[:4]}{uuid.uuid4().hex[:4]}"


def begun(request: Request, nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of a run that begins now, without its owner and without secrets."""
    now = datetime.now(UTC)
    record = {
        "pipeline": request.name,
        "title": f"{request.name} {now:%Y-%m-%d %H:%M}",
        "parameters": {p.name: p.default for p in sketch(request.pipeline).parameters} | request.said(),
        "nodes": [{name: n[name] for name in ("key", "title", "step", "needs")} for n in nodes],
        "command": command(request),
        "environment": environment(),
        "commit": commit(),
        "started": now.timestamp(),
    }
    return redacted(record)


def commit() -> str:
    """The project's git commit, with "+" where files differ from it; of a repository around the project nothing."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=5).stdout.strip()


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

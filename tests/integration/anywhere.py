"""
A small pipeline of every step that has workers, run by the command line as a user runs it: nothing of ours is set.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.meshes import write_shapes

ROOT = Path(__file__).resolve().parents[2]
OURS = ("RAYFIELD_", "MLFLOW_", "RAY_", "PYTHON", "LC_", "LANG", "NUMBA_", "TZ")
PIPELINE = '''
"""Möbel, klein: every step that has workers."""

from components.artifacts import at_least
from components.families.shapes.voxnet import VoxNet
from components.source import Source
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.pipeline import pipeline


@pipeline
def small(source: Source = "folder"):
    family = VoxNet(resolution=16, pad=2, filters=4, hidden=8, batch=8, steps=6)
    table = preprocess(source, [family.representation()])
    scores = evaluate(train(tune(family, table, trials=2), table, workers=1), table)
    register(scores, name="small", gate=at_least(accuracy=0.0))
'''
STEPS = {"preprocess", "tune voxnet", "train voxnet", "evaluate voxnet", "register small"}


def laid_out(folder: Path) -> Path:
    """A folder with a pipeline of one's own and shapes, some with names that ASCII has not."""
    folder.mkdir(parents=True)
    (folder / "small.py").write_text(PIPELINE, encoding="utf-8")
    write_shapes(folder / "shapes", each=5, labels=("flat", "round"))
    (folder / "shapes" / "flat").rename(folder / "shapes" / "plattgedrückt")
    return folder


def environment(tmp_path: Path, **changes: str | None) -> dict[str, str]:
    """What a user's shell has: none of our variables, a home of its own; None takes one away."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    for cache in (tmp_path / "home" / ".cache" / "rayfield", tmp_path / "cache"):
        with_kernels(cache)
    found |= {"HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    found |= {name: value for name, value in changes.items() if value is not None}
    return {name: value for name, value in found.items() if name not in changes or changes[name] is not None}


def with_kernels(cache: Path) -> None:
    """Gives a cache the kernels that were compiled before: each user of a test would compile them for half a minute."""
    compiled = ROOT / ".rayfield" / "numba"
    compiled.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    if not (cache / "numba").exists():
        (cache / "numba").symlink_to(compiled)


def rayfield(
    words: Sequence[str],
    folder: Path,
    variables: Mapping[str, str],
    *,
    command: Sequence[str] = (sys.executable, "-m", "pipelines"),
    umask: int = -1,
    before: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """A command in a folder, with what it printed; bytes that are no UTF-8 would show as such."""
    return subprocess.run(
        [*command, *words],
        cwd=folder,
        env=dict(variables),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        umask=umask,
        preexec_fn=before,
        timeout=500,
    )


def run_and_ask(folder: Path, variables: Mapping[str, str], store: str, out: Path, **how: Any) -> None:
    """Runs the pipeline, asks the model that it registered, and runs it again: all is kept."""
    asked = ["run", "small.py", "--root", "shapes", "--store", store]
    for status in ("done", "cached"):
        ran = rayfield([*asked, "--json"], folder, variables, **how)
        assert ran.returncode == 0, ran.stderr
        assert {row["step"]: row["status"] for row in json.loads(ran.stdout)} == dict.fromkeys(STEPS, status)
    question = ["predict", "models:/small@champion", "shapes/plattgedrückt/0.obj", "--store", store, "--out", str(out)]
    told = rayfield(question, folder, variables, **how)
    assert told.returncode == 0, told.stderr
    assert sum(line.count("%") for line in told.stdout.splitlines()) == 2, told.stdout
    assert out.read_bytes().startswith(b"\x89PNG")

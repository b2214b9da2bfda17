"""
A run by the command line from a folder that is not the project's, with everything named relative to that folder.

Ray Train and Ray Tune put their workers into folders of their own: a relative path would mean another place there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meshes import write_shapes

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = '''
from components.artifacts import at_least
from components.families.shapes.voxnet import VoxNet
from components.source import Source
from components.steps.evaluate import evaluate
from components.steps.predict import predict
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.pipeline import pipeline


@pipeline
def relative(source: Source = "folder", workers: int = 1):
    """All steps that work in folders of their own."""
    family = VoxNet(resolution=16, pad=2, filters=4, hidden=8, batch=8, steps=6)
    table = preprocess(source, [family.representation()])
    checkpoint = train(tune(family, table, trials=2), table, workers=workers)
    scores = evaluate(checkpoint, table)
    register(scores, name="relative", gate=at_least(accuracy=0.0))
    predict(checkpoint, table)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "relative.py").write_text(PIPELINE)
    write_shapes(tmp_path / "work" / "shapes", each=5)
    return tmp_path / "work"


def rayfield(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    unset = ("RAYFIELD_STORE", "MLFLOW_TRACKING_URI")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipelines", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.parametrize("store", ["", "it's a? 100%20 #1"], ids=["the default", "of every sign"])
def test_every_step_finds_the_store_from_the_folder_of_its_worker(folder, store):
    own = ["--json", *(["--store", store] if store else [])]
    ran = rayfield(folder, "run", "relative.py", "--workers", "1", "--root", "shapes", *own)
    assert ran.returncode == 0, ran.stderr
    told = rayfield(folder, "predict", "models:/relative@champion", "shapes/flat/0.obj", "--out", "answer.png", *own)
    assert told.returncode == 0, told.stderr

    done = {row["step"].partition(" ")[0] for row in json.loads(ran.stdout) if row["status"] == "done"}
    assert done >= {"preprocess", "tune", "train", "evaluate", "register", "predict"}
    assert json.loads(told.stdout)["answers"][0][0] in ("flat", "long", "round")
    made = {path.name for path in folder.iterdir()} - {"__pycache__"}
    assert made == {store or ".rayfield", "answer.png", "relative.py", "shapes"}
    assert (folder / (store or ".rayfield") / "mlflow.db").is_file()

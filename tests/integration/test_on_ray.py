"""
One pipeline from a folder of shapes to a registered champion, each of its steps on a real Ray.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.torch import load as load_tensors
from torch.testing import assert_close

from components.artifacts import Checkpoint
from components.runtime.serialization import decode
from components.sources.folder import Folder
from components.steps.preprocess import preprocess
from components.steps.registry.versions import client
from components.steps.train import train
from pipelines.cli.main import main
from tests.meshes import small_pointnet, small_voxnet, write_shapes

MINE = '''
from components.artifacts import at_least
from components.source import Source
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.register import register
from components.steps.train import train
from components.steps.tune import tune
from pipelines.engine.pipeline import pipeline
from tests.meshes import small_pointnet, small_voxnet


@pipeline
def mine(source: Source = "folder", trials: int = 2, workers: int = 1):
    """The whole way."""
    family = small_pointnet(steps=40)
    table = preprocess(source, [family.representation(), small_voxnet().representation()], on="ray")
    best = tune(family, table, trials=trials)
    scores = evaluate(train(best, table, workers=workers), table, on="here")
    register(scores, name="on-ray", gate=at_least(accuracy=0.5))
'''
STEPS = ["preprocess", "tune pointnet", "train pointnet", "evaluate pointnet", "register on-ray"]


class Ran(NamedTuple):
    """A run of the pipeline, and where everything is."""

    code: int
    rows: dict[str, dict[str, Any]]
    folder: Path
    store: Path

    def made(self, step: str) -> Any:
        return decode(self.rows[step]["result"])


def rayfield(*words: str) -> tuple[int, Any]:
    result = CliRunner().invoke(main, list(words), catch_exceptions=False)
    return result.exit_code, json.loads(result.stdout)


def run_mine(folder: Path, store: Path, *more: str) -> Ran:
    words = ["--root", str(folder / "shapes"), "--store", str(store), "--json", *more]
    code, rows = rayfield("run", str(folder / "mine.py"), *words)
    return Ran(code, {row["step"]: row for row in rows}, folder, store)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, ray_session: None, tracking: str) -> Ran:
    """96 shapes in four shards, two trials, one worker: what all of these tests look at."""
    folder = tmp_path_factory.mktemp("on-ray")
    (folder / "mine.py").write_text(MINE)
    write_shapes(folder / "shapes", each=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracking)
        return run_mine(folder, folder / "store")


@pytest.fixture
def ran(once: Ran, monkeypatch: pytest.MonkeyPatch) -> Ran:
    monkeypatch.setenv("RAYFIELD_STORE", str(once.store))
    return once


def test_every_step_is_done_and_the_model_is_champion(ran):
    assert ran.code == 0
    assert {step: row["status"] for step, row in ran.rows.items()} == dict.fromkeys(STEPS, "done")
    assert ran.made("register on-ray").verdict == "PROMOTE"
    assert ran.made("evaluate pointnet").test["accuracy"] > 0.9


def test_the_same_run_again_keeps_everything(ran):
    again = run_mine(ran.folder, ran.store)

    assert {row["status"] for row in again.rows.values()} == {"cached"}
    assert len(client().search_model_versions("name = 'on-ray'")) == 1


def test_rows_made_on_ray_are_bit_for_bit_those_made_here(ran):
    table = ran.made("preprocess")
    sets = [small_pointnet().representation(), small_voxnet().representation()]
    here = preprocess(Folder(root=str(ran.folder / "shapes")), sets, on="here")

    assert len(table.sets[0].shards) > 1
    assert here.sets == table.sets
    assert here.assets == table.assets


def test_a_worker_of_ray_learns_what_this_process_learns(ran):
    checkpoint: Checkpoint = ran.made("train pointnet")
    here = train(ran.made("tune pointnet"), ran.made("preprocess"), workers=0)

    assert_close(load_tensors(here.weights.read()), load_tensors(checkpoint.weights.read()), rtol=1e-4, atol=1e-5)


def test_mlflow_has_the_run_its_steps_and_the_trials(ran):
    api = client()
    experiment = api.get_experiment_by_name("mine")
    runs = {run.info.run_name: run for run in api.search_runs([experiment.experiment_id])}

    assert set(STEPS) <= runs.keys()
    assert {"trial 00 fold 0", "trial 01 fold 0"} <= runs.keys()
    assert runs["trial 01 fold 0"].data.tags["mlflow.parentRunId"] == runs["tune pointnet"].info.run_id
    assert runs["train pointnet"].data.metrics["loss"] < 1.2
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_more_workers_are_the_same_key(ran):
    more = run_mine(ran.folder, ran.store, "--workers", "3")

    assert {row["status"] for row in more.rows.values()} == {"cached"}


def test_the_champion_is_asked_about_a_file(ran, tmp_path):
    picture = tmp_path / "answer.png"
    shape = ran.folder / "shapes" / "flat" / "3.obj"
    code, answer = rayfield(
        "predict", "models:/on-ray@champion", str(shape), "--out", str(picture), "--json", "--store", str(ran.store)
    )

    assert code == 0
    assert answer["answers"][0][0] == "flat"
    assert np.isclose(sum(share for _, share in answer["answers"]), 1)
    assert picture.read_bytes().startswith(b"\x89PNG")

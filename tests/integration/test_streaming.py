"""
A pipeline that trains while its shards are made, on a real Ray, through the command line.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

from components.runtime.serialization import decode
from components.sources.folder import Folder
from components.steps import ray_workers
from components.steps.preprocess import Work, preprocess
from components.steps.stream import making
from pipelines.cli.main import main
from pipelines.engine.execution.context import Running
from pipelines.engine.store.store import Store
from tests.meshes import small_voxnet, write_shapes

MINE = '''
from components.source import Source
from components.steps.evaluate import evaluate
from components.steps.preprocess import preprocess
from components.steps.train import train
from pipelines.engine.pipeline import pipeline
from tests.meshes import small_voxnet


@pipeline
def mine(source: Source = "folder", workers: int = 1):
    """A training that begins before its table is made."""
    family = small_voxnet(steps=30)
    sets = [family.representation()]
    checkpoint = train(family, preprocess.stream(source, *sets), workers=workers)
    evaluate(checkpoint, preprocess(source, sets, on="here", after=checkpoint), on="here")
'''


def run_mine(folder: Path, *more: str) -> dict[str, dict[str, Any]]:
    words = ["--root", str(folder / "shapes"), "--store", str(folder / "store"), "--json", *more]
    result = CliRunner().invoke(main, ["run", str(folder / "mine.py"), *words], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return {row["step"].split()[0]: row for row in json.loads(result.stdout)}


def shards(store: Store) -> dict[str, str]:
    """Key -> the step that made it, of every part that is remembered."""
    keys = (json.loads(path.read_text()) | {"key": path.stem} for path in Path(store.address).glob("keys/**/*.json"))
    return {manifest["key"]: manifest["part_of"] for manifest in keys if "part_of" in manifest}


def test_a_run_makes_its_shards_while_it_trains_and_preprocess_finds_them_all(tmp_path, ray_session, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    write_shapes(tmp_path / "shapes", each=32)
    store = Store(str(tmp_path / "store"))
    monkeypatch.setenv("RAYFIELD_STORE", store.address)

    first = run_mine(tmp_path)
    made = shards(store)

    assert len(made) > 1
    assert set(made.values()) == {first["train"]["key"]}  # not one was made by preprocess
    checkpoint, table = decode(first["train"]["result"]), decode(first["preprocess"]["result"])
    assert checkpoint.family.labels == table.labels
    assert all(np.isfinite(p.detach().numpy()).all() for p in checkpoint.network().parameters())
    judged = [line["step"] for line in checkpoint.curves() if "val_loss" in line]
    assert judged[-1] == 30
    here = preprocess(Folder(root=str(tmp_path / "shapes")), [small_voxnet().representation()], on="here")
    assert here.sets == table.sets


def test_ray_data_makes_the_shards_and_leaves_the_workers_their_cpus(tmp_path, ray_session, monkeypatch, caplog):
    monkeypatch.setattr(ray_workers, "SMALL", 0.0)
    store, limits = Store(str(tmp_path / "store")), []
    monkeypatch.setenv("RAYFIELD_STORE", store.address)
    real = ray_workers._on_ray
    monkeypatch.setattr(ray_workers, "_on_ray", lambda *told: limits.append(told[4]) or real(*told))
    context = Running(store, "run", "key", (("components.steps.train", "train"),), seed=0, resources={"CPU": 3.0})
    source = Folder(root=str(write_shapes(tmp_path / "shapes", each=64)))
    work = Work.of(source, [small_voxnet().representation()], context)
    with caplog.at_level(logging.WARNING), making(work, 2, context) as over:
        while not Path(over).exists() and not caplog.text:
            time.sleep(0.05)

    assert caplog.text == ""
    assert limits == [1.0]
    assert work.missing(context) == []

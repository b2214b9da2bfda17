"""
The ways that few runs take, on a real Ray: a streamed feed, two workers, Optuna's search.
"""

import numpy as np
import pytest

from components.artifacts import Checkpoint
from components.runtime import objects
from components.sources.folder import Folder
from components.step import Printing
from components.steps.preprocess import preprocess
from components.steps.train import train
from components.steps.tune import tune
from components.table import Table
from tests.meshes import small_pointnet, write_shapes


@pytest.fixture
def table(tmp_path) -> Table:
    shapes = write_shapes(tmp_path / "shapes")
    return preprocess(Folder(root=str(shapes)), [small_pointnet().representation()], on="here")


def weights(checkpoint: Checkpoint) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in checkpoint.network().parameters()])


def test_two_workers_learn_the_same_from_the_disk_as_from_memory(table, ray_session):
    made = [
        train.run(train.bind((small_pointnet(), table), {"feed": feed, "workers": 2}), Printing(resources={"CPU": 4}))
        for feed in ("stream", "indexed")
    ]

    assert made[0].weights == made[1].weights


def test_optuna_proposes_the_preset_first_and_returns_one_of_its_trials(table, ray_session, own_store):
    objects.use(str(own_store))
    family, context = small_pointnet(steps=8), Printing(resources={"CPU": 2})

    best = tune.run(tune.bind((family, table), {"trials": 3, "search": "optuna"}), context)

    assert "search" in context.figures
    assert best.points == family.points
    assert all(1e-4 <= best.lr <= 1e-1 for _ in best.space())

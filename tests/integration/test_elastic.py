"""
Groups of workers on a real Ray, some of whose processes are killed.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load as load_tensors
from torch.testing import assert_close

from components.artifacts import Checkpoint
from components.errors import DataError
from components.families.shapes.voxnet import VoxNet
from components.family import Family
from components.sources.folder import Folder
from components.steps import train as module
from components.steps.preprocess import preprocess
from components.steps.train import train
from components.table import Table
from tests.meshes import small_voxnet, write_shapes
from tests.mortal import Mortal, Refusing, Witness, without_chance_of


@pytest.fixture
def table(tmp_path: Path) -> Table:
    shapes = write_shapes(tmp_path / "shapes")
    return preprocess(Folder(root=str(shapes)), [small_voxnet().representation()], on="here")


@pytest.fixture
def grave(tmp_path: Path) -> Path:
    (tmp_path / "grave").mkdir()
    return tmp_path / "grave"


def trained(family: Family, table: Table, folder: Path, workers: Any) -> tuple[Checkpoint, Witness]:
    context = Witness(resources={"CPU": 4}, folder=str(folder))
    folder.mkdir()
    return train.run(train.bind((family, table), {"workers": workers}), context), context


def weights(checkpoint: Checkpoint) -> dict[str, Any]:
    return load_tensors(checkpoint.weights.read())


def test_a_killed_worker_changes_no_weight_and_costs_one_interval(table, tmp_path, grave, ray_session, monkeypatch):
    """Two processes of gloo, with four and three rows; the second is killed. A checkpoint follows each update."""
    undisturbed, _ = trained(without_chance_of(VoxNet, batch=7), table, tmp_path / "undisturbed", 0)
    monkeypatch.setattr(module, "SAVE", 0.0)

    family = without_chance_of(Mortal, batch=7, grave=str(grave))
    disturbed, witness = trained(family, table, tmp_path / "disturbed", (1, 2))

    assert len(list(grave.iterdir())) == 1
    assert_close(weights(disturbed), weights(undisturbed), rtol=1e-4, atol=1e-5)
    assert disturbed.chosen == undisturbed.chosen
    steps = Counter(line["step"] for line in witness.seen())
    assert sorted(steps) == list(range(1, 13))
    assert sum(steps.values()) - 12 <= 1
    assert len({line["process"] for line in witness.seen()}) == 2
    assert {line["workers"] for line in witness.seen()} == {2}


def test_what_is_somebodys_to_mend_ends_a_group_at_once_in_its_own_words(table, tmp_path, grave, ray_session):
    with pytest.raises(DataError, match="A shape must have a surface, but 17 has none. Leave it out."):
        trained(without_chance_of(Refusing, grave=str(grave)), table, tmp_path / "refused", 2)

    assert len(list(grave.iterdir())) == 1

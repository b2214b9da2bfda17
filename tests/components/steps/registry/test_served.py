"""
A registered model's own code: loaded with the packages that it names, it answers as its family does.

tests/integration/test_registry.py loads one with MLflow alone, where there is no clone.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_tensors

from components.artifacts import Checkpoint
from components.errors import DataError
from components.families.shapes.pointnet import PointNet
from components.families.shapes.voxnet import VoxNet
from components.runtime.objects import keep
from components.steps.registry import packaging
from components.steps.registry.inference import answer, opened
from components.steps.registry.served import Served
from tests.meshes import small_voxnet

ROOT = Path(__file__).resolve().parents[4]
IMPORTED = {"pillow": "PIL", "scikit-learn": "sklearn"}
OF_TORCH = {"fsspec", "filelock", "pillow"}  # torch and matplotlib bring them
REFUSING = """
import importlib, json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"{name} is none of the packages that a registered model names")

refused = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Refuse())
from components.family import find, names
import components.steps.registry.inference
for name in names():
    find(name)
"""


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    family = VoxNet(**{**vars(small_voxnet()), "classes": 3, "labels": ("flat", "long", "round")})
    weights = {name: value.contiguous() for name, value in family.network().state_dict().items()}
    return Checkpoint(family, family.representation(), keep("weights", save_tensors(weights)), 1, 1, "cpu", 1)


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    return packaging.written(tmp_path / "model", checkpoint, "key")


def test_what_was_written_is_read_back(folder, checkpoint):
    family, representation, net = opened(folder)

    assert (family, representation) == (checkpoint.family, checkpoint.representation)
    assert not net.training
    for name, value in checkpoint.network().state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("bare", [False, True], ids=["by column", "as one array"])
def test_it_answers_as_its_family_does(folder, checkpoint, bare):
    """A column's name may be left out where there is one column."""
    question = np.random.default_rng(0).integers(0, 2, (2, 16, 16, 16)).astype(np.uint8)
    model = Served()
    model.load_context(SimpleNamespace(artifacts={"model.json": str(folder / "model.json")}))
    said = model.predict(None, question if bare else {"voxels": question})
    expected = answer(checkpoint.family, checkpoint.network(), {"voxels": question})

    np.testing.assert_array_equal(said["probabilities"], expected["probabilities"])
    np.testing.assert_allclose(said["probabilities"].sum(1), 1, rtol=1e-5)


def test_a_folder_that_names_anything_but_this_projects_dataclasses_is_refused(folder):
    said = json.loads((folder / "model.json").read_text())
    del said["seal"]
    (folder / "model.json").write_text(json.dumps({**said, "family": {"@": "os:system", "command": "true"}}))

    with pytest.raises(DataError, match="A manifest may name dataclasses of components/ and of the pipeline"):
        opened(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_folder_that_a_disk_has_changed_is_refused(folder, name):
    """By one bit: of the last weight, or of a number that the family has."""
    data = bytearray((folder / name).read_bytes())
    place = -1 if name == "model.safetensors" else data.index(b'"steps": ') + len(b'"steps": ')
    data[place] ^= 1
    (folder / name).write_bytes(data)

    with pytest.raises(DataError, match="must be as it was registered, but the one in .* is damaged"):
        opened(folder)


def test_it_is_loaded_with_the_packages_that_it_names_and_no_others():
    """Neither Ray nor the command line's packages are asked for where a model is served."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {line.partition("[")[0].partition(">")[0] for line in project}
    refused = [IMPORTED.get(name, name) for name in names - set(packaging.NEEDED) - OF_TORCH - {"mlflow"}]
    assert {"ray", "click", "sklearn", "optuna"} <= set(refused)
    command = [sys.executable, "-W", "ignore", "-c", REFUSING, json.dumps(refused)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr.strip().splitlines()[-1]


def test_the_code_beside_the_weights_is_what_loads_them_and_no_more(tmp_path):
    checkpoint = SimpleNamespace(family=PointNet.tiny(), representation=PointNet.tiny().representation())
    (copied,) = map(Path, packaging._code(tmp_path / "code", checkpoint))
    files = {path.relative_to(copied).as_posix() for path in copied.rglob("*.py")}

    assert {
        "steps/registry/served.py",
        "families/shapes/pointnet.py",
        "representations/points.py",
        "training/learner.py",
    } <= files
    assert not {"families/shapes/voxnet.py", "steps/train.py", "sources/furniture.py", "formats/decode.py"} & files
    assert [path for path in copied.rglob("*") if path.is_file() and path.suffix != ".py"] == []

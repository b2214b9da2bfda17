"""
What a model answers to an asset of several rows.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from components.families.recap.convnet import ConvNet
from components.steps.registry.inference import answer, joined, opened


def test_views_are_joined_as_they_are_scored():
    """One view is sure and two doubt: the mean of probabilities says the second class, that of their logs the first."""
    views = np.array([[0.999, 0.001], [0.2, 0.8], [0.2, 0.8]], np.float32)
    shape, truth = np.zeros(3, np.int64), np.zeros(3, np.int64)
    scored = ConvNet(classes=2).confusion({"answers": [np.log(views)], "truth": [truth], "shape": [shape]})

    assert views.mean(0).argmax() == 1
    assert joined(views).argmax() == scored[0].argmax() == 0
    assert joined(views).sum() == pytest.approx(1)


def test_one_row_is_answered_as_it_is():
    assert joined(np.array([[0.25, 0.75, 0.0]])).tolist() == pytest.approx([0.25, 0.75, 0.0])


OWN = """
from beside_the_net import FACTOR
from torch import nn

from components.family import Family
from components.representations.points import Points


class MyNet(Family):
    def network(self):
        return nn.Linear(1, 1)

    def predict(self, net, batch):
        return {"answer": net(batch["points"]) * FACTOR}
"""


def model(folder: Path, factor: int) -> Path:
    """The folder of a registered model of one's own family, whose code has a number of its own."""
    for name in ("artifacts", "code"):
        (folder / name).mkdir(parents=True)
    (folder / "code" / "rayfield_nets.py").write_text(OWN)
    (folder / "code" / "beside_the_net.py").write_text(f"FACTOR = {factor}\n")
    said = {"family": {"@": "own:rayfield_nets:MyNet"}, "representation": {"@": "representation:points"}}
    (folder / "artifacts" / "model.json").write_text(json.dumps({**said, "own": ["rayfield_nets"]}))
    save_file({"weight": torch.ones(1, 1), "bias": torch.zeros(1)}, folder / "artifacts" / "model.safetensors")
    return folder / "artifacts"


def test_a_model_answers_by_the_code_that_came_with_it_whatever_this_process_has_of_that_name(tmp_path):
    """A champion beside a candidate, whose family has been edited since."""
    models = [opened(model(tmp_path / str(factor), factor)) for factor in (2, 3)]
    question = {"points": np.ones((1, 1), np.float32)}

    assert [answer(family, net, question)["answer"].item() for family, _, net in models] == [2, 3]
    assert not {"rayfield_nets", "beside_the_net"} & sys.modules.keys()


def test_a_family_that_came_with_a_model_goes_to_a_process_that_has_no_such_file(tmp_path):
    """As Ray sends it."""
    from ray import cloudpickle

    family, _, net = opened(model(tmp_path / "one", 5))
    question = {"points": np.ones((1, 1), np.float32)}
    sent = cloudpickle.loads(cloudpickle.dumps(family))

    assert answer(sent, net, question)["answer"].item() == 5
    assert b"MyNet" in cloudpickle.dumps(family) and type(sent).__name__ == "MyNet"

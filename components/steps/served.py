"""
A registered model's code: MLflow runs this file where the model is loaded. Weights are safetensors, never a pickle.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from safetensors.torch import load_file

from components.plain import decode
from components.training import load_weights


def opened(folder: Path) -> tuple[Any, Any, torch.nn.Module]:
    """The family, the representation and the network that a model's folder holds."""
    said = json.loads((folder / "model.json").read_text())
    family, representation = decode(said["family"]), decode(said["representation"])
    net = family.network()
    load_weights(net, load_file(folder / "model.safetensors"))
    return family, representation, net.eval()


def answer(family: Any, net: torch.nn.Module, question: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a family's network answers to columns of arrays."""
    columns = {name: torch.from_numpy(np.array(value)) for name, value in question.items()}
    count = len(next(iter(columns.values())))
    batch = {**columns, "index": torch.arange(count), "row": torch.arange(count), "id": torch.arange(count)}
    with torch.no_grad():
        return {name: value.cpu().numpy() for name, value in family.predict(net, batch).items()}


class Served(PythonModel):
    """Answers as the family's `predict` does."""

    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["model.json"]).parent
        self.family, self.representation, self.net = opened(folder)

    def predict(self, context: Any, model_input: Any, params: Any = None) -> dict[str, np.ndarray]:
        if not isinstance(model_input, Mapping):
            (column,) = self.representation.columns()
            model_input = {column: np.asarray(model_input)}
        return answer(self.family, self.net, model_input)


set_model(Served())

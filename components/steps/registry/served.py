"""
A registered model's code: MLflow runs this file where the model is loaded. Weights are safetensors, never a pickle.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from components.steps.registry.inference import answer, opened


class Served(PythonModel):
    """Answers as the family's `predict` does."""

    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["model.json"]).parent
        self.family, self.representation, self.net = opened(folder)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        # without annotations: MLflow would read them as a schema of its own
        if not isinstance(model_input, Mapping):
            (column,) = self.representation.columns()
            model_input = {column: np.asarray(model_input)}
        return answer(self.family, self.net, model_input)


set_model(Served())
